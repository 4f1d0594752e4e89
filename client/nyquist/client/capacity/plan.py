"""nyquist plan: calibrate HOST:PORT -> profile -> replicas -> table, JSON, plot."""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from math import inf
from pathlib import Path
from typing import Any

import grpc
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from nyquist.client.capacity.answer import (
    MOST_SEEDS,
    Answer,
    Effort,
    Limits,
    Tell,
    Unreachable,
    meanwhile,
    needed,
    smallest,
    steady,
    without,
)
from nyquist.client.capacity.arrivals import Arrivals, Bursty, Poisson, Trace, read_trace
from nyquist.client.capacity.calibrate import Replica, calibrate
from nyquist.client.capacity.command_line import TRAFFIC
from nyquist.client.capacity.fleet import Incident, Rollout, Scenario, Trial, ZoneFailure
from nyquist.client.capacity.replica_profile import read_profile, write_profile
from nyquist.server.wire.connection import chosen_connection

HELD, MISSED, WRONG = 0, 1, 2
TITLES = ("", "answer", "busy", "batch", "p50 ms", "p99 ms", "p99.9 ms", "failed")
WORDS = {"zone": ("one zone gone", "as it goes"), "rollout": ("fewest while rolling", "rolling")}


@dataclass(frozen=True)
class Plan:
    """The answer.

    Attributes:
        replicas: that are needed, or were asked about.
        held: whether they hold the limits, whatever happens.
        cases: what they do, by words for the case.
        tries: of the search.
        trials: of each incident one, for a plot.
    """

    replicas: int
    held: bool
    cases: dict[str, Answer]
    tries: Sequence[Answer]
    trials: dict[str, Trial]


def run(options: argparse.Namespace) -> int:
    """Calibrate or answer; return the exit status."""
    work = _calibrate if options.command == "calibrate" else _replicas
    try:
        return work(options)
    except ValueError as error:
        sys.stderr.write(f"nyquist plan: error: {error}\n")
    return WRONG


def _calibrate(options: argparse.Namespace) -> int:
    """Measure a replica and write its profile."""
    connection = chosen_connection(options)
    log = Console(stderr=True, highlight=False, soft_wrap=True)
    if not options.output.absolute().parent.is_dir():
        raise ValueError(f"--output {options.output}: there is no such folder")
    try:
        replica = Replica(connection, options.model)
        try:
            profile = calibrate(
                replica,
                seconds=options.seconds,
                device=options.device,
                start_s=options.start_s,
                tell=log.print,
            )
        finally:
            replica.close()
    except grpc.RpcError as error:
        raise ValueError(connection.explain(error)) from error
    write_profile(profile, options.output)
    if profile.disturbed:
        log.print(
            "warning: equal requests took very unequal times; the machine, or the way to it, has "
            "other work, and what is planned with this profile will be off"
        )
    times = ", ".join(f"{size}: {1e3 * value:.3g}" for size, value in profile.run_s.items())
    log.print(
        f"{options.output}: runs in ms by pictures {{{times}}}, {1e3 * profile.loop_s:.3g} ms "
        f"of the event loop and {1e3 * profile.wire_s:.3g} ms of waiting a request; at most "
        f"{profile.most_a_second:.4g} requests a second"
    )
    return HELD


def _replicas(options: argparse.Namespace) -> int:
    """Answer how many replicas are needed, or what some do."""
    scenario, limits = _scenario(options), Limits(options.p99_ms / 1e3, options.unanswered)
    if options.seeds > MOST_SEEDS:
        raise ValueError(f"--seeds is {options.seeds}, most is {MOST_SEEDS}")
    effort = Effort(options.requests, options.seeds, options.simulated)
    incidents = _incidents(options)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    with console.status("simulating") as status:
        try:
            plan = make_plan(
                scenario,
                limits,
                effort,
                incidents,
                status.update,
                search=options.replicas is None,
            )
        except Unreachable as error:
            sys.stderr.write(f"nyquist plan: {error}\n")
            return MISSED
    if options.plot is not None:
        from nyquist.client.capacity.plots import draw

        draw(plan.tries, plan.trials, limits, options.plot)
    if options.json:
        sys.stdout.write(json.dumps(document(plan), indent=2) + "\n")
    else:
        show(plan, limits)
    return HELD if plan.held else MISSED


