"""nyquist companion: prove that a live server computes what PyTorch computes."""

import argparse
import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import grpc
import torch
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console
from rich.progress import Progress

from nyquist.client.client import Client
from nyquist.client.told import told_by
from nyquist.companion.app import Companion
from nyquist.companion.command_line import make_parser
from nyquist.companion.references.given import read_reference
from nyquist.companion.references.network import Reference
from nyquist.companion.references.repository import References
from nyquist.companion.references.subjects import Subjects
from nyquist.companion.service.check import (
    Follow,
    Validates,
    check_model,
    misses_of,
    report_of,
)
from nyquist.companion.service.remote import RemoteValidation
from nyquist.companion.service.validation import Validation
from nyquist.companion.settings import Settings, read_settings
from nyquist.companion.tables import (
    consistency_table,
    description_table,
    latency_table,
    row_table,
    steadiness_table,
)
from nyquist.server.front.lifecycle import run_until_signal
from nyquist.server.telemetry.logs import configure_logs
from nyquist.server.wire.connection import Connection, WrongConnection, chosen_connection
from nyquist.server.wire.errors import NyquistError, unreadable
from nyquist.server.wire.pb import validation_pb2 as pb

Options = argparse.Namespace
T = TypeVar("T")
NO_COMPANION = "what listens there is no companion; its gRPC usually has port 8003"


def check(options: Options) -> int:
    """Check every model in turn; return 0 if all hold what their manifests promise."""
    rows, missing = asked(options, check_model)
    misses = [(row.parity.graph.model_name, miss) for row in rows for miss in row.misses]
    if options.json:
        parts = ("parity", "consistency", "latency")
        print_json(
            [
                {part: as_json(getattr(row, part)) for part in parts} | {"misses": row.misses}
                for row in rows
            ]
        )
        return status(misses, missing)
    console = Console()
    console.print(row_table(rows))
    console.print(
        "parity: largest difference of a logit, as a share of the logits' spread\n"
        "ms: median of one picture"
    )
    console.print(steadiness_table(rows))
    console.print(
        "one pixel: windows of larger pictures, a pixel apart, with one answer\n"
        "circular: places around the frame with one answer\n"
        "both: of the build, over its test pictures\n"
        "now: circular, over the reference pictures of the artifact"
    )
    print_lone([row.parity.graph for row in rows])
    print_rounding([row.parity for row in rows])
    print_misses(misses)
    return status(misses, missing)


def consistency(options: Options) -> int:
    """Move the pictures of every model."""

    def ask(validation: Validates, subject: pb.Subject, follow: Follow) -> pb.ConsistencyReport:
        request = pb.CheckShiftConsistencyRequest(
            subject=subject, protocols=options.protocol, pairs=options.pairs, seed=options.seed
        )
        return report_of(validation.check_shift_consistency(request), follow)

    reports, missing = asked(options, ask)
    misses = [(one.graph.model_name, miss) for one in reports for miss in misses_of(one)]
    if options.json:
        print_json([as_json(report) for report in reports])
    else:
        Console().print(consistency_table(reports))
        print_lone([one.graph for one in reports])
        print_misses(misses)
    return status(misses, missing)


def latency(options: Options) -> int:
    """Time both paths of every model."""

    def ask(validation: Validates, subject: pb.Subject, follow: Follow) -> pb.LatencyReport:
        request = pb.CompareLatencyRequest(
            subject=subject, batch_sizes=options.batch_size, runs=options.runs
        )
        return report_of(validation.compare_latency(request), follow)

    reports, missing = asked(options, ask)
    if options.json:
        print_json([as_json(report) for report in reports])
    else:
        Console().print(latency_table(reports))
        print_lone([one.graph for one in reports])
    return status((), missing)


def describe(options: Options) -> int:
    """Say what every model is."""

    def ask(validation: Validates, subject: pb.Subject, _: Follow) -> pb.ModelDescription:
        (description,) = validation.describe_model(pb.DescribeModelRequest(subject=subject))
        return description

    descriptions, missing = asked(options, ask)
    if options.json:
        print_json([as_json(description) for description in descriptions])
    else:
        for description in descriptions:
            Console().print(description_table(description))
    return status((), missing)


def serve(options: Options) -> int:
    """Watch until SIGTERM or Ctrl-C; return the exit status."""
    flags = {name: value for name, value in vars(options).items() if name in Settings.model_fields}
    settings = read_settings(flags)
    configure_logs(settings.log_level, settings.log_format)
    os.nice(settings.nice)
    asyncio.run(watch(settings))
    return 0


async def watch(settings: Settings) -> None:
    """Watch until a signal comes; a second one ends the process where it stands.

    Raises:
        StartError: the companion cannot start.
    """
    await run_until_signal(Companion(settings), settings.drain_s, settings.grace_s)


def status(misses: Sequence[object], missing: Sequence[str]) -> int:
    """Return the exit status: 1 where something is missed, 2 where some could not be asked."""
    if misses:
        return 1
    return 2 if missing else 0


