"""Stolen time counts as pressure, not as idleness."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.sources.measured import MeasuredSource
from pylb.config import load
from pylb.control.scaler import Scaler
from pylb.scaling.policy import Inputs, Policy, pressed
from pylb.scaling.steal import Steal
from pylb.scoreboard import Scoreboard


def test_what_is_stolen_is_waited_for() -> None:
    steal = Steal()
    steal.look(5.0, 100.0)
    assert steal.waiting([0.5], [0.1]) == [0.1]  # what was stolen long ago
    steal.look(5.25, 100.25)
    assert steal.share == 0.5
    assert steal.waiting([0.4, 0.0, 0.9], [0.1, 0.0, 0.0]) == pytest.approx([0.5, 0.0, 0.1])


def test_little_is_waited_for_and_a_cpu_that_goes_is_no_theft() -> None:
    steal = Steal()
    steal.look(5.0, 100.0)
    steal.look(5.01, 100.0)
    assert steal.share == 0.0  # one tick of a kernel's clock says nothing
    steal.look(5.02, 100.18)
    assert steal.share == pytest.approx(0.1)
    steal.look(3.0, 50.0)
    assert steal.share == 0.0
    steal.look(3.0, 50.5)
    assert steal.share == 0.0


@given(
    st.lists(st.tuples(st.floats(0, 1000), st.floats(0, 1000)), max_size=6),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=4),
)
def test_no_worker_waits_and_runs_for_more_than_all_the_time(
    looks: list[tuple[float, float]], workers: list[tuple[float, float]]
) -> None:
    steal = Steal()
    for look in looks:
        steal.look(*look)
    busy = [ran for ran, _ in workers]
    before = [min(1 - ran, waited) for ran, waited in workers]
    after = steal.waiting(busy, before)
    for ran, had, has in zip(busy, before, after, strict=True):
        assert had - 1e-12 <= has <= 1 - ran + 1e-12


def test_a_worker_that_is_robbed_is_under_pressure_and_not_given_up() -> None:
    """A trace: two workers at 45 %, half of whose time the host gives to others, for a minute."""
    steal, policy = Steal(), Policy(1, 4)
    targets = set()
    for step in range(240):
        steal.look(0.45 * step / 4, 0.45 * step / 4)
        busy = [0.45, 0.45]
        inputs = Inputs(2, 4, 2, 1, busy, steal.waiting(busy, [0.0, 0.0]))
        decision = policy.decide(step / 4, inputs)
        targets.add(decision.target)
        if step > 4:
            assert "wait for a CPU" in pressed(inputs)
    assert min(targets) == 2
    assert max(targets) == 3
    calm = Policy(1, 4)  # what they ran alone would do for one fewer
    seen = {calm.decide(step / 4, Inputs(2, 4, 2, 1, [0.2, 0.2], [0.0, 0.0])).target for step in range(240)}
    assert min(seen) == 1


def test_stolen_time_is_not_idle() -> None:
    times = [(0.0, 0.0)]
    source = MeasuredSource(1.0, lambda: dict(enumerate(times)), lambda: 1.0, lambda: {0})
    source.sample(0)
    times = [(0.25, 1.0)]  # idle for a quarter; stolen time is in the total
    source.sample(1)
    assert source.idle() == 0.25


def test_the_scaling_loop_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([(0.0, 0.0), (1.0, 1.0), (2.0, 2.0)])
    monkeypatch.setattr("pylb.control.scaler.stolen_and_busy", lambda: next(times))
    config = load.quick(["127.0.0.1:0"], ["127.0.0.1:9"], workers="1..2")
    scaler = Scaler(config, Scoreboard(2), lambda count, reason: None)
    for step in range(3):
        scaler.step(1000 + step / 4)
    assert scaler.status()["stolen"] == 0.5
