from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylb.balance.ring import ALWAYS, Ring
from tests.balance.backends import Rows, held, members
from tests.balance.test_algorithms import keys

KEYS = keys(4000)


def owners(ring: Ring) -> list[int | None]:
    return [ring.pick(key=key) for key in KEYS]


@settings(max_examples=20)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=20))
def test_keys_lie_as_the_weights_say(weights: list[int]) -> None:
    shares = Counter(owners(Ring(members(weights))))
    for server, weight in enumerate(weights):
        wanted = len(KEYS) * weight / sum(weights)
        assert shares[server] == pytest.approx(wanted, rel=0.5, abs=60)


@pytest.mark.parametrize("count", [2, 10, 100])
def test_hardly_more_than_its_own_keys_move_when_a_server_goes_or_comes(count: int) -> None:
    """By a reload, which makes a new ring, as by a change of weight."""
    with_all = members([1] * count, factor=1.25)
    without = replace(
        members([1] * (count - 1), factor=1.25), names=[*with_all.names[:1], *with_all.names[2:]]
    )
    ring = Ring(with_all)
    before = owners(ring)
    after = owners(Ring(without))
    after = [server + (server >= 1) if server is not None else None for server in after]
    moved = [one for one, other in zip(before, after, strict=True) if one != other]
    assert len(moved) <= (1 / count + 0.05) * len(KEYS)
    assert set(moved) == {1}
    ring.set_weight(1, 0)
    assert owners(ring) == after
    ring.set_weight(1, 1)
    assert owners(ring) == before


@settings(max_examples=20)
@given(st.lists(st.integers(1, 4), min_size=2, max_size=20), st.sampled_from((1.1, 1.25, 2.0)))
def test_no_server_takes_more_than_its_bounded_share(weights: list[int], factor: float) -> None:
    """All requests have the same key; as many stay as are more than a few for each."""
    rows = Rows(range(len(weights)))
    ring = Ring(members(weights, rows, factor=factor))
    count = 20 * len(weights)
    for _ in range(count):
        server = ring.pick(key=b"the same")
        assert server is not None
        rows.add(server)
    for active, weight in zip(rows.active(), weights, strict=True):
        assert active <= max(ALWAYS, factor * count * weight / sum(weights) + 1)


def test_without_a_factor_all_requests_of_a_key_go_to_one_server() -> None:
    rows = Rows(range(5))
    ring = Ring(members([1] * 5, rows))
    for _ in range(100):
        rows.add(ring.pick(key=b"the same") or 0)
    assert sorted(rows.active()) == [0, 0, 0, 0, 100]


def test_a_few_requests_are_no_overload() -> None:
    rows = Rows(range(5))
    ring = Ring(members([1] * 5, rows, factor=1.25))
    for _ in range(ALWAYS):
        rows.add(ring.pick(key=b"the same") or 0)
    assert max(rows.active()) == ALWAYS


def test_without_a_key_servers_take_turns() -> None:
    rows = Rows(range(5))
    held(Ring(members([1] * 5, rows, factor=1.25)), rows, 50)
    assert rows.active() == [10] * 5


def test_other_processes_have_the_same_ring() -> None:
    code = (
        "from tests.balance.backends import members; from pylb.balance.ring import Ring; "
        "ring = Ring(members([1] * 50)); print([ring.pick(key=b'%d' % one) for one in range(50)])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    ring = Ring(members([1] * 50))
    assert out.strip() == str([ring.pick(key=b"%d" % one) for one in range(50)])
    assert out.startswith("[")


def test_two_servers_of_the_same_name_both_get_keys() -> None:
    ring = Ring(replace(members([1, 1]), names=["a", "a"]))
    assert set(owners(ring)) == {0, 1}
