"""The order of those that wait."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pylb.queue.order import Order


def _all(order: Order[str]) -> list[str]:
    found = []
    while (first := order.first()) is not None:
        assert first.item is not None and order.rank == first.rank > 0
        found.append(first.item)
        order.remove(first, served=True)
    assert order.rank == len(order) == 0
    return found


def test_first_come_first_served_within_a_priority() -> None:
    order = Order[str]()
    for now, (item, priority) in enumerate([("a", 0), ("b", 3), ("c", -2047), ("d", 0), ("e", 2047)]):
        order.add(item, 10**9 + now, priority)
    assert _all(order) == ["c", "a", "d", "b", "e"]


def test_who_leaves_is_passed_over() -> None:
    order = Order[str]()
    entries = [order.add(item, 1) for item in "abcd"]
    order.remove(entries[0])
    order.remove(entries[2])
    order.remove(entries[2])
    assert [entry.item for entry in order.some(9)] == ["b", "d"]
    assert _all(order) == ["b", "d"]


def test_keys_take_turns_and_a_new_one_does_not_wait_for_those_before() -> None:
    order = Order[str](fair=True)
    for number in range(4):
        order.add(f"a{number}", 0, key="a")
    for _ in range(2):
        first = order.first()
        assert first is not None
        order.remove(first, served=True)
    order.add("b0", 0, key="b")
    assert _all(order)[:2] in (["b0", "a2"], ["a2", "b0"])


def test_a_key_that_comes_back_has_no_advantage() -> None:
    """Though it was away, and its last request is forgotten."""
    order = Order[str](fair=True)
    for number in range(5):
        order.add(f"b{number}", 0, key="b")
    served = []
    for number in range(6):
        order.add(f"a{number}", 0, key="a")
        for _ in range(1):
            first = order.first()
            assert first is not None and first.item is not None
            served.append(first.item[0])
            order.remove(first, served=True)
    assert served.count("a") == 3


def test_ranks_of_other_workers_are_taken_into_account() -> None:
    busy, idle = Order[str](fair=True), Order[str](fair=True)
    for number in range(100):
        busy.add(f"a{number}", 0, key="a")
    for _ in range(50):
        first = busy.first()
        assert first is not None
        busy.remove(first, served=True)
    fresh = idle.add("b", 0, key="b", others=busy.rank)
    assert abs(fresh.rank - busy.rank) <= 1


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-2, 2), st.booleans()), max_size=200))
def test_whoever_is_served_is_the_first_of_those_that_are_left(
    events: list[tuple[int, int, bool]],
) -> None:
    order = Order[int]()
    waiting: list[tuple[int, int, object]] = []
    for number, (what, priority, early) in enumerate(events):
        if what and waiting:
            entry = (
                waiting.pop(0 if early else -1)[2] if what == 3 else min(waiting, key=lambda one: one[:2])[2]
            )
            waiting = [one for one in waiting if one[2] is not entry]
            if what != 3:
                assert order.first() is entry
            order.remove(entry)  # type: ignore[arg-type]
        else:
            waiting.append((priority, number, order.add(number, number, priority)))
        assert len(order) == len(waiting)