def asked(
    options: Options, ask: Callable[[Validates, pb.Subject, Follow], T]
) -> tuple[list[T], Sequence[str]]:
    """Ask the same of each model, with a bar at a terminal.

    Returns:
        The answers, and the models of the repository that are not served, which are told.
    """
    answers, console = [], Console(stderr=True)
    with (
        connected(options) as (validation, names, missing),
        Progress(console=console, transient=True, disable=not console.is_terminal) as progress,
    ):
        bar = progress.add_task("", total=None)
        for name in names:
            progress.update(bar, description=name)

            def follow(done: int, total: int) -> None:
                progress.update(bar, completed=done, total=total)

            answers.append(ask(validation, subject_of(options, name), follow))
    if missing:
        console.print(f"{options.prog}: {missing_words(options, missing, names)}", soft_wrap=True)
    return answers, missing


def missing_words(options: Options, missing: Sequence[str], served: Sequence[str]) -> str:
    """Say which models of the repository are not served, and which are."""
    target = chosen_connection(options).target
    of = f"{', '.join(missing)} of {options.repository}"
    return f"{of}: not served at {target}, which serves {', '.join(served) or 'none of it'}"


@contextmanager
def connected(options: Options) -> Iterator[tuple[Validates, Sequence[str], Sequence[str]]]:
    """Open what answers, and name the models that it is asked about, and those not served.

    Raises:
        ArtifactError: there is no repository, and no model is named.
        ValueError: no model of the repository is served.
    """
    if options.companion:
        if options.reference:
            raise ValueError("--reference is read here, where --companion asks elsewhere: give one")
        with RemoteValidation(way(options)) as remote:
            yield remote, options.model or remote.models(), ()
        return
    references = References(options.repository)
    given = options.reference and read_reference(options.reference, options.output or "")
    with Client(chosen_connection(options), source="probe") as client:
        for name in options.model:
            client.look_up(name)
        subjects = Subjects(client, references, told_by(vars(options)), options.model, given)
        names = {name: client.serves(name) for name in subjects.names()}
        served, missing = ([name for name in names if names[name] is one] for one in (True, False))
        if missing and not served:
            raise ValueError(missing_words(options, missing, served))
        yield Validation(subjects, any_graph=True), served, missing


def subject_of(options: Options, name: str) -> pb.Subject:
    """Return a model, with the caller's pictures if there are any."""
    if not options.pictures:
        return pb.Subject(model_name=name)
    with Client(chosen_connection(options)) as client:
        model = client.look_up(name).completed(told_by(vars(options)))
    pictures = model.read_pictures(options.pictures)
    sent = pb.Pictures(datatype=model.datatype, shape=pictures.shape, raw=pictures.tobytes())
    return pb.Subject(model_name=name, pictures=sent)


def as_json(report: Message) -> dict[str, Any]:
    """Return a report as plain values, by the names in the .proto."""
    values = MessageToDict(
        report, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    for field in report.DESCRIPTOR.fields:
        if field.type == field.TYPE_UINT64:  # protobuf's own JSON has them as strings
            values[field.name] = getattr(report, field.name)
    return values


def print_json(value: object) -> None:
    """Print a value for other programs."""
    sys.stdout.write(json.dumps(value, indent=2) + "\n")


def print_lone(graphs: Iterable[pb.Graph]) -> None:
    """Print a line for each model whose figures "of torch" are those of an ONNX file."""
    for graph in graphs:
        if graph.reference not in ("", Reference.words):
            words = f"{graph.model_name}: held against an {graph.reference}"
            Console().print(words, highlight=False, soft_wrap=True)


def print_rounding(reports: Iterable[pb.ParityReport]) -> None:
    """Print a line for each model whose answers move with the batch that they ride in."""
    for report in reports:
        if report.built_batch_error:
            words = f"{report.built_batch_error:.1e} of the spread, as the build measured: rounding"
            line = f"{report.graph.model_name}: an answer moves with its batch by up to {words}"
            Console().print(line, highlight=False, soft_wrap=True)


def print_misses(misses: Sequence[tuple[str, str]]) -> None:
    """Print a line for each tolerance that is missed."""
    for name, miss in misses:
        Console().print(f"[red]{name}[/red]: {miss}", highlight=False, soft_wrap=True)


COMMANDS: dict[str, Callable[[Options], int]] = {
    "check": check,
    "consistency": consistency,
    "latency": latency,
    "describe": describe,
    "serve": serve,
}


def run(options: Options) -> int:
    """Do what a command of the companion asks for; return the exit status."""
    # The server has the same cores. Two threads of PyTorch spin at every layer until the second one
    # gets a core: beside one busy process EfficientNet-Lite0 took 25 times as long as with one.
    torch.set_num_threads(1)
    try:
        return COMMANDS[options.command](options)
    except OSError as error:
        reason = unreadable(error) if error.filename else str(error)
    except (NyquistError, WrongConnection, ValueError) as error:
        reason = str(error)
    except grpc.RpcError as error:
        reason = way(options).explain(error)
        if options.companion and error.code() is grpc.StatusCode.UNIMPLEMENTED:
            reason = f"{options.companion}: {NO_COMPANION}"
    errors = Console(stderr=True)
    words = f"{options.prog}: error: {reason}"
    errors.print(words, highlight=False, markup=False, soft_wrap=True)  # [cpu] is no style
    return 2


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `python -m nyquist.companion`; return the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    try:
        return run(make_parser().parse_args(words))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def way(options: Options) -> Connection:
    """Return the connection that a command was given, to the companion or to the server."""
    connection = chosen_connection(options)
    return replace(connection, target=options.companion or connection.target)


if __name__ == "__main__":
    sys.exit(main())
