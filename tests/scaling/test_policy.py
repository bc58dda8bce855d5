from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylb.scaling.policy import (
    GROW_AFTER,
    HIGH,
    LOW,
    MOST,
    SETTLE,
    SHRINK_AFTER,
    STEP,
    Inputs,
    Policy,
    pays_after,
)

TICK = 0.25


def looks() -> st.SearchStrategy[Inputs]:
    """Any inputs, also nonsense such as grants of 10,000 cores."""
    return st.builds(
        Inputs,
        current=st.just(1),
        usable=st.integers(1, 64),
        granted=st.none() | st.integers(0, 10_000),
        idle=st.none() | st.integers(0, 10_000),
        busy=st.lists(st.floats(0, 1), max_size=8),
        lag_us=st.integers(0, 1_000_000),
        accept_queue=st.integers(0, 10_000),
        connections=st.integers(0, 100_000),
        young=st.booleans(),
    )


def with_current(look: Inputs, current: int) -> Inputs:
    return replace(look, current=current)


@given(st.integers(1, 4), st.integers(0, 8), st.lists(looks(), max_size=60), st.data())
def test_never_outside_the_limits_nor_beyond_the_grant(
    least: int, more: int, trace: list[Inputs], data: st.DataObject
) -> None:
    policy = Policy(least, least + more)
    current = least
    now = 100.0
    for look in trace:
        now += TICK
        if data.draw(st.booleans(), "the supervisor's news come late, or an operator has scaled"):
            current = data.draw(st.integers(0, least + more + 4))
        target = policy.decide(now, with_current(look, current)).target
        assert least <= target <= max(least, min(least + more, look.usable))
        granted = None if look.granted is None else look.granted + (look.idle or 0)
        if target > max(least, current):
            assert look.granted is not None
            assert granted is not None
            assert target <= granted
            assert target <= max(look.granted, current + (look.idle or 0))
        if granted is not None and not look.young:
            assert target <= max(least, granted)
        current = target


def test_a_count_above_the_grant_is_no_room_to_grow() -> None:
    # Seen with a real guest: 1 granted, 1 idle and 2 running led to 3.
    assert run(Policy(1, 8), 2, 10, share=1.0, granted=1, idle=1) == [2] * 40
    assert run(Policy(1, 8), 2, 10, share=1.0, granted=1, idle=2)[-1] == 3


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


def test_gives_cores_back_in_one_step() -> None:
    assert run(Policy(1, 8), 4, 2 * TICK, share=1.0, granted=1, idle=0) == [1, 1]
    assert run(Policy(1, 64), 64, TICK, share=1.0, granted=20, idle=8) == [28]


