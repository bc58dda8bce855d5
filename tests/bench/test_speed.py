"""Rates at equal speed: what differs between balancers stays, what the machine did goes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.speed import Speed, at_equal_speed, explained

SPEEDS = st.lists(st.floats(2.0, 10.0), min_size=2, max_size=8)


@given(st.floats(100, 10_000), st.floats(0.5, 2.0), SPEEDS, SPEEDS, st.floats(0.0, 2.0), st.floats(0.2, 5.0))
def test_only_what_the_machine_did_is_taken_out(
    level: float, ratio: float, first: list[float], second: list[float], slope: float, later: float
) -> None:
    def turns_of(scale: float, speeds: list[float]) -> list[tuple[float, float]]:
        return [(scale * speed**slope, speed) for speed in speeds]

    turns = {
        "one": [turns_of(level, first), turns_of(level * later, second)],
        "two": [turns_of(level * ratio, second), turns_of(level * ratio * later, first)],
    }
    if max(max(first) / min(first), max(second) / min(second)) < 1.01:
        return  # nothing to learn the slope from
    found = at_equal_speed(turns)
    for one, two in zip(found["one"], found["two"], strict=True):
        assert all(rate == pytest.approx(one[0], rel=1e-6) for rate in one)
        assert two[-1] / one[-1] == pytest.approx(ratio, rel=1e-6)
    if slope > 0.1:
        assert explained(turns) == pytest.approx(1)


def test_a_slower_balancer_on_a_slower_machine_stays_slower() -> None:
    # Their own levels are no evidence of what the speed does.
    found = at_equal_speed({"one": [[(100, 4.0), (100, 4.0)]], "two": [[(200, 8.0), (200, 8.0)]]})
    assert explained({"one": [[(100, 4.0), (120, 4.0)]]}) == 0
    assert found == {"one": [pytest.approx([100, 100])], "two": [pytest.approx([200, 200])]}


def test_probes_that_are_faster_in_one_repetition_hide_no_effect_of_the_speed() -> None:
    # Pooled over the repetitions, rates at 4 to 5 and at 8 to 10 would look as if speed hardly mattered.
    turns = {"one": [[(100, 4.0), (125, 5.0)], [(100, 8.0), (125, 10.0)]]}
    assert explained(turns) == pytest.approx(1)


def test_the_probes_measure() -> None:
    with Speed() as speed:
        taken: list[float] = []
        while sum(not math.isnan(one) for one in taken) < 3:
            taken.append(speed.take())
    assert all(one > 0 for one in taken if not math.isnan(one))
