from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylb.balance.first import First
from tests.balance.backends import Rows, held, members


@given(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 5)), min_size=1, max_size=32), st.data())
def test_servers_are_filled_one_after_the_other(servers: list[tuple[int, int]], data: st.DataObject) -> None:
    """In the order of the list, wherever their cells are."""
    rows = Rows(data.draw(st.permutations(range(len(servers)))))
    weights, fills = [weight for weight, _ in servers], [fill for _, fill in servers]
    room = [fill if weight else 0 for weight, fill in servers]
    balancer = First(members(weights, rows, fills=fills))
    expected = [server for server, some in enumerate(room) for _ in range(some)]
    assert held(balancer, rows, sum(room)) == expected


def test_without_fill_the_first_takes_all_and_the_others_stand_by() -> None:
    rows = Rows(range(3))
    balancer = First(members([1, 1, 1], rows))
    assert set(held(balancer, rows, 1000)) == {0}
    assert balancer.pick(frozenset({0})) == 1
    assert balancer.pick(frozenset({0, 1, 2})) is None


def test_when_all_are_full_the_least_loaded_takes_more() -> None:
    rows = Rows(range(2), 2)
    rows.set([1, 0], worker=1)
    balancer = First(members([1, 1], rows, fills=[1, 1]))
    assert held(balancer, rows, 3)[0] == 1
    assert rows.active() == [2, 2]


@pytest.mark.parametrize("count", [64, 500])
def test_a_server_that_has_room_again_gets_the_next_requests(count: int) -> None:
    rows = Rows(range(count))
    balancer = First(members([1] * count, rows, fills=[2] * count))
    held(balancer, rows, count)
    first = random.Random(3).sample(range(count // 2), 5)
    for server in first:
        rows.add(server, -1)
    held(balancer, rows, 40)
    assert all(rows.active()[server] == 2 for server in first)
