from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylb.balance.twochoices import LeastLatency, Random
from tests.balance.backends import Rows, held, members


@pytest.fixture(autouse=True)
def _the_same_chance_each_time() -> Iterator[None]:
    state = random.getstate()
    random.seed(7)
    yield
    random.setstate(state)


@given(st.lists(st.integers(1, 10), min_size=2, max_size=12))
def test_requests_that_stay_lie_as_the_weights_say(weights: list[int]) -> None:
    rows = Rows(range(len(weights)))
    held(Random(members(weights, rows)), rows, 40 * sum(weights))
    for count, weight in zip(rows.active(), weights, strict=True):
        assert count == pytest.approx(40 * weight, rel=0.25, abs=8)


def test_loads_differ_far_less_than_by_mere_chance() -> None:
    rows = Rows(range(100))
    held(Random(members([1] * 100, rows)), rows, 10_000)
    assert max(rows.active()) - min(rows.active()) <= 10  # by mere chance, 50


def test_a_server_that_has_nearly_all_the_weight() -> None:
    balancer = Random(members([10**9, 1]))
    assert Counter(balancer.pick() for _ in range(100))[0] > 90


class Clock:
    """Time that passes when a test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def latency(weights: list[float], times: list[float]) -> tuple[LeastLatency, Rows, Clock]:
    """Servers that have answered once, in these seconds."""
    rows, clock = Rows(range(len(weights))), Clock()
    balancer = LeastLatency(members(weights, rows, clock=clock))
    for server, seconds in enumerate(times):
        balancer.observe(server, seconds)
    return balancer, rows, clock


def test_requests_lie_in_proportion_to_the_servers_speed() -> None:
    balancer, rows, _ = latency([1, 1, 1], [0.1, 0.1, 0.2])
    held(balancer, rows, 500)
    assert rows.active() == pytest.approx([200, 200, 100], abs=10)


def test_requests_lie_as_the_weights_say() -> None:
    balancer, rows, _ = latency([1, 2, 3], [0.1, 0.1, 0.1])
    held(balancer, rows, 600)
    assert rows.active() == pytest.approx([100, 200, 300], abs=20)


def test_one_slow_response_counts_at_once_and_is_forgotten() -> None:
    balancer, _, clock = latency([1, 1], [0.1, 0.1])
    balancer.observe(0, 10.0)
    assert {balancer.pick() for _ in range(20)} == {1}
    clock.now += 5 * LeastLatency.DECAY
    balancer.observe(1, 0.1)
    assert {balancer.pick() for _ in range(20)} == {0}
    balancer.observe(0, 0.05)
    assert balancer.cost(0) < 0.15


def test_a_server_that_has_not_answered_yet_is_taken_for_a_usual_one() -> None:
    balancer, rows, _ = latency([1, 1, 1], [])
    for _ in range(1000):
        balancer.observe(0, 0.1)
    held(balancer, rows, 300)
    assert rows.active() == pytest.approx([100, 100, 100], abs=10)