def _scenario(options: argparse.Namespace) -> Scenario:
    """Return what is to be simulated, of as many replicas as are asked about; else of one.

    Raises:
        ValueError: an option contradicts another, or a file cannot be used.
    """
    profile = read_profile(options.profile)
    arrivals = _arrivals(options)
    rate = options.rate or (arrivals.rate if isinstance(arrivals, Trace) else None)
    if rate is None:
        raise ValueError("--rate is missing: requests a second, such as 2000")
    most = profile.batching.max_batch_size
    if options.pictures > most:
        raise ValueError(f"--pictures is {options.pictures}, {profile.model} takes at most {most}")
    return Scenario(
        profile,
        replicas=options.replicas or 1,
        rate=rate,
        seconds=0.0,
        arrivals=arrivals,
        balancing=options.balancing,
        balancers=options.balancers,
        pictures=options.pictures,
        deadline_s=options.deadline_ms / 1e3 if options.deadline_ms else inf,
    )


def _arrivals(options: argparse.Namespace) -> Arrivals:
    if options.arrivals not in TRAFFIC:
        return read_trace(Path(options.arrivals), options.rate)
    return Bursty(*options.burst) if options.arrivals == "bursty" else Poisson()


def _incidents(options: argparse.Namespace) -> list[Incident]:
    """Return what the fleet has to live through."""
    incidents: list[Incident] = []
    if options.zone_failure:
        if options.zones < 2:
            raise ValueError("--zones is 1, of which --zone-failure leaves nothing; at least 2")
        incidents.append(ZoneFailure(options.zones, options.noticed_s))
    if options.rolling:
        if options.max_unavailable == options.max_surge == 0:
            raise ValueError("--max-unavailable and --max-surge are both 0: nothing could change")
        if options.max_unavailable == 1:
            raise ValueError("--max-unavailable is 1, which leaves nothing; below 1")
        incidents.append(Rollout(options.max_unavailable, options.max_surge))
    return incidents


def make_plan(
    scenario: Scenario,
    limits: Limits,
    effort: Effort,
    incidents: Sequence[Incident],
    tell: Tell = lambda _: None,
    *,
    search: bool = True,
) -> Plan:
    """Answer how many replicas hold the limits, whatever happens, and what they do.

    Args:
        scenario: the load; where nothing is searched, with the replicas that there are.
        limits: to hold.
        effort: of the simulation.
        incidents: that the fleet has to live through.
        tell: called with a line about each step.
        search: for the smallest number.

    Raises:
        Unreachable: no number holds them.
    """
    tries: Sequence[Answer] = ()
    if search:
        tries = smallest(scenario, limits, effort, tell)
        enough = min(one.replicas for one in tries if one.holds(limits))
        scenario = replace(scenario, replicas=needed(enough, incidents))
    cases = {"all replicas": steady(scenario, effort, tell=tell)}
    held = [cases["all replicas"].holds(limits)]
    trials: dict[str, Trial] = {}
    for incident in incidents:
        words, dynamic = WORDS[incident.kind]
        cases[words] = without(scenario, incident, effort, limits, tell)
        held.append(cases[words].holds(limits))
        cases[dynamic], trials[dynamic] = meanwhile(scenario, incident, effort, tell)
    return Plan(scenario.replicas, all(held), cases, tries, trials)


def document(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON has it."""
    return {
        "replicas": plan.replicas,
        "held": plan.held,
        "cases": {words: asdict(answer) for words, answer in plan.cases.items()},
        "tries": [asdict(answer) for answer in plan.tries],
    }


def show(plan: Plan, limits: Limits) -> None:
    """Print a plan: the number, and a line a case."""
    console = Console(highlight=False, soft_wrap=True)
    told = "hold" if plan.held else "miss"
    console.print(
        f"[bold]{plan.replicas:,} replicas[/bold] {told} "
        f"p99 {1e3 * limits.p99_s:g} ms "
        f"at {next(iter(plan.cases.values())).rate:,.0f} requests a second, with at most "
        f"{100 * limits.unanswered:g} % unanswered"
    )
    table = Table(*TITLES, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for column in table.columns:
        column.no_wrap = True
    for column in table.columns[1:]:
        column.justify = "right"
    more = [(f"with {one.replicas:,}", one) for one in plan.tries if one.replicas > plan.replicas]
    for words, one in [*plan.cases.items(), *more]:
        table.add_row(
            words,
            f"{one.answering:,}",
            f"{100 * one.utilisation.mean:.0f} %",
            f"{one.batch.mean:.1f}",
            _ms(one.p50_s.mean),
            f"{_ms(one.p99_s.mean)} ± {_ms(one.p99_s.half)}",
            _ms(one.p999_s.mean),
            f"{100 * one.unanswered:.2g} %",
        )
    console.print(table)
    first = next(iter(plan.cases.values()))
    if first.simulated < first.replicas:
        console.print(f"simulated: {first.simulated} replicas, with their share of the rate")


def _ms(seconds: float) -> str:
    ms = 1e3 * seconds
    return f"{ms:,.0f}" if ms >= 100 else f"{ms:.3g}"
