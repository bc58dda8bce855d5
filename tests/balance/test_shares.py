from __future__ import annotations

import pytest

from pylb.balance.leastconn import LeastConn
from pylb.balance.members import Observer
from pylb.balance.roundrobin import RoundRobin
from pylb.balance.shares import Shares, WithBackups
from pylb.balance.twochoices import LeastLatency
from tests.balance.backends import Rows, held, members


class Seen:
    """An algorithm that notes what weights it is given."""

    def __init__(self) -> None:
        self.weights: list[tuple[int, float]] = []

    def pick(self, excluded: frozenset[int] = frozenset(), key: bytes | None = None) -> int | None:
        return None

    def set_weight(self, server: int, weight: float) -> None:
        self.weights.append((server, weight))


def test_a_server_that_comes_back_begins_with_a_small_part_of_its_weight() -> None:
    seen = Seen()
    shares = Shares(seen, [4, 4], [10.0, 0.0])
    shares.usable(0, False, 100.0)
    assert not shares.rising
    shares.usable(0, True, 200.0)
    assert shares.rising
    for now in (200.1, 205.0, 209.0, 210.0, 211.0):
        shares.step(now)
    assert not shares.rising
    given = [weight for server, weight in seen.weights if server == 0]
    assert given == pytest.approx([0, 0.2, 2.0, 3.6, 4])


def test_a_server_without_slow_start_has_all_of_it_at_once() -> None:
    seen = Seen()
    shares = Shares(seen, [4, 4], [10.0, 0.0])
    shares.usable(1, False, 100.0)
    shares.usable(1, True, 101.0)
    assert (seen.weights, shares.rising) == ([(1, 0), (1, 4)], False)


def test_one_that_goes_again_meanwhile_begins_anew() -> None:
    seen = Seen()
    shares = Shares(seen, [4], [10.0])
    for usable, now in ((False, 0.0), (True, 1.0), (False, 6.0), (True, 20.0)):
        shares.usable(0, usable, now)
    shares.step(20.1)
    assert seen.weights == [(0, 0), (0, 0.2), (0, 0), (0, 0.2)]


def test_a_weight_changes_in_the_middle_of_a_slow_start() -> None:
    seen = Seen()
    shares = Shares(seen, [4], [10.0])
    shares.usable(0, False, 0.0)
    shares.usable(0, True, 0.0)
    shares.weigh(0, 8, 5.0)
    assert seen.weights[-1] == (0, 4.0)
    shares.usable(0, False, 6.0)
    shares.weigh(0, 2, 6.0)
    assert seen.weights[-1] == (0, 0)


def test_with_leastconn_a_server_in_its_slow_start_gets_a_part() -> None:
    rows = Rows(range(2))
    balancer = LeastConn(members([1, 1], rows))
    shares = Shares(balancer, [1, 1], [10.0, 0.0])
    shares.usable(0, False, 0.0)
    shares.usable(0, True, 0.0)
    shares.step(2.5)
    held(balancer, rows, 100)
    assert rows.active() == pytest.approx([20, 80], abs=1)


def test_backups_are_picked_from_while_no_other_server_can_be() -> None:
    balancer = WithBackups(RoundRobin, members([1, 1, 2, 1]), [False, False, True, True])
    assert {balancer.pick() for _ in range(8)} == {0, 1}
    assert {balancer.pick(frozenset({0})) for _ in range(8)} == {1}
    backups = [balancer.pick(frozenset({0, 1})) for _ in range(9)]
    assert (backups.count(2), backups.count(3)) == (6, 3)
    balancer.set_weight(0, 0)
    balancer.set_weight(1, 0)
    assert {balancer.pick() for _ in range(8)} == {2, 3}
    balancer.set_weight(1, 1)
    assert {balancer.pick() for _ in range(8)} == {1}


def test_backups_response_times_are_observed_only_where_that_matters() -> None:
    assert not isinstance(WithBackups(RoundRobin, members([1, 1]), [False, True]), Observer)
    balancer = WithBackups(LeastLatency, members([1, 1, 1]), [False, False, True])
    assert isinstance(balancer, Observer)
    balancer.observe(0, 1.0)
    assert {balancer.pick() for _ in range(8)} == {1}
