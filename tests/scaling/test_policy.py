from __future__ import annotations

import math
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from pylb.scaling.policy import GROW_AFTER, HIGH, LOW, SHRINK_AFTER, STEP, Inputs, Policy

TICK = 0.25


def looks() -> st.SearchStrategy[Inputs]:
    """Any inputs, also nonsense such as grants of 10,000 cores."""
    return st.builds(
        Inputs,
        current=st.just(1),
        usable=st.floats(0.1, 64),
        granted=st.none() | st.integers(0, 10_000),
        idle=st.none() | st.integers(0, 10_000),
        busy=st.lists(st.floats(0, 1), min_size=1, max_size=8),
        lag_us=st.integers(0, 1_000_000),
        accept_queue=st.integers(0, 10_000),
    )


def with_current(look: Inputs, current: int) -> Inputs:
    return replace(look, current=current)


@given(st.integers(1, 4), st.integers(0, 8), st.lists(looks(), max_size=60))
def test_never_outside_the_limits_nor_beyond_current_plus_idle(
    least: int, more: int, trace: list[Inputs]
) -> None:
    policy = Policy(least, least + more)
    current = least
    now = 100.0
    for look in trace:
        now += TICK
        target = policy.decide(now, with_current(look, current)).target
        assert least <= target <= least + more
        if target > current:
            assert look.granted is not None
            assert target <= max(look.granted, current + (look.idle or 0))
            assert target <= max(least, math.floor(look.usable + 0.25))
        assert target >= current - 1
        current = target


def run(policy: Policy, current: int, seconds: float, *, share: float, granted: int, idle: int) -> list[int]:
    """The counts over some seconds of a load that is spread over whatever workers there are."""
    load = share * current
    counts = []
    for step in range(int(seconds / TICK)):
        busy = [min(1.0, load / current)] * current
        look = Inputs(current, 64, granted, idle, busy)
        current = policy.decide(100 + step * TICK, look).target
        counts.append(current)
    return counts


def test_grows_under_pressure_with_an_idle_core() -> None:
    assert run(Policy(1, 8), 1, GROW_AFTER + 2 * TICK, share=1.0, granted=1, idle=1)[-1] == 2


def test_saturated_workers_become_several_times_as_many_where_cores_are_idle() -> None:
    def after(share: float, current: int, idle: int) -> int:
        policy = Policy(1, 16)
        look = Inputs(current, 64, current, idle, [share] * current)
        policy.decide(100, look)
        return policy.decide(100 + GROW_AFTER, look).target

    assert after(1.0, 2, 12) == STEP * 2
    assert after(1.0, 2, 3) == 5
    # Load that is seen is followed, and no more.
    assert after(HIGH + 0.1, 2, 12) == 3


def test_does_not_grow_without_an_idle_core() -> None:
    assert run(Policy(1, 8), 2, 60, share=1.0, granted=2, idle=0) == [2] * 240


def test_gives_cores_back_at_once_one_at_a_time() -> None:
    assert run(Policy(1, 8), 4, 4 * TICK, share=1.0, granted=1, idle=0) == [3, 2, 1, 1]


def test_shrinks_after_the_cool_down() -> None:
    counts = run(Policy(1, 8), 4, SHRINK_AFTER * 4 + 5, share=0.01, granted=4, idle=4)
    assert counts[int((SHRINK_AFTER - 2 * TICK) / TICK)] == 4
    assert counts[-1] == 1


def test_without_a_grant_it_stays() -> None:
    policy = Policy(1, 8)
    for step in range(100):
        look = Inputs(3, 64, None, None, [1.0] * 3)
        assert policy.decide(100 + step * TICK, look).target == 3


@given(st.integers(1, 8), st.lists(st.floats(-0.04, 0.04), min_size=400, max_size=400), st.booleans())
def test_noise_at_a_threshold_does_not_flap(start: int, noise: list[float], high: bool) -> None:
    policy = Policy(1, 16)
    current = start
    total = (HIGH if high else LOW) * start
    changes = []
    for step, wiggle in enumerate(noise):
        busy = [min(1.0, max(0.0, total / current + wiggle))] * current
        target = policy.decide(100 + step * TICK, Inputs(current, 64, current, 8, busy)).target
        if target != current:
            changes.append(target - current)
        current = target
    # It may find its place, but not go to and fro.
    assert all(change > 0 for change in changes) or all(change < 0 for change in changes)


@given(st.integers(1, 8), st.integers(0, 8), st.integers(0, 8), st.floats(0, 1))
def test_monotone_in_idle_cores(current: int, idle: int, more: int, share: float) -> None:
    def settled(cores: int) -> int:
        policy = Policy(1, 16)
        look = Inputs(current, 64, current, cores, [share] * current)
        policy.decide(100, look)
        return policy.decide(100 + GROW_AFTER + 0.1, look).target

    assert settled(idle) <= settled(idle + more)


def test_a_worker_that_waits_for_a_cpu_is_loaded_and_not_idle() -> None:
    # A quota or other processes hold it back: its CPU time alone says 15 %.
    policy = Policy(1, 4)
    look = Inputs(1, 4, 1, 3, [0.15], [0.85])
    decisions = [policy.decide(100 + step * TICK, look) for step in range(8)]
    grown = next(decision for decision in decisions if decision.target > 1)
    assert grown.target == 3
    assert "15% busy, and for 85% of the time wait for a CPU" in grown.reason
    held = Policy(1, 4)
    look = Inputs(4, 4, 4, 0, [0.1] * 4, [0.9] * 4)
    assert all(held.decide(100 + step * TICK, look).target == 4 for step in range(100))
