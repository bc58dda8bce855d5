from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pylb.balance.roundrobin import RoundRobin
from tests.balance.backends import members

weights = st.lists(st.integers(0, 10), min_size=1, max_size=40).filter(any)


@given(weights, st.integers(1, 3))
def test_the_weights_are_followed_exactly(shares: list[int], cycles: int) -> None:
    balancer = RoundRobin(members(shares))
    picked = Counter(balancer.pick() for _ in range(cycles * sum(shares)))
    if len(set(shares) - {0}) == 1:
        assert set(picked.values()) == {cycles * max(shares)}
    else:
        assert picked == {server: cycles * share for server, share in enumerate(shares) if share}


@given(weights)
def test_a_heavy_server_is_not_picked_many_times_in_a_row(shares: list[int]) -> None:
    balancer = RoundRobin(members(shares))
    sequence = [balancer.pick() for _ in range(3 * sum(shares))]
    for server, share in enumerate(shares):
        places = [place for place, picked in enumerate(sequence) if picked == server]
        for first, second in zip(places, places[1:], strict=False):
            # Between two of its turns each other one has those that fit in, and one more.
            assert second - first <= sum(other // share + 2 for other in shares if other)


def test_equal_servers_strictly_take_turns() -> None:
    balancer = RoundRobin(members([3] * 7))
    sequence = [balancer.pick() for _ in range(21)]
    assert sequence[:7] == sequence[7:14] == sequence[14:]
    assert sorted(map(int, filter(lambda one: one is not None, sequence[:7]))) == list(range(7))  # type: ignore[arg-type]


def test_what_was_excluded_keeps_its_turn() -> None:
    balancer = RoundRobin(members([1, 2]))
    assert {balancer.pick(frozenset({1})) for _ in range(3)} == {0}
    assert {balancer.pick() for _ in range(2)} == {1}


def test_it_goes_on_for_ever() -> None:
    balancer = RoundRobin(members([1, 2]))
    balancer._heap = [(due + (1 << 24), server) for due, server in balancer._heap]
    balancer.pick()
    assert Counter(balancer.pick() for _ in range(300)) == {0: 100, 1: 200}
