"""What the alerts do on a live stack: python -m tests.deploy.alarms.

a perturbed weight, a strided network behind a blur's name, an hour of normal load, one with a slow
model -> what fires

The rules are those of deploy/, evaluated every two seconds by a real Prometheus that scrapes as
often. For the last two, every duration of them (ranges and `for`) is divided by a factor, but is
six seconds at least; the probe period is a minute divided by it, and so is the hour of load. At the
factor 30 an hour takes two minutes.
"""

import argparse
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread, Timer

import grpc
import numpy as np

from nyquist.client.client import Client
from nyquist.server.wire.pb import inference_pb2 as pb
from nyquist.server.wire.pb import inference_pb2_grpc as stubs
from tests.artifacts import copy_model
from tests.deploy.stack import RunningStack, running_stack
from tests.impostors import perturb_weight, replace_network
from tests.processes import ROOT
from tests.requests import fashion_request

REPOSITORY = ROOT / "model_repository"
PERTURBED, POSED_AS, STRIDED = "fashion_max_pool", "fashion_blur", "fashion_strided"
SLOW, SLOW_BATCH, SLOW_CALLERS = "efficientnet_lite0", 16, 4
COMPANION = ("--core-share", "1", "--nice", "0", "--drain-s", "0")
SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
PAUSE_S = 0.05


def accelerate(rules: str, factor: float) -> str:
    """Return rules with every range and every `for` divided by a factor, six seconds at least."""

    def shorter(found: re.Match[str]) -> str:
        seconds = max(6, round(int(found[2]) * SECONDS[found[3]] / factor))
        return f"{found[1]}{seconds}s"

    return re.sub(r"(\[|for: )(\d+)([smhd])\b", shorter, rules)


def firing(alert: str, model: str) -> str:
    """Return the query that has an answer while an alert fires for a model."""
    return f'ALERTS{{alertname="{alert}", model="{model}", alertstate="firing"}}'


def swap(stack: RunningStack, model: str, change: Callable[[Path], object]) -> None:
    """Change an artifact in place, and let the server load it."""
    change(stack.models / model)
    with grpc.insecure_channel(stack.server.target) as channel:
        stub = stubs.GRPCInferenceServiceStub(channel)
        stub.RepositoryModelLoad(pb.RepositoryModelLoadRequest(model_name=model))


@contextmanager
def serving(
    *models: str, probe_period_s: float, edit: Callable[[str], str] = str
) -> Iterator[RunningStack]:
    """Serve copies of these models, watched, until the block ends."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "models"
        for name in models:
            copy_model(REPOSITORY, folder, name)
        companion = (*COMPANION, "--probe-period-s", f"{probe_period_s:g}")
        prometheus = Path(scratch) / "prometheus"
        with running_stack(folder, prometheus, companion_options=companion, edit=edit) as stack:
            for model in models:
                stack.wait_for(f'nyquist_verdict{{model="{model}", verdict="healthy"}} == 1')
            yield stack


def perturbed_weight(probe_period_s: float) -> str:
    """Swap a model for one with a perturbed weight, and time the verdict and the alert."""
    with serving(PERTURBED, probe_period_s=probe_period_s) as stack:
        swap(stack, PERTURBED, perturb_weight)
        start = time.monotonic()
        stack.wait_for(firing("NyquistParityBroken", PERTURBED), 4 * probe_period_s)
        fired_s = time.monotonic() - start
        stack.wait_for(
            f'nyquist_verdict{{model="{PERTURBED}", verdict="failing"}} == 1', 4 * probe_period_s
        )
        failed_s = time.monotonic() - start
    return (
        f"{PERTURBED} with a perturbed weight: NyquistParityBroken after {fired_s:.1f} s, "
        f"verdict failing after {failed_s:.1f} s; "
        f"{max(fired_s, failed_s) / probe_period_s:.2f} probe periods of {probe_period_s:g} s"
    )


def strided_behind_a_blurs_name(probe_period_s: float) -> str:
    """Serve a strided network under a blur model's name, and time the alert."""
    with serving(POSED_AS, probe_period_s=probe_period_s) as stack:
        circular = f'nyquist_shift_consistency_ratio{{model="{POSED_AS}", protocol="circular"}}'
        stack.wait_for(circular)
        swap(stack, POSED_AS, lambda folder: replace_network(folder, REPOSITORY / STRIDED))
        fired_s = stack.wait_for(firing("NyquistConsistencyDropped", POSED_AS))
        ((_, share),) = stack.prometheus.samples(circular)
        parity = stack.prometheus.samples(firing("NyquistParityBroken", POSED_AS))
    assert not parity, "the network is whole, and another one"
    return (
        f"{STRIDED} behind the name {POSED_AS}: NyquistConsistencyDropped after {fired_s:.1f} s, "
        f"{fired_s / probe_period_s:.2f} probe periods; circular consistency {share:.2%}"
    )


