"""nyquist status: what a live server serves.   RepositoryIndex, ModelMetadata -> table or JSON."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial

import grpc
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nyquist.client.client import Client, IndexEntry
from nyquist.server.wire.connection import chosen_connection

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
    """Ask for the latest version of each of these models. Raises grpc.RpcError."""
    states = [(name, "READY" if client.ready(name) else "UNAVAILABLE") for name in models]
    return _described(client, [IndexEntry(name, "", state, "") for name, state in states])


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


def run(options: argparse.Namespace) -> int:
    """Print what a server serves; return the exit status."""
    try:
        connection = chosen_connection(options)
        with Client(connection) as client:
            ready = client.ready()
            try:
                find = (
                    partial(named_models, models=options.model)
                    if options.model
                    else served_versions
                )
                served, unlisted = find(client), ""
            except grpc.RpcError as error:
                if options.model or not _withheld(error):
                    raise
                served, unlisted = [], error.code().name
    except grpc.RpcError as error:
        reason = connection.explain(error)
    except ValueError as error:
        reason = str(error)
    else:
        _show(options, served, ready=ready)
        if unlisted and not options.json:
            sys.stdout.write(f"it does not list its models ({unlisted}); name them with --model\n")
        return READY if ready and all(one.state == "READY" for one in served) else NOT_READY
    sys.stderr.write(f"nyquist status: error: {reason}\n")
    return NOT_READY


def _withheld(error: grpc.RpcError) -> bool:
    """Say whether a server that answers keeps its index; Triton calls that UNAVAILABLE."""
    return error.code() is grpc.StatusCode.UNIMPLEMENTED or "restricted" in (error.details() or "")


def _show(options: argparse.Namespace, served: Sequence[ServedVersion], *, ready: bool) -> None:
    if options.json:
        document = {
            "target": options.target,
            "ready": ready,
            "models": [asdict(one) for one in served],
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return
    console = Console(highlight=False, soft_wrap=True)
    table = Table("model", "version", "state", "provider", "input", box=SIMPLE_HEAD, pad_edge=False)
    for one in served:
        taken = f"{one.datatype} {'x'.join(map(str, one.shape))}".strip()
        provider = one.provider.removesuffix("ExecutionProvider")
        table.add_row(escape(one.model), one.version, one.state, provider, taken)
    console.print(table)
    for one in served:
        if one.reason:
            console.print(f"{escape(one.model)} version {one.version}: {escape(one.reason)}")
    console.print(f"{options.target} is {'ready' if ready else 'not ready'}")
