"""The simulation against queueing theory, and against itself."""

from math import factorial

import numpy as np
import pytest
from numpy.typing import NDArray

from nyquist.client.capacity.arrivals import Bursty, Closed, Poisson, Trace
from nyquist.client.capacity.balancer import BALANCERS
from nyquist.client.capacity.fleet import (
    Rollout,
    Scenario,
    Trial,
    ZoneFailure,
    simulate,
)
from nyquist.client.capacity.replica import Outcome
from nyquist.client.capacity.replica_profile import Batching, Profile

RUN_S = 0.01


class Exponential(Profile):
    """Runs whose times have no memory, for formulas that want such."""

    def factors(self, shares: NDArray[np.float64]) -> NDArray[np.float64]:
        return -np.log1p(-shares)


def profile(kind: type[Profile] = Profile, instances: int = 1, **batching: object) -> Profile:
    rules = Batching.model_validate({"max_batch_size": 1, "max_queue_size": 10**6} | batching)
    return kind(
        model="m",
        device="none",
        origin="this test",
        run_s={1: RUN_S, 4: 2 * RUN_S},
        loop_s=0.0,
        wire_s=0.0,
        instances=instances,
        start_s=1.0,
        batching=rules,
    )


def waited_s(trial: Trial) -> float:
    """Return the time before a run, on average."""
    return float(trial.seconds.mean()) - RUN_S


def test_one_server_of_fixed_times_waits_as_pollaczek_and_khinchine_say() -> None:
    load = 0.7
    trial = simulate(Scenario(profile(), 1, load / RUN_S, 600.0, 10.0), seed=1)
    # M/D/1: W = s rho / (2 (1 - rho)); Kleinrock, Queueing Systems I (1975), eq. 5.63
    assert waited_s(trial) == pytest.approx(RUN_S * load / (2 * (1 - load)), rel=0.05)
    assert trial.utilisation == pytest.approx(load, rel=0.02)


def test_several_servers_wait_as_erlang_says() -> None:
    servers, load = 4, 0.6
    rate = servers * load / RUN_S
    trial = simulate(Scenario(profile(Exponential, servers), 1, rate, 300.0, 5.0), seed=2)
    # M/M/c: Erlang's C, Kleinrock I, eq. 3.40; W = C s / (c (1 - rho))
    offered = servers * load
    last = offered**servers / factorial(servers) / (1 - load)
    waits = last / (sum(offered**k / factorial(k) for k in range(servers)) + last)
    run_s = trial.utilisation * servers * 300.0 / len(trial.sent)  # as drawn, which chance moves
    assert float(trial.seconds.mean()) - run_s == pytest.approx(
        waits * RUN_S / (servers * (1 - load)), rel=0.08
    )


def test_two_choices_do_to_a_large_fleet_what_mitzenmacher_says() -> None:
    load = 0.8
    scenario = Scenario(
        profile(Exponential), 100, 100 * load / RUN_S, 5.0, 1.0, balancing="two-choices"
    )
    # The Power of Two Choices in Randomized Load Balancing (2001), for ever more servers
    expected = RUN_S * sum(load ** (2**i - 2) for i in range(1, 12))
    assert float(simulate(scenario, seed=3).seconds.mean()) == pytest.approx(expected, rel=0.04)


def test_callers_that_wait_are_as_many_as_rate_times_latency() -> None:
    callers = 16
    batched = profile(max_batch_size=4)
    trial = simulate(Scenario(batched, 2, 0.0, 40.0, 1.0, Closed(callers)), seed=4)
    rate = len(trial.seconds) / 40.0
    assert rate * float(trial.seconds.mean()) == pytest.approx(callers, rel=0.01)  # Little (1961)
    assert trial.batch == pytest.approx(4, rel=0.05)
    assert rate == pytest.approx(2 * 4 / (2 * RUN_S), rel=0.01)


def test_what_the_loop_has_to_do_bounds_what_is_answered() -> None:
    loop_s = 0.004
    slow = profile(instances=4).model_copy(update={"loop_s": loop_s})
    trial = simulate(Scenario(slow, 1, 0.0, 20.0, 1.0, Closed(20)), seed=5)
    assert len(trial.seconds) / 20.0 == pytest.approx(1 / loop_s, rel=0.02)
    assert len(trial.seconds) / 20.0 <= slow.most_a_second * 1.01


