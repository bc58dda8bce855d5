"""The whole table of phases and events, and what comes of rows of checks."""

from __future__ import annotations

import random

import pytest

from pylb.health.pace import Pace
from pylb.health.state import TRANSITIONS, Bounds, Event, Phase, Tracker, restored

P, F, U, D = Event.PASSED, Event.FAILED, Event.SAID_UP, Event.SAID_DOWN
UNKNOWN, UP, FALLING, DOWN, RISING = Phase

# With rise = 2 and fall = 3: the phase and its row before, what comes, the phase and its row then.
TABLE = [
    (UNKNOWN, 0, P, UP, 0),
    (UNKNOWN, 0, F, DOWN, 0),
    (UNKNOWN, 0, U, UP, 0),
    (UNKNOWN, 0, D, DOWN, 0),
    (UP, 0, P, UP, 0),
    (UP, 0, F, FALLING, 1),
    (UP, 0, U, UP, 0),
    (UP, 0, D, DOWN, 0),
    (FALLING, 1, P, UP, 0),
    (FALLING, 1, F, FALLING, 2),
    (FALLING, 2, P, UP, 0),
    (FALLING, 2, F, DOWN, 0),
    (FALLING, 1, U, UP, 0),
    (FALLING, 1, D, DOWN, 0),
    (DOWN, 0, P, RISING, 1),
    (DOWN, 0, F, DOWN, 0),
    (DOWN, 0, U, UP, 0),
    (DOWN, 0, D, DOWN, 0),
    (RISING, 1, P, UP, 0),
    (RISING, 1, F, DOWN, 0),
    (RISING, 1, U, UP, 0),
    (RISING, 1, D, DOWN, 0),
]


@pytest.mark.parametrize(
    ("phase", "row", "event", "then", "row_then"),
    TABLE,
    ids=[f"{phase.name}({row})-{event.name}-{then.name}" for phase, row, event, then, _ in TABLE],
)
def test_transition(phase: Phase, row: int, event: Event, then: Phase, row_then: int) -> None:
    tracker = Tracker(Bounds(rise=2, fall=3), phase, row)
    before = tracker.up
    changed = tracker.take(event)
    assert (tracker.phase, tracker.row) == (then, row_then)
    assert changed is (tracker.up is not before)


def test_the_table_has_every_phase_and_event() -> None:
    assert set(TRANSITIONS) == {(phase, event) for phase in Phase for event in Event}
    assert {(phase, event) for phase, _, event, _, _ in TABLE} == set(TRANSITIONS)


@pytest.mark.parametrize(
    ("checks", "states"),
    [
        ("PFFF", "+++-"),
        ("PFFPFFPFF", "+++++++++"),
        ("PFFFPP", "+++--+"),
        ("FPFPFPP", "------+"),
        ("FPP", "--+"),
        ("PFPFPF", "++++++"),
    ],
)
def test_rows_of_checks(checks: str, states: str) -> None:
    tracker = Tracker(Bounds(rise=2, fall=3))
    seen = ""
    for check in checks:
        tracker.take(P if check == "P" else F)
        seen += "+" if tracker.up else "-"
    assert seen == states


def test_bounds_of_one_change_at_once() -> None:
    tracker = Tracker(Bounds(rise=1, fall=1))
    assert [tracker.take(event) for event in (P, F, F, P, P)] == [True, True, False, True, False]


def test_a_tracker_goes_on_from_what_was_kept() -> None:
    bounds = Bounds(rise=2, fall=3)
    tracker = Tracker(bounds)
    for event in (P, F, F):
        tracker.take(event)
    again = restored(bounds, tracker.kept())
    assert again == tracker
    assert again.take(F) and again.phase is DOWN


@pytest.mark.parametrize("kept", [None, [], [7, 0], [1], ["1", 0], [1, -1], {"phase": 1}, [1, 0, 0]])
def test_what_was_kept_and_is_unusable_is_forgotten(kept: object) -> None:
    assert restored(Bounds(), kept) == Tracker(Bounds())


def test_intervals_follow_the_phase() -> None:
    pace = Pace(interval=10, fast=1, down=5)
    tracker = Tracker(Bounds())
    waits = []
    for event in (P, F, F, F, F, P, P):
        tracker.take(event)
        waits.append(pace.after(tracker, 100, 100.5, 0.5) - 100)
    assert waits == [10, 1, 1, 5, 5, 1, 10]


def test_a_check_that_took_longer_than_the_interval_is_followed_at_once() -> None:
    assert Pace(1, 1, 1).after(Tracker(Bounds(), UP), 100, 103, 0.5) == 103


def test_jitter_spreads_and_keeps_the_mean() -> None:
    source = random.Random(1)
    pace = Pace(10, 10, 10, jitter=0.1)
    waits = [pace.after(Tracker(Bounds(), UP), 0, 0, source.random()) for _ in range(2000)]
    assert 9 <= min(waits) < 9.1 and 10.9 < max(waits) <= 11
    assert sum(waits) / len(waits) == pytest.approx(10, abs=0.1)


def test_servers_of_which_something_is_known_are_spread_over_their_interval() -> None:
    pace = Pace(10, 1, 5)
    assert pace.first(Tracker(Bounds(), UP), 700, 0.25) == 2.5
    assert pace.first(Tracker(Bounds(), DOWN), 700, 0.5) == 2.5
    assert pace.first(Tracker(Bounds()), 0, 0.5) == 0
    assert pace.first(Tracker(Bounds()), 1000, 0.5) == 1.0
