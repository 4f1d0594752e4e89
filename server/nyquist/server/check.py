"""nyquist-server check: options and models as the server would take them, without serving.

settings -> tokens, certificates -> each model: manifest, checksums, config, session, warm -> table
"""

from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nyquist.server.artifact.layout import model_folders
from nyquist.server.front.access import exposure, make_authorizer
from nyquist.server.front.tls import make_credentials, tls_in_words
from nyquist.server.front.transport import request_bytes, request_limit, too_small_for
from nyquist.server.runtime.engine import Execution
from nyquist.server.serving.loading import LoadedModel, load_model
from nyquist.server.settings import PREFIX, Settings
from nyquist.server.wire.errors import NyquistError, StartError

GOOD, UNSERVABLE = 0, 2


def check(settings: Settings) -> int:
    """Print what would be served and how; return 0, or 2 if a model cannot be served.

    Raises:
        StartError: an option is wrong: the server would not start.
        ArtifactError: there is no repository.
    """
    console = Console(highlight=False, soft_wrap=True)
    authorizer = make_authorizer(settings, settings.host, PREFIX)
    make_credentials(settings)
    execution = Execution(settings.provider, settings.require_cuda, settings.threads)
    folders = model_folders(settings.repository)
    if not folders:
        raise StartError(f"{settings.repository} holds no model: no NAME/config.pbtxt")
    found = [_open(folder, execution) for folder in folders]
    loaded = [one for one in found if isinstance(one, LoadedModel)]
    console.print(_table(folders, found))
    for folder, one in zip(folders, found, strict=True):
        if isinstance(one, str):
            console.print(f"[red]{escape(folder.name)} is not served:[/] {escape(one)}")
    who = ", ".join(f"{name}: {answer}" for name, answer in authorizer.in_words().items())
    console.print(f"TLS {tls_in_words(settings)}; who may call: {who}")
    if line := exposure(settings.host, settings):
        console.print(f"[yellow]{escape(line)}[/]")
    _print_limits(loaded, settings, console)
    console.print(f"{len(loaded)} of {len(folders)} models can be served")
    return GOOD if len(loaded) == len(folders) else UNSERVABLE


def _open(folder: Path, execution: Execution) -> LoadedModel | str:
    try:
        return load_model(folder, execution)
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
        taken = one.manifest.input
        table.add_row(
            escape(folder.name),
            str(one.manifest.version),
            one.engines[0].provider.removesuffix("ExecutionProvider"),
            f"{taken.datatype} {'x'.join(map(str, taken.shape))}",
            str(one.limits.max_batch_size),
            f"{one.load_s:.2f} s",
        )
    return table


def _print_limits(loaded: list[LoadedModel], settings: Settings, console: Console) -> None:
    sizes = {
        one.manifest.name: request_bytes(one.manifest, one.limits.max_batch_size) for one in loaded
    }
    limit = request_limit(max(sizes.values(), default=0), settings)
    console.print(f"largest request {limit} bytes, largest answer {settings.max_message_bytes}")
    for one in loaded:
        if line := too_small_for(one.manifest, one.limits.max_batch_size, limit):
            console.print(f"[yellow]{escape(line)}[/]")
