from __future__ import annotations

import random
from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylb.balance.leastconn import LeastConn
from tests.balance.backends import Rows, held, members

servers = st.lists(st.tuples(st.integers(1, 10), st.integers(0, 50)), min_size=1, max_size=64)


@given(servers)
def test_the_least_loaded_for_its_weight_is_picked(servers: list[tuple[int, int]]) -> None:
    """Of up to 64 servers, that is."""
    weights = [weight for weight, _ in servers]
    counts = [count for _, count in servers]
    rows = Rows(range(len(servers)))
    rows.set(counts)
    pick = LeastConn(members(weights, rows)).pick()
    assert pick is not None
    least = min((count + 1) / weight for weight, count in servers)
    assert (counts[pick] + 1) / weights[pick] == pytest.approx(least)


@given(st.lists(st.integers(1, 10), min_size=1, max_size=40), st.data())
def test_requests_that_stay_lie_as_the_weights_say(weights: list[int], data: st.DataObject) -> None:
    rows = Rows(data.draw(st.permutations(range(len(weights)))))
    held(LeastConn(members(weights, rows)), rows, 5 * sum(weights))
    for count, weight in zip(rows.active(), weights, strict=True):
        assert 5 * weight - 1 <= count <= 5 * weight + 1


@pytest.mark.parametrize("count", [1, 3, 32, 33, 100])
def test_idle_servers_take_turns(count: int) -> None:
    balancer = LeastConn(members([1] * count))
    picked = Counter(balancer.pick() for _ in range(20 * count))
    assert len(picked) == count and max(picked.values()) <= 2 * min(picked.values())


@pytest.mark.parametrize("count", [2, 20, 50, 500])
@pytest.mark.parametrize(("workers", "bound"), [(1, 2), (4, 2), (8, 2), (12, 5)])
def test_equal_servers_stay_close(count: int, workers: int, bound: int) -> None:
    """Several workers pick, and requests end in any order: the loads of equal servers differ by two at most.

    With more workers than are read at each look, they differ a little more."""
    chance = random.Random(count * workers)
    random.seed(count * workers)  # the algorithms begin somewhere, by chance
    rows = Rows(range(count), workers)
    balancers = [LeastConn(members([1] * count, rows, worker)) for worker in range(workers)]
    active: list[tuple[int, int]] = []
    wide = 0
    for number in range(3000):
        if len(active) >= 250:
            server, worker = active.pop(chance.randrange(len(active)))
            rows.add(server, -1, worker)
        worker = chance.randrange(workers)
        server = held(balancers[worker], rows, 1, worker)[0]
        active.append((server, worker))
        if number >= 1000 and number % 5 == 0:
            counts = rows.active()
            wide += max(counts) - min(counts) > bound
    assert wide <= 4


def test_slow_servers_get_less() -> None:
    """Requests at one server take ten times as long as at the others."""
    rows = Rows(range(100))
    balancer = LeastConn(members([1] * 100, rows))
    now = [deque[int]() for _ in range(1000)]
    picked = Counter[int]()
    for number in range(10_000):
        for server in now[number % 1000]:
            rows.add(server, -1)
        now[number % 1000].clear()
        (server,) = held(balancer, rows, 1)
        picked[server] += 1
        now[(number + (900 if server == 7 else 90)) % 1000].append(server)
    assert picked[7] < 0.3 * picked[8]


def test_what_a_crashed_worker_was_at_is_forgotten_with_its_row() -> None:
    rows = Rows(range(2), 2)
    rows.set([9, 0], worker=1)
    balancer = LeastConn(members([1, 1], rows))
    assert {balancer.pick() for _ in range(4)} == {1}
    rows.set([0, 0], worker=1)
    assert {balancer.pick() for _ in range(4)} == {0, 1}