def test_mask_and_quota_are_followed_while_they_change() -> None:
    policy, current = Policy(2, 8), 8
    seen: list[int] = []
    for step in range(240):
        usable = (8, 3, 1, 6)[step // 60]
        look = Inputs(current, usable, 8, 0, [1.0] * current, young=True)
        current = policy.decide(100 + step * TICK, look).target
        if not seen or current != seen[-1]:
            seen.append(current)
    # min, whatever the machine allows; growing back is for pressure and what is granted
    assert seen == [8, 3, 2, 6]


def test_shrinks_after_the_cool_down() -> None:
    counts = run(Policy(1, 8), 4, SHRINK_AFTER * 4 + 5, share=0.01, granted=4, idle=4)
    assert counts[int((SHRINK_AFTER - 2 * TICK) / TICK)] == 4
    assert counts[-1] == 1


def test_shrinks_by_halves_of_the_surplus() -> None:
    counts = run(Policy(1, 64), 64, 6.5 * (SHRINK_AFTER + TICK), share=0.001, granted=64, idle=0)
    assert list(dict.fromkeys(counts)) == [64, 32, 16, 8, 4, 2, 1]
    assert list(dict.fromkeys(run(Policy(3, 8), 8, 60, share=0.001, granted=8, idle=0))) == [8, 5, 4, 3]


def test_the_most_loaded_moment_of_the_calm_says_what_is_needed() -> None:
    policy, current = Policy(1, 16), 16
    steps = int(SHRINK_AFTER / TICK)
    for step in range(steps + 1):
        load = 3.9 if step == steps // 2 else 0.1
        look = Inputs(current, 64, 16, 0, [load / 16] * 16)
        current = policy.decide(100 + step * TICK, look).target
    assert current == 12  # half of what is above 8, which would be 49 % busy


def test_what_is_too_young_takes_no_core_away() -> None:
    policy = Policy(1, 8)
    look = Inputs(8, 8, 1, 0, [], young=True)
    decision = policy.decide(100, look)
    assert decision.target == 8
    assert decision.reason == "only 1 core granted so far, which is too early to go by"
    assert policy.decide(101, replace(look, young=False)).target == 1


def test_nothing_is_concluded_from_workers_that_were_not_measured() -> None:
    policy = Policy(1, 8)
    for step in range(int(3 * SHRINK_AFTER / TICK)):
        assert policy.decide(100 + step * TICK, Inputs(4, 8, 4, 0, [])).target == 4


def toggling(half: float, restart_every: float = 0.0, seconds: float = 120) -> tuple[int, float]:
    """A neighbour that needs the second core for so many seconds, and then doesn't for as many.

    Gives the changes of the worker count, and the idle core-seconds that were not used.
    """
    policy, current = Policy(1, 2), 1
    changes, lost = 0, 0.0
    for step in range(int(seconds / TICK)):
        at = step * TICK
        idle = 1 - int(at / half) % 2
        if restart_every and step % int(restart_every / TICK) == 0:
            policy = Policy(1, 2, memory=policy.memory)
        look = Inputs(current, 2, min(current, 1 + idle), max(0, 1 + idle - current), [1.0] * current)
        target = policy.decide(100 + at, look).target
        changes += target != current
        current = target
        lost += TICK * (idle - (current - 1) if idle else 0)
    return changes, lost


@pytest.mark.parametrize(
    ("half", "changes", "lost"), [(0.5, 66, 50.0), (1.0, 66, 36.0), (2.0, 60, 1.0), (5.0, 24, 1.0)]
)
def test_a_neighbour_that_comes_and_goes(half: float, changes: int, lost: float) -> None:
    """Without a bound there were 240, 120, 60 and 24 changes; a growth of a second brings next to nothing."""
    found = toggling(half)
    assert found[0] <= changes
    assert found[1] <= lost


def test_a_restart_does_not_forget_the_neighbour() -> None:
    assert toggling(1.0, restart_every=3.0)[0] <= toggling(1.0)[0]


def test_an_idle_core_is_taken_within_a_second_and_after_flapping_within_the_longest_wait() -> None:
    for flapping, within in ((0, 1.0), (200, MOST + 1.0)):
        policy, current = Policy(1, 2), 1
        for step in range(flapping):
            idle = 1 - step // 2 % 2
            look = Inputs(current, 2, min(current, 1 + idle), max(0, 1 + idle - current), [1.0] * current)
            current = policy.decide(100 + step * TICK, look).target
        current, began = 1, 100 + flapping * TICK
        steps = 0
        while current == 1:
            look = Inputs(1, 2, 1, 1, [1.0])
            current = policy.decide(began + steps * TICK, look).target
            steps += 1
        assert steps * TICK <= within


def test_a_few_claims_delay_nobody() -> None:
    policy, now = Policy(1, 8), 100.0
    for _ in range(3):
        while policy.decide(now, Inputs(1, 8, 1, 7, [1.0])).target == 1:
            now += TICK
        grown = now
        now += 1.0
        assert policy.decide(now, Inputs(3, 8, 1, 0, [1.0] * 3)).target == 1
        waits = now
        while policy.decide(now, Inputs(1, 8, 1, 7, [1.0])).target == 1:
            now += TICK
        assert now - waits <= SETTLE + GROW_AFTER
        assert grown < now


def test_what_moves_more_connections_must_last_longer() -> None:
    few, many = (pays_after(Inputs(1, 2, connections=count), 1) for count in (0, 10_000))
    assert 1 < few < many <= MOST


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


def test_a_vcpu_that_comes_online_is_used_at_the_next_look_and_given_back_at_the_next() -> None:
    policy = Policy(1, 2)
    trace = [(1, 1)] * 20 + [(2, 2)] * 40 + [(1, 1)]  # CPUs that are online, and cores granted
    current, counts, reasons = 1, [], []
    for step, (usable, granted) in enumerate(trace):
        decision = policy.decide(100 + TICK * step, Inputs(current, usable, granted, 0, [0.95] * current))
        current = decision.target
        counts.append(current)
        reasons.append(decision.reason)
    assert counts == [1] * 20 + [2] * 40 + [1]
    assert reasons[19] == "workers are 95% busy, but no more than 1 worker may run"
