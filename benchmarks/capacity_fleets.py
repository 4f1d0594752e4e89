"""What nyquist plan answers for customers of several sizes, and whether a share stands for a fleet.

python -m benchmarks.capacity_fleets shares | customers | million

profile of docs/examples/ -> simulations -> tables, and plots into docs/capacity/
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import process_time

from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

from benchmarks.capacity_plots import draw_million, draw_sizes
from nyquist.client.capacity.answer import Answer, Effort, Limits, meanwhile, needed, steady
from nyquist.client.capacity.balancer import BALANCERS
from nyquist.client.capacity.fleet import Incident, Rollout, Scenario, ZoneFailure, simulate
from nyquist.client.capacity.plan import make_plan
from nyquist.client.capacity.replica_profile import read_profile

ROOT = Path(__file__).parent.parent
PROFILES = ROOT / "docs" / "examples"
PLOTS = ROOT / "docs" / "capacity"
WHOLE = 50
SHARES = (5, 10, 25)
LOAD = 0.8
"""Of what a replica can answer, in the comparison of shares."""
SEEDS = 3
REPLICAS, RATE = 1_000, 1_000_000.0
ZONE, ROLLOUT = ZoneFailure(zones=3, noticed_s=2.0), Rollout()
INCIDENTS: tuple[tuple[Incident, str, str, int], ...] = (
    (ZONE, "a zone of three fails", "round-robin", 30_000),
    (ZONE, "a zone of three fails", "least-requests", 30_000),
    (ROLLOUT, "rolling", "round-robin", 70_000),
)
"""What happens, how it is balanced, and how many requests a trial has, about a quarter."""


@dataclass(frozen=True)
class Customer:
    """Somebody with a load and a wish."""

    rate: float
    model: str
    p99_ms: float
    incidents: tuple[Incident, ...] = ()

    @property
    def words(self) -> str:
        """Return it in words."""
        return f"{self.rate:,.0f}/s of {self.model}"


CUSTOMERS = (
    Customer(50, "efficientnet_lite0", 100),
    Customer(2_000, "efficientnet_lite0", 100),
    Customer(2_000, "fashion_blur", 20),
    Customer(100_000, "fashion_blur", 20),
    Customer(1_000_000, "fashion_blur", 20),
)


def shares(console: Console) -> None:
    """Compare shares of a fleet with the whole of it."""
    profile = read_profile(PROFILES / "plan-fashion_blur-cpu.json")
    table = _table("balancing", "replicas", "p50 ms", "p99 ms", "p99.9 ms", "p99 / whole", "CPU s")
    for balancing in BALANCERS:
        whole = Scenario(
            profile, WHOLE, WHOLE * LOAD * profile.most_a_second, 0.0, balancing=balancing
        )
        found: dict[int, Answer] = {}
        for most in (WHOLE, *SHARES):
            began = process_time()
            found[most] = one = steady(whole, Effort(600 * most, SEEDS, most))
            table.add_row(
                balancing,
                f"{most} of {WHOLE}",
                *(f"{1e3 * figure.mean:.3g}" for figure in (one.p50_s, one.p99_s, one.p999_s)),
                f"{one.p99_s.mean / found[WHOLE].p99_s.mean:.2f}",
                f"{process_time() - began:.0f}",
            )
    console.print(table)


def customers(console: Console) -> None:
    """Answer each customer, with a zone gone and while rolling too."""
    table = _table(
        "requests/s", "model", "p99 at most", "replicas", "busy", "p50 / p99 ms",
        "and with 1 of 3 zones gone", "p99 then", "and rolling",
    )  # fmt: skip
    tries = {}
    for one in CUSTOMERS:
        limits, effort = Limits(one.p99_ms / 1e3), Effort(12_000, 3, 30)
        scenario = _scenario(one)
        plain = make_plan(scenario, limits, effort, ())
        console.print(f"{one.words}: {plain.replicas:,} replicas")
        tries[one.words] = (plain.tries, limits)
        calm = plain.cases["all replicas"]
        enough = plain.replicas
        zone, rolling = (needed(enough, (incident,)) for incident in (ZONE, ROLLOUT))
        gone = steady(replace(scenario, replicas=ZONE.left(zone)), effort)
        table.add_row(
            f"{one.rate:,.0f}",
            one.model,
            f"{one.p99_ms:g} ms",
            f"{enough:,}",
            f"{100 * calm.utilisation.mean:.0f} %",
            f"{1e3 * calm.p50_s.mean:.3g} / {1e3 * calm.p99_s.mean:.3g} ± "
            f"{1e3 * calm.p99_s.half:.2g}",
            f"{zone:,}",
            f"{1e3 * gone.p99_s.mean:.3g} ± {1e3 * gone.p99_s.half:.2g}",
            f"{rolling:,}",
        )
    console.print(table)
    draw_sizes(tries, PLOTS / "customers.svg")


def million(console: Console) -> None:
    """Simulate a million requests a second on a thousand replicas, whole and as a share."""
    limits = Limits(0.02)
    profile = read_profile(PROFILES / "plan-fashion_blur-cpu.json")
    scenario = Scenario(profile, REPLICAS, RATE, 0.4, 0.1)
    table = _table(
        "balancing", "simulated", "requests", "p50 ms", "p99 ms", "p99.9 ms", "busy", "CPU s"
    )
    for balancing in ("round-robin", "two-choices"):
        each = replace(scenario, balancing=balancing)
        for part in (each, replace(each.share(50), seconds=2.0, warm_up_s=0.5)):
            began = process_time()
            trial = simulate(part, seed=1)
            table.add_row(
                balancing,
                f"{part.replicas:,} replicas",
                f"{len(trial.sent):,}",
                *(f"{1e3 * trial.latency_s(percent):.3g}" for percent in (50, 99, 99.9)),
                f"{100 * trial.utilisation:.0f} %",
                f"{process_time() - began:.0f}",
            )
    console.print(table)
    trials = {}
    for incident, words, balancing, requests in INCIDENTS:
        each = replace(scenario, balancing=balancing)
        answer, trial = meanwhile(each, incident, Effort(requests, 1, 50))
        trials[f"{words}, {balancing}"] = trial
        console.print(
            f"{words}, {balancing}: {answer.simulated} replicas, p50 "
            f"{1e3 * answer.p50_s.mean:.3g}, p99 {1e3 * answer.p99_s.mean:.3g} ms, "
            f"failed {100 * answer.unanswered:.2g} %"
        )
    draw_million(trials, limits, PLOTS / "million.svg")


def _scenario(customer: Customer) -> Scenario:
    profile = read_profile(PROFILES / f"plan-{customer.model}-cpu.json")
    return Scenario(profile, 1, customer.rate, 0.0)


def _table(*titles: str) -> Table:
    return Table(*titles, box=MARKDOWN)


COMMANDS: dict[str, Callable[[Console], None]] = {
    "shares": shares,
    "customers": customers,
    "million": million,
}


def main(words: Sequence[str] | None = None) -> int:
    """Run what the command line says; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("command", choices=COMMANDS)
    options = parser.parse_args(words)
    COMMANDS[options.command](Console(width=160, highlight=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
