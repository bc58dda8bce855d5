"""What is said again and again is said once, then counted."""

from __future__ import annotations

import logging
import math

from pylb.repeats import EVERY, QUIET, Repeats, raised_at


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


def test_what_is_never_forgotten_is_told_at_its_own_pace() -> None:
    repeats = Repeats(every=60.0, quiet=math.inf)
    assert repeats.happened("x", 0.0, logging.ERROR, "failed")
    assert repeats.due(1e6) == []
    assert not repeats.happened("x", 1e6, logging.ERROR, "failed")
    assert repeats.due(1e6) == [(logging.ERROR, "failed (1 more in 1000000 s)")]
    assert not repeats.happened("x", 1e6 + 1, logging.ERROR, "failed")
    assert repeats.due(1e6 + 59) == []


def test_kinds_are_bounded() -> None:
    """Whoever can make up kinds gets lines for it, and no memory."""
    repeats = Repeats(most=2)
    for kind in ("a", "b", "a", "c"):
        repeats.happened(kind, 0.0, logging.INFO, kind)
    assert not repeats.happened("c", 1.0, logging.INFO, "c")
    assert not repeats.happened("b", 1.0, logging.INFO, "b")
    assert repeats.happened("a", 1.0, logging.INFO, "a")


def test_where_an_exception_was_raised() -> None:
    def deep() -> None:
        raise KeyError

    assert raised_at(KeyError()) == "?"
    try:
        deep()
    except KeyError as error:
        assert raised_at(error) == f"test_repeats.py:{deep.__code__.co_firstlineno + 1}"
