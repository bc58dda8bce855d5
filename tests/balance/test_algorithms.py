from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from pylb.balance.leastconn import LeastConn
from pylb.balance.roundrobin import RoundRobin, smooth_sequence

weights = st.lists(st.integers(0, 10), min_size=1, max_size=6)


def test_smooth_as_nginx_documents_it() -> None:
    assert smooth_sequence([5, 1, 1]) == [0, 0, 1, 0, 2, 0, 0]


@given(weights, st.integers(0, 1000))
def test_roundrobin_follows_the_weights_exactly(shares: list[int], start: int) -> None:
    balancer = RoundRobin(shares, list, start)
    total = sum(shares)
    picked = Counter(balancer.pick() for _ in range(total))
    if total:
        assert picked == {index: share for index, share in enumerate(shares) if share}
    else:
        assert balancer.pick() is None


@given(weights, st.sets(st.integers(0, 5)))
def test_excluded_and_weightless_servers_are_never_picked(shares: list[int], excluded: set[int]) -> None:
    usable = {index for index, share in enumerate(shares) if share} - excluded
    for balancer in (
        RoundRobin(shares, list, 0),
        LeastConn(shares, lambda: [0] * len(shares), 0),
    ):
        picks = {balancer.pick(frozenset(excluded)) for _ in range(sum(shares) + 1)}
        assert picks <= usable if usable else picks == {None}


@given(st.lists(st.tuples(st.integers(1, 10), st.integers(0, 50)), min_size=1, max_size=6))
def test_leastconn_picks_the_least_loaded_for_its_weight(servers: list[tuple[int, int]]) -> None:
    shares = [share for share, _ in servers]
    loads = [load for _, load in servers]
    pick = LeastConn(shares, lambda: loads).pick()
    assert pick is not None
    best = min((load + 1) / share for share, load in servers)
    assert (loads[pick] + 1) / shares[pick] == best


def test_leastconn_goes_round_among_equals() -> None:
    balancer = LeastConn([1, 1, 1], lambda: [0, 0, 0])
    assert len({balancer.pick() for _ in range(3)}) == 3


def test_a_weight_can_change_while_it_serves() -> None:
    balancer = RoundRobin([1, 1], list, 0)
    balancer.set_weight(0, 0)
    assert {balancer.pick() for _ in range(4)} == {1}