def test_the_same_seed_gives_the_same_and_another_another() -> None:
    scenario = Scenario(profile(max_batch_size=4), 3, 300.0, 2.0, balancing="two-choices")
    first, again, other = (simulate(scenario, seed) for seed in (6, 6, 7))
    assert np.array_equal(first.seconds, again.seconds)
    assert not np.array_equal(first.seconds[:100], other.seconds[:100])


@pytest.mark.parametrize("balancing", BALANCERS)
def test_every_request_is_accounted_for_while_a_zone_fails_and_no_more_than_once(
    balancing: str,
) -> None:
    failure = ZoneFailure(zones=3, noticed_s=0.5, at_s=1.0)
    scenario = Scenario(profile(), 6, 250.0, 4.0, balancing=balancing, incident=failure)
    trial = simulate(scenario, seed=8)
    calm = simulate(Scenario(profile(), 6, 250.0, 4.0), seed=8)
    assert len(trial.sent) == pytest.approx(len(calm.sent), rel=0.1)
    assert trial.share(Outcome.ANSWERED) == 1.0
    assert [count for _, count in trial.replicas] == [6, 4]
    hung = trial.seconds[(trial.sent > 1.0) & (trial.sent < 1.4)]
    assert hung.max() == pytest.approx(0.5, abs=0.1)
    counts_them = balancing in ("least-requests", "two-choices")  # what is silent looks busy
    assert float((hung > 0.1).mean()) == pytest.approx(0.06 if counts_them else 1 / 3, abs=0.08)


def test_a_rollout_replaces_every_replica_and_loses_nothing() -> None:
    rollout = Rollout(unavailable=0.25, surge=0.25, at_s=0.5)
    trial = simulate(Scenario(profile(), 8, 300.0, 8.0, incident=rollout), seed=9)
    counts = [count for _, count in trial.replicas]
    assert (min(counts), counts[-1]) == (6, 8)
    assert trial.share(Outcome.ANSWERED) == 1.0


def test_a_full_queue_refuses_and_a_deadline_that_has_passed_is_told() -> None:
    full = profile(max_queue_size=5)
    trial = simulate(Scenario(full, 1, 200.0, 20.0, 1.0), seed=10)
    assert trial.share(Outcome.REFUSED) == pytest.approx(0.5, abs=0.03)
    hurried = Scenario(profile(), 1, 200.0, 20.0, 1.0, deadline_s=0.05)
    trial = simulate(hurried, seed=10)
    assert (
        trial.share(Outcome.LATE) > 0.7
    )  # in the order in which they came, most are begun too late
    assert trial.latency_s(100) <= 0.05


@pytest.mark.parametrize("balancing", ["random", "two-choices", "round-robin"])
def test_a_share_of_a_fleet_behaves_as_the_whole(balancing: str) -> None:
    whole = Scenario(profile(max_batch_size=4), 40, 40 * 120.0, 5.0, 1.0, balancing=balancing)
    part = whole.share(20)
    assert (part.replicas, part.rate) == (20, 2400.0)
    few, all_of_them = simulate(part, seed=11), simulate(whole, seed=12)
    for percent in (50, 99):
        assert few.latency_s(percent) == pytest.approx(all_of_them.latency_s(percent), rel=0.1)


def test_bursts_keep_the_rate_and_lengthen_the_tail() -> None:
    calm = Scenario(profile(), 1, 50.0, 200.0, 2.0, Poisson())
    bursts = Scenario(profile(), 1, 50.0, 200.0, 2.0, Bursty(factor=3, share=0.1, burst_s=0.5))
    one, other = simulate(calm, seed=13), simulate(bursts, seed=13)
    assert len(other.sent) == pytest.approx(len(one.sent), rel=0.1)
    assert other.latency_s(99) > 3 * one.latency_s(99)


def test_a_trace_is_played_as_it_was_recorded() -> None:
    recorded = np.array([0.0, 0.1, 0.1, 0.5, 1.0])
    trial = simulate(Scenario(profile(), 1, 4.0, 2.0, arrivals=Trace(recorded)), seed=14)
    assert trial.sent.tolist() == recorded.tolist()
    assert trial.seconds.tolist() == pytest.approx([0.01, 0.01, 0.02, 0.01, 0.01])
