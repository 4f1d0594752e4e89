"""nyquist status: what a live server serves.

RepositoryIndex, ModelMetadata, metrics -> table, once or live, or JSON
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext, suppress
from dataclasses import asdict, dataclass
from functools import partial
from time import sleep
from typing import NoReturn

import grpc
from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from nyquist.client.client import Client, IndexEntry
from nyquist.client.load import Reading, load, read
from nyquist.server.wire.connection import DEFAULT_TARGET, chosen_connection

METRICS_PORT = 8002
USUAL = f"localhost:{METRICS_PORT}"
READY, NOT_READY = 0, 1


@dataclass(frozen=True)
class ServedVersion:
    """One version of a model, as the server describes it.

    Attributes:
        model: its name.
        version: of it; empty where the server does not say.
        state: READY, LOADING, UNAVAILABLE, ...
        reason: why it is not ready; empty if it is.
        provider: execution provider that runs it; empty if none does, or the server does not say.
        datatype: of the input, as the protocol spells it; empty if it is not ready.
        shape: of one picture.
    """

    model: str
    version: str
    state: str
    reason: str = ""
    provider: str = ""
    datatype: str = ""
    shape: tuple[int, ...] = ()


def named_models(client: Client, models: Sequence[str]) -> list[ServedVersion]:
    """Ask for the latest version of each of these models.

    Raises:
        grpc.RpcError: a call failed.
        ValueError: the server has no such model; the message has the nearest name.
    """
    entries: list[IndexEntry] = []
    for name in models:
        entries += [IndexEntry(name, "", "READY", "")] if client.ready(name) else _not(client, name)
    return _described(client, entries)


def _not(client: Client, name: str) -> list[IndexEntry]:
    """Return what is known of a model that is not ready."""
    try:
        known = client.index()
    except grpc.RpcError:  # the server keeps its index
        return [IndexEntry(name, "", "UNAVAILABLE", "")]
    found = [entry for entry in known if entry.name == name]
    if not found:
        client.look_up(name)  # raises, and says which there are
    return found or [IndexEntry(name, "", "UNAVAILABLE", "")]


def served_versions(client: Client) -> list[ServedVersion]:
    """Ask for every version that the server knows of. Raises grpc.RpcError."""
    return _described(client, client.index())


def _described(client: Client, entries: Sequence[IndexEntry]) -> list[ServedVersion]:
    found = []
    for entry in entries:
        if entry.state != "READY":
            found.append(ServedVersion(entry.name, entry.version, entry.state, entry.reason))
            continue
        about = client.describe(entry.name, entry.version)
        found.append(
            ServedVersion(
                model=entry.name,
                version=about.version,
                state=entry.state,
                provider=about.provider,
                datatype=about.datatype,
                shape=about.shape,
            )
        )
    return found


@dataclass(frozen=True)
class Look:
    """A server at one moment.

    Attributes:
        ready: whether it is.
        served: what it serves.
        unlisted: why it does not list its models; empty if it does.
        reading: of its metrics; None where they are not known.
    """

    ready: bool
    served: Sequence[ServedVersion]
    unlisted: str
    reading: Reading | None


def look_at(
    client: Client, models: Sequence[str], read_metrics: Callable[[], Reading | None]
) -> Look:
    """Ask a server how it is.

    Raises:
        grpc.RpcError: a call failed.
        ValueError: one of `models` is not there, or the metrics are not.
    """
    ready, unlisted = client.ready(), ""
    try:
        served = named_models(client, models) if models else served_versions(client)
    except grpc.RpcError as error:
        if models or not _withheld(error):
            raise
        served, unlisted = [], error.code().name
    return Look(ready, served, unlisted, read_metrics())


def run(options: argparse.Namespace) -> int:
    """Print what a server serves, once or again and again; return the exit status."""
    try:
        connection = chosen_connection(options)
        metrics = _metrics(options)
        with Client(connection) as client:
            look = partial(look_at, client, options.model, metrics)
            if options.watch:
                _watch(look, connection.explain, options)
            now = look()
    except grpc.RpcError as error:
        reason = connection.explain(error)
    except ValueError as error:
        reason = str(error)
    else:
        _show(options, now)
        good = now.ready and all(one.state == "READY" for one in now.served)
        return READY if good else NOT_READY
    sys.stderr.write(f"nyquist status: error: {reason}\n")
    return NOT_READY


def _metrics(options: argparse.Namespace) -> Callable[[], Reading | None]:
    """Return what reads the metrics: where they are said to be, else at the usual port, if there.

    Raises:
        ValueError: what is said is no HOST:PORT.
    """
    host, _, port = (options.metrics or options.target).rpartition(":")
    if options.metrics:
        if not host or not port.isdecimal():
            raise ValueError(f"--metrics is HOST:PORT, such as {USUAL}, got {options.metrics!r}")
        return partial(read, host.strip("[]"), int(port))
    if port != DEFAULT_TARGET.rpartition(":")[2]:
        return lambda: None

    def if_there() -> Reading | None:
        with suppress(ValueError):
            return read(host.strip("[]"), METRICS_PORT)
        return None

    return if_there


def _withheld(error: grpc.RpcError) -> bool:
    """Say whether a server that answers keeps its index; Triton calls that UNAVAILABLE."""
    return error.code() is grpc.StatusCode.UNIMPLEMENTED or "restricted" in (error.details() or "")


def _watch(
    look: Callable[[], Look],
    explain: Callable[[grpc.RpcError], str],
    options: argparse.Namespace,
) -> NoReturn:
    """Show a server until Ctrl-C: in place at a terminal, one table after another elsewhere."""
    console, before = Console(highlight=False, soft_wrap=True), None
    at_terminal = Live(console=console, auto_refresh=False)
    with at_terminal if console.is_terminal else nullcontext() as live:
        while True:
            try:
                now = look()
            except grpc.RpcError as error:
                before, shown = None, Group(Text(explain(error)))
            else:
                shown = Group(*_rows(options.target, now, before))
                before = now.reading
            if live is None:
                console.print(shown)
            else:
                live.update(shown, refresh=True)
            sleep(options.watch)


def _show(options: argparse.Namespace, now: Look) -> None:
    if options.json:
        document = {
            "target": options.target,
            "ready": now.ready,
            "models": [asdict(one) | _figures(one, now) for one in now.served],
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(*_rows(options.target, now, None), sep="\n")


def _rows(target: str, now: Look, before: Reading | None) -> Iterator[RenderableType]:
    """Yield what is shown: the table, why models are not ready, and whether the server is."""
    counted = now.reading is not None
    rate = "requests/s" if before else "requests"
    columns = ("model", "version", "state", "provider", "input", *((rate, "p99") * counted))
    table = Table(*columns, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in table.columns:
        column.no_wrap = True
    for one in now.served:
        taken = f"{one.datatype} {'x'.join(map(str, one.shape))}".strip()
        provider = one.provider.removesuffix("ExecutionProvider")
        figures = _in_words(one, now.reading, before) if now.reading else ()
        state = one.state or "not loaded"
        table.add_row(escape(one.model), one.version, state, provider, taken, *figures)
    yield table
    for one in now.served:
        if one.reason:
            yield Text(f"{one.model} version {one.version}: {one.reason}")
    if now.unlisted:
        yield Text(f"it does not list its models ({now.unlisted}); name them with --model")
    yield Text(f"{target} is {'ready' if now.ready else 'not ready'}")


def _in_words(one: ServedVersion, now: Reading, before: Reading | None) -> tuple[str, str]:
    found = load((one.model, one.version), now, before)
    if found is None:
        return "", ""
    count = str(found.requests) if found.rate is None else f"{found.rate:.1f}"
    return count, "" if found.p99_s is None else f"{found.p99_s * 1000:.3g} ms"


def _figures(one: ServedVersion, now: Look) -> dict[str, object]:
    found = load((one.model, one.version), now.reading) if now.reading else None
    return {"requests": found.requests, "p99_s": found.p99_s} if found else {}
