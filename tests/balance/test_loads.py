from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from pylb.balance.loads import LANES, NEAR
from tests.balance.backends import Rows

indices = st.lists(st.integers(0, 99), min_size=1, max_size=60, unique=True)


@given(indices, st.integers(1, 20), st.randoms())
def test_the_sums_are_those_of_all_workers(indices: list[int], workers: int, chance: random.Random) -> None:
    """Wherever the servers' cells are, and with cells of other backends in between."""
    rows = Rows(indices, workers)
    for row in rows.cells:
        for index in range(len(row)):
            row[index] = chance.choice((0, 1, 70_000))
    loads = rows.loads()
    assert [loads.of(position) for position in range(len(indices))] == rows.active()
    assert sum(loads.total(number) for number in range(len(loads.blocks))) == sum(rows.active())
    assert len(loads.blocks) == len({index // LANES for index in indices})


def test_a_few_other_workers_are_read_live() -> None:
    rows = Rows(range(3), 1 + NEAR)
    loads = rows.loads()
    for worker in range(1 + NEAR):
        rows.add(1, worker=worker)
    assert loads.of(1) == 1 + NEAR


def test_of_many_other_workers_some_are_read_at_each_look() -> None:
    rows = Rows(range(3), 1 + 3 * NEAR)
    loads = rows.loads()
    for worker in range(1 + 3 * NEAR):
        rows.add(1, worker=worker)
    assert [loads.of(1) for _ in range(4)] == [1 + NEAR, 1 + 2 * NEAR, 1 + 3 * NEAR, 1 + 3 * NEAR]
    rows.cells[-1][1] = 0
    assert min(loads.of(1) for _ in range(3)) == 3 * NEAR


def test_workers_come_and_go() -> None:
    rows = Rows(range(2), 30)
    loads = rows.loads()
    rows.set([1, 5], worker=29)
    loads.look_at([])
    assert loads.of(1) == 0
    loads.look_at([rows.bytes[29]])
    assert loads.of(1) == 5
