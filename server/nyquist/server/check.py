"""nyquist check-repository: options and models as the server would take them, without serving.

settings -> tokens, certificates -> each model: manifest, checksums, config, session, warm
-> table or JSON
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from google.protobuf import text_format
from google.protobuf.json_format import MessageToDict
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nyquist.server.artifact.graph_description import GraphDescription
from nyquist.server.artifact.layout import model_folders, read_config_file
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
    folders = model_folders(*settings.repository)
    if not folders:
        where = ", ".join(map(str, settings.repository))
        raise StartError(f"{where} holds no model: no NAME/config.pbtxt")
    found = [_open(folder, execution, settings.link_folder) for folder in folders]
    loaded = [one for one in found if isinstance(one, LoadedModel)]
    status = GOOD if len(loaded) == len(folders) else UNSERVABLE
    if as_json:
        sys.stdout.write(json.dumps(_document(folders, found, settings), indent=2) + "\n")
        return status
    console.print(_table(folders, found))
    for folder, one in zip(folders, found, strict=True):
        if isinstance(one, str):
            console.print(f"[red]{escape(folder.name)} is not served:[/] {escape(one)}")
    for one in loaded:
        if isinstance(one.described, GraphDescription):
            text = text_format.MessageToString(one.config, as_one_line=True)
            console.print(f"{escape(one.described.name)} has no manifest: {escape(text)}")
    who = ", ".join(f"{name}: {answer}" for name, answer in authorizer.in_words().items())
    console.print(f"TLS {tls_in_words(settings)}; who may call: {who}")
    if line := exposure(settings.host, settings):
        console.print(f"[yellow]{escape(line)}[/]")
    _print_limits(loaded, settings, console)
    console.print(f"{len(loaded)} of {len(folders)} models can be served")
    return status


def _open(folder: Path, execution: Execution, links: Sequence[Path]) -> LoadedModel | str:
    try:
        return load_model(folder, execution, config_file=read_config_file(folder, links))
    except StartError:
        raise
    except NyquistError as error:
        return str(error)


def _table(folders: list[Path], found: list[LoadedModel | str]) -> Table:
    table = Table(
        "model", "version", "provider", "input", "batch", "load", box=SIMPLE_HEAD, pad_edge=False
    )
    for folder, one in zip(folders, found, strict=True):
        if isinstance(one, str):
            table.add_row(escape(folder.name), "", "[red]not served[/]")
            continue
        table.add_row(
            escape(folder.name),
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


def _document(
    folders: list[Path], found: list[LoadedModel | str], settings: Settings
) -> dict[str, object]:
    loaded = [one for one in found if isinstance(one, LoadedModel)]
    return {
        "models": [
            {"model": folder.name, "error": one}
            if isinstance(one, str)
            else {
                "model": folder.name,
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
            for folder, one in zip(folders, found, strict=True)
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
