"""What all algorithms have in common."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylb.balance import ALGORITHMS, known
from pylb.balance.loads import NEAR, Loads
from pylb.balance.members import Balancer
from tests.balance.backends import members

every = pytest.mark.parametrize("name", sorted(ALGORITHMS))


def keys(count: int) -> list[bytes]:
    return [b"10.1.%d.%d" % (number >> 8, number & 255) for number in range(count)]


def picks(balancer: Balancer, count: int, excluded: frozenset[int] = frozenset()) -> set[int | None]:
    """The servers of so many picks that are over at once."""
    return {balancer.pick(excluded, key) for key in keys(count)}


def test_what_is_written_in_the_configuration() -> None:
    assert known("leastconn") == "leastconn"
    assert known("header:X-User") == "header:NAME"
    assert {known(text) for text in ("header", "header:", "leastconn:x", "", "cheapest", "header:NAME")} == {
        None,
        "header:NAME",
    }


@every
@given(st.lists(st.integers(0, 10), min_size=1, max_size=70), st.sets(st.integers(0, 69)))
def test_excluded_and_weightless_servers_are_never_picked(
    name: str, weights: list[int], excluded: set[int]
) -> None:
    balancer = ALGORITHMS[name](members(weights))
    excluded &= set(range(len(weights)))
    usable = {server for server, weight in enumerate(weights) if weight} - excluded
    found = picks(balancer, 5, frozenset(excluded))
    assert found <= usable if usable else found == {None}


@every
@pytest.mark.parametrize("count", [3, 70])
def test_a_server_is_taken_out_and_comes_back(name: str, count: int) -> None:
    balancer = ALGORITHMS[name](members([1] * count))
    for server in range(1, count):
        balancer.set_weight(server, 0)
    assert picks(balancer, 20) == {0}
    balancer.set_weight(0, 0)
    assert picks(balancer, 20) == {None}
    balancer.set_weight(count - 1, 0.5)
    assert picks(balancer, 20) == {count - 1}


@every
def test_workers_do_not_all_begin_at_the_same_server(name: str) -> None:
    if name == "first":
        return
    first = {
        ALGORITHMS[name](members([1] * 40)).pick(key=None if worker % 2 else b"%d" % worker)
        for worker in range(40)
    }
    assert len(first) > 5


class Counting(bytearray):
    """A row that counts how often it is read."""

    read = 0

    def __getitem__(self, at: Any) -> Any:
        Counting.read += 1
        return super().__getitem__(at)


@every
@pytest.mark.parametrize("servers", [1, 20, 500, 2000])
@pytest.mark.parametrize("others", [0, 1, 300])
def test_a_pick_reads_no_more_rows_for_more_servers_or_workers(name: str, servers: int, others: int) -> None:
    loads = Loads(range(servers), Counting(4 * servers))
    row = Counting(4 * servers)
    loads.look_at([row] * others)
    weights = [1 + server % 2 for server in range(servers)]
    balancer = ALGORITHMS[name](members(weights, loads=loads, factor=1.25))
    most = 0
    for key in keys(50):
        Counting.read = 0
        balancer.pick(key=key)
        most = max(most, Counting.read)
    assert most <= 4 * (1 + min(others, NEAR))