def normal_load(hours: float, factor: float) -> str:
    """Serve normal load, and count the alerts that ever fired.

    Raises:
        AssertionError: one did.
    """
    seconds = hours * 3600 / factor
    edit = lambda rules: accelerate(rules, factor)  # noqa: E731 - it is one expression
    with serving(PERTURBED, POSED_AS, STRIDED, probe_period_s=60 / factor, edit=edit) as stack:
        start = time.monotonic()
        calls = _call(stack, seconds)
        took_s = time.monotonic() - start
        ever = 'max_over_time(ALERTS{alertstate="firing"}[1h])'
        fired = {labels["alertname"] for labels, _ in stack.prometheus.samples(ever)}
        evaluated = stack.prometheus.samples(
            "count_over_time(model:nyquist_budget_burn:rate5m[1h])"
        )
    assert not fired, f"{fired} fired in {took_s:.0f} s of normal load"
    times = min(value for _, value in evaluated)
    assert times > seconds / 4, f"the rules ran {times:g} times in {took_s:.0f} s, not every 2 s"
    return (
        f"{hours:g} h of normal load at {factor:g} times the pace ({took_s:.0f} s, {calls} calls, "
        f"rules run {times:g} times): no alert fired"
    )


def slow_model(factor: float) -> str:
    """Ask a model for batches that take longer than its objective, and return the page's text.

    Raises:
        AssertionError: another model has a page too.
    """
    edit = lambda rules: accelerate(rules, factor)  # noqa: E731 - it is one expression
    with serving(SLOW, STRIDED, probe_period_s=60 / factor, edit=edit) as stack:
        stopped = Event()
        callers = [Thread(target=_call_slow, args=(stack, stopped)) for _ in range(SLOW_CALLERS)]
        for caller in callers:
            caller.start()
        try:
            fired_s = stack.wait_for(firing("NyquistBudgetBurn", SLOW), 7200 / factor)
            alerts = stack.prometheus.ask("alerts")["alerts"]
        finally:
            stopped.set()
            for caller in callers:
                caller.join()
    pages = [
        one for one in alerts if one["state"] == "firing" and one["labels"]["severity"] == "page"
    ]
    assert {one["labels"]["model"] for one in pages} == {SLOW}
    return (
        f"{SLOW_CALLERS} callers of {SLOW}, {SLOW_BATCH} pictures each: NyquistBudgetBurn after "
        f"{fired_s:.0f} s: "
        f"{pages[0]['annotations']['summary']}. {pages[0]['annotations']['description']}"
    )


def _call_slow(stack: RunningStack, stopped: Event) -> None:
    """Ask two models in turn, of which one has much to do."""
    with Client(stack.server.target) as client:
        slow, quick = client.describe(SLOW), client.describe(STRIDED)
        many = np.zeros((SLOW_BATCH, *slow.shape), np.uint8)
        one = np.zeros((1, *quick.shape), np.float32)
        while not stopped.is_set():
            client.infer(slow, many)
            client.infer(quick, one)


def _call(stack: RunningStack, seconds: float) -> int:
    """Call three models as sensible callers do, with a mistake and a cancelled call at times."""
    stopped, calls = Event(), 0
    Timer(seconds, stopped.set).start()
    wrong = fashion_request(model=POSED_AS)
    wrong.inputs[0].datatype = "FP64"
    with grpc.insecure_channel(stack.server.target) as channel:
        stub = stubs.GRPCInferenceServiceStub(channel)
        while not stopped.wait(PAUSE_S):
            for model in (PERTURBED, POSED_AS, STRIDED):
                stub.ModelInfer(fashion_request(1 + calls % 4, model))
                calls += 1
            if calls % 60 == 0:
                stub.ModelInfer.future(wrong).exception(timeout=60)
                stub.ModelInfer.future(fashion_request(model=POSED_AS)).cancel()
                calls += 2
    return calls


def main() -> None:
    """Show all four."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--probe-period-s", type=float, default=10.0, help="(%(default)s)")
    parser.add_argument("--hours", type=float, default=1.0, help="of normal load (%(default)s)")
    parser.add_argument("--factor", type=float, default=30.0, help="of acceleration (%(default)s)")
    options = parser.parse_args()
    shows: tuple[Callable[[], str], ...] = (
        lambda: perturbed_weight(options.probe_period_s),
        lambda: strided_behind_a_blurs_name(options.probe_period_s),
        lambda: normal_load(options.hours, options.factor),
        lambda: slow_model(options.factor),
    )
    for show in shows:
        print(show(), flush=True)  # noqa: T201 - the command line


if __name__ == "__main__":
    main()
