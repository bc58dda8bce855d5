"""What every levelling plan must hold to."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pylb.net.levelling import LEAST_EXCESS, TOLERANCE, Move, plan

COUNTS = st.dictionaries(st.integers(0, 50), st.integers(0, 5000), max_size=20)


def carried_out(counts: dict[int, int], limit: int) -> dict[int, int]:
    after = dict(counts)
    for move in plan(counts, limit):
        assert move.count > 0 and move.source != move.target
        after[move.source] -= move.count
        after[move.target] += move.count
    return after


@given(COUNTS, st.integers(0, 1000))
def test_a_plan_never_overshoots(counts: dict[int, int], limit: int) -> None:
    after = carried_out(counts, limit)
    mean = sum(counts.values()) / max(1, len(counts))
    for row in counts:
        assert min(counts[row], int(mean)) <= after[row] <= max(counts[row], -(-mean // 1))
    assert sum(move.count for move in plan(counts, limit)) <= limit


@given(COUNTS)
def test_an_unlimited_plan_is_enough(counts: dict[int, int]) -> None:
    assert plan(carried_out(counts, 10**9), 10**9) == []


@given(COUNTS)
def test_nobody_below_the_threshold_gives(counts: dict[int, int]) -> None:
    mean = sum(counts.values()) / max(1, len(counts))
    for move in plan(counts, 10**9):
        assert counts[move.source] > TOLERANCE * mean
        assert counts[move.source] - mean >= LEAST_EXCESS


def test_a_new_worker_gets_its_half() -> None:
    assert plan({3: 250, 5: 0}, 400) == [Move(3, 5, 125)]
