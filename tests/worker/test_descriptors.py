"""When accepting pauses, and what is said again and again."""

from __future__ import annotations

import logging

from hypothesis import given
from hypothesis import strategies as st

from pylb.worker.descriptors import SPARE, Descriptors
from pylb.worker.repeats import EVERY, QUIET, Repeats


@given(st.integers(64, 2_000_000), st.integers(4, 200))
def test_each_client_can_have_a_server(limit: int, open_: int) -> None:
    bound = Descriptors(limit, open_).bound
    assert bound == 4 or open_ + SPARE + 2 * bound <= limit


def test_nine_thousand_idle_clients_fit_into_twenty_thousand_descriptors() -> None:
    assert Descriptors(20_000, 300).bound > 9_000


def test_it_goes_on_below_the_bound_and_not_too_early() -> None:
    one = Descriptors(256, 64)
    assert not one.full(one.bound - 1) and one.full(one.bound)
    assert one.pause(10.0) and not one.pause(10.0)
    assert not one.goes_on(one.bound - 1, 10.0)
    assert one.goes_on(one.bound * 3 // 4, 10.0) and not one.paused
    assert one.pause(20.0, 1.0)
    assert not one.goes_on(0, 20.5)
    assert one.goes_on(0, 21.0)


def test_repetitions_are_counted_and_told_now_and_then() -> None:
    repeats = Repeats()
    assert repeats.happened("x", 0.0, logging.WARNING, "refused")
    for second in range(5):
        assert not repeats.happened("x", second, logging.WARNING, "refused")
    assert repeats.happened("y", 5.0, logging.INFO, "other")
    assert repeats.due(EVERY - 1) == []
    assert repeats.due(EVERY) == [(logging.WARNING, "refused (5 more in 10 s)")]
    assert repeats.due(2 * EVERY) == []
    assert not repeats.happened("x", 3 * EVERY, logging.WARNING, "refused")
    assert len(repeats.due(3 * EVERY)) == 1


def test_what_is_over_or_long_past_is_news_again() -> None:
    repeats = Repeats()
    assert repeats.happened("x", 0.0, logging.WARNING, "refused")
    repeats.over("x")
    assert repeats.happened("x", 1.0, logging.WARNING, "refused")
    assert repeats.happened("x", 1.0 + QUIET, logging.WARNING, "refused")
    repeats.due(2.0 + 2 * QUIET)
    assert not repeats._kinds
