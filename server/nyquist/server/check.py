"""nyquist check-repository: options and models as the server would take them, without serving.

settings -> tokens, certificates -> each model: manifest, checksums, config, session, warm
-> table or JSON
"""

import asyncio
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import text_format
from google.protobuf.json_format import MessageToDict
from prometheus_client import CollectorRegistry
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nyquist.server.app import local_folders, make_sources
from nyquist.server.artifact.graph_description import GraphDescription
from nyquist.server.artifact.layout import (
    ConfigFile,
    model_folders,
    passed_over,
    read_config_file,
)
from nyquist.server.front.access import exposure, make_authorizer
from nyquist.server.front.tls import make_credentials, tls_in_words
from nyquist.server.front.transport import request_bytes, request_limit, too_small_for
from nyquist.server.runtime.session_plan import Execution
from nyquist.server.serving.loading import LoadedModel, load_model
from nyquist.server.settings import PREFIX, Settings
from nyquist.server.wire.errors import NyquistError, StartError
from nyquist.server.wire.signature import DYNAMIC

GOOD, UNSERVABLE = 0, 2


def check(settings: Settings, *, as_json: bool = False) -> int:
    """Print what would be served and how; return 0, or 2 if a model cannot be served.

    Raises:
        StartError: an option is wrong: the server would not start.
        ArtifactError: there is no repository.
    """
    console = Console(highlight=False, soft_wrap=True)
    authorizer = make_authorizer(settings, settings.host, PREFIX)
    make_credentials(settings)
    execution = Execution(settings.provider, settings.require_cuda, settings.threads)
    if sources := make_sources(settings, CollectorRegistry()):
        asyncio.run(sources.start(settings.load))
    folders = model_folders(*local_folders(settings))
    if not folders:
        where = ", ".join(map(str, settings.repository))
        raise StartError(f"{where} holds no model: no NAME/config.pbtxt")
    found = [one for folder in folders for one in _opened(folder, execution, settings.link_folder)]
    loaded = [one.outcome for one in found if isinstance(one.outcome, LoadedModel)]
    status = GOOD if len(loaded) == len(found) else UNSERVABLE
    if as_json:
        sys.stdout.write(json.dumps(_document(found, settings), indent=2) + "\n")
        return status
    console.print(_table(found))
    _complain(found, folders, console)
    who = ", ".join(f"{name}: {answer}" for name, answer in authorizer.in_words().items())
    console.print(f"TLS {tls_in_words(settings)}; who may call: {who}")
    if line := exposure(settings.host, settings):
        console.print(f"[yellow]{escape(line)}[/]")
    _print_limits(loaded, settings, console)
    served = {one.described.name for one in loaded}
    console.print(f"{len(served)} of {len(folders)} models can be served")
    return status


def _complain(found: "list[_Tried]", folders: list[Path], console: Console) -> None:
    """Say of each model what is not served, what was made up for it, and what is passed over."""
    for one in found:
        if isinstance(one.outcome, str):
            what = f"{one.model} version {one.version}" if one.version else one.model
            console.print(f"[red]{escape(what)} is not served:[/] {escape(one.outcome)}")
        elif isinstance(one.outcome.described, GraphDescription):
            text = text_format.MessageToString(one.outcome.config, as_one_line=True)
            console.print(f"{escape(one.model)} has no manifest: {escape(text)}")
    for folder in folders:
        for name in passed_over(folder):
            console.print(f"[yellow]{escape(f'{folder.name}/{name}')} is no version[/]")


@dataclass(frozen=True)
class _Tried:
    """A version that the server would open, or a model of which it knows none: it, or why not."""

    model: str
    version: int | None
    outcome: LoadedModel | str


def _opened(folder: Path, execution: Execution, links: Sequence[Path]) -> list[_Tried]:
    """Open every version that a model's policy asks for, as a start does."""
    try:
        file = read_config_file(folder, links)
        wanted = file.wanted(folder)
    except NyquistError as error:
        return [_Tried(folder.name, None, str(error))]
    return [
        _Tried(folder.name, number, _open(folder, execution, number, file)) for number in wanted
    ]


def _open(folder: Path, execution: Execution, version: int, file: ConfigFile) -> LoadedModel | str:
    try:
        return load_model(folder, execution, version, file)
    except StartError:
        raise
    except NyquistError as error:
        return str(error)


def _table(found: list[_Tried]) -> Table:
    table = Table(
        "model", "version", "provider", "input", "batch", "load", box=SIMPLE_HEAD, pad_edge=False
    )
    for tried in found:
        one = tried.outcome
        if isinstance(one, str):
            table.add_row(escape(tried.model), str(tried.version or ""), "[red]not served[/]")
            continue
        table.add_row(
            escape(tried.model),
            str(one.described.version),
            one.engines[0].provider.removesuffix("ExecutionProvider"),
            ", ".join(
                f"{taken.datatype} {'x'.join(map(str, taken.shape))}"
                for taken in one.described.inputs
            ),
            _batch(one),
            f"{one.load_s:.2f} s",
        )
    return table


def _batch(one: LoadedModel) -> str:
    """Return the largest batch; of a model without one the size of its first axis."""
    if one.config.max_batch_size:
        return str(one.config.max_batch_size)
    batch = one.described.inputs[0].batch
    return "any" if batch == DYNAMIC else str(batch or "none")


def _document(found: list[_Tried], settings: Settings) -> dict[str, object]:
    loaded = [one.outcome for one in found if isinstance(one.outcome, LoadedModel)]
    return {
        "models": [
            {"model": tried.model, "version": tried.version, "error": one}
            if isinstance(one := tried.outcome, str)
            else {
                "model": tried.model,
                "version": one.described.version,
                "provider": one.engines[0].provider,
                "inputs": [
                    {"name": taken.name, "datatype": taken.datatype, "shape": taken.shape}
                    for taken in one.described.inputs
                ],
                "max_batch_size": one.config.max_batch_size,
                "config": MessageToDict(one.config, preserving_proto_field_name=True),
                "load_s": one.load_s,
            }
            for tried in found
        ],
        "largest_request_bytes": _largest_request(loaded, settings),
        "largest_answer_bytes": settings.max_message_bytes,
    }


def _largest_request(loaded: list[LoadedModel], settings: Settings) -> int:
    sizes = [request_bytes(one.described, one.limits.max_batch_size) for one in loaded]
    return request_limit(max(sizes, default=0), settings)


def _print_limits(loaded: list[LoadedModel], settings: Settings, console: Console) -> None:
    limit = _largest_request(loaded, settings)
    console.print(f"largest request {limit} bytes, largest answer {settings.max_message_bytes}")
    for one in loaded:
        if line := too_small_for(one.described, one.limits.max_batch_size, limit):
            console.print(f"[yellow]{escape(line)}[/]")
