"""Outliers: when a server is ejected, for how long, and how it comes back. A table of state × event."""

from __future__ import annotations

from typing import Any

import pytest

from pylb.health.outlier import Counts, Event, Outliers, Settings, State
from pylb.health.panic import Member, panics


class Backend:
    """Servers whose answers a test makes up; a look comes a quarter of a second after the last one."""

    def __init__(self, count: int = 4, **settings: Any) -> None:
        self.outliers: Outliers[int] = Outliers(Settings(**settings))
        self.counts = {server: Counts(0, 0) for server in range(count)}
        self.usable = set(range(count))
        self.now = 100.0
        self.look()

    def look(self, seconds: float = 0.25, **answers: Any) -> list[Event[int]]:
        """Server ``sN=(good, failed)`` has answered so, and then it is looked."""
        self.now += seconds
        for name, (good, failed) in answers.items():
            server = int(name[1:])
            before = self.counts[server]
            self.counts[server] = Counts(before.good + good, before.failed + failed)
        return self.outliers.look(self.now, self.counts, self.usable)

    def state(self, server: int = 0) -> State:
        return self.outliers.state(server)

    def ejected(self, server: int = 0) -> Event[int]:
        """Eject a server by failures."""
        (event,) = self.look(0.25, **{f"s{server}": (0, 5)})
        assert event.state is State.EJECTED and not event.spared
        return event

    def tried(self, server: int = 0, seconds: float = 1000.0) -> None:
        (event,) = self.look(seconds)
        assert event.server == server and event.state is State.TRIED


def _in() -> Backend:
    return Backend(eject=30, good=2)


def _ejected() -> Backend:
    backend = _in()
    backend.ejected()
    return backend


def _tried() -> Backend:
    backend = _ejected()
    backend.tried()
    return backend


IN, EJECTED, TRIED = State.IN, State.EJECTED, State.TRIED


@pytest.mark.parametrize(
    ("state", "event", "then"),
    [
        (IN, {"s0": (0, 0)}, IN),
        (IN, {"s0": (9, 0)}, IN),
        (IN, {"s0": (0, 4)}, IN),
        (IN, {"s0": (1, 9)}, IN),  # they may have come before the good answer
        (IN, {"s0": (0, 5)}, EJECTED),
        (IN, {"s0": (0, 100)}, EJECTED),
        (IN, {"seconds": 1000}, IN),
        (EJECTED, {"s0": (0, 9)}, EJECTED),  # requests that were under way
        (EJECTED, {"s0": (9, 0)}, EJECTED),
        (EJECTED, {"seconds": 29}, EJECTED),
        (EJECTED, {"seconds": 31}, TRIED),
        (TRIED, {"s0": (0, 0)}, TRIED),
        (TRIED, {"seconds": 1000}, TRIED),
        (TRIED, {"s0": (1, 0)}, TRIED),
        (TRIED, {"s0": (2, 0)}, IN),
        (TRIED, {"s0": (0, 1)}, EJECTED),
        (TRIED, {"s0": (9, 1)}, EJECTED),
    ],
)
def test_states_and_events(state: State, event: dict[str, Any], then: State) -> None:
    backend = {IN: _in, EJECTED: _ejected, TRIED: _tried}[state]()
    assert backend.state() is state
    events = backend.look(**event)
    assert backend.state() is then
    changed = [(0, then, False)] if then != state else []
    assert [(one.server, one.state, one.spared) for one in events] == changed
    assert [backend.state(other) for other in (1, 2, 3)] == [IN] * 3


def test_failures_in_a_row_may_come_in_many_looks_and_a_good_answer_ends_the_row() -> None:
    backend = Backend()
    for failed in (2, 2):
        assert backend.look(s0=(0, failed)) == []
    assert backend.look(s0=(1, 0)) == []
    for failed in (2, 2):
        assert backend.look(s0=(0, failed)) == []
    (event,) = backend.look(s0=(0, 1))
    assert event == Event(0, EJECTED, "5 failures in a row; for 30 s")


def test_a_share_of_failures_in_a_window_ejects() -> None:
    backend = Backend(failures=0, rate=0.5, requests=20, window=10)
    assert backend.look(s0=(5, 14)) == []  # too few
    (event,) = backend.look(s0=(4, 6))
    assert event.why == "20 of 29 requests in 10 s have failed; for 30 s"
    backend = Backend(failures=0, rate=0.5, requests=20, window=10)
    assert backend.look(s0=(5, 14)) == []
    assert backend.look(11.0, s0=(4, 6)) == []  # the first ones are out of the window
    assert backend.look(s0=(12, 10)) == []
    assert backend.state() is IN


def test_each_ejection_takes_longer_up_to_a_bound_and_is_forgotten_in_time() -> None:
    backend = Backend(eject=10, eject_most=25, good=1)
    for seconds in (10, 20, 25, 25):
        event = backend.ejected()
        assert event.why.endswith(f"for {seconds} s")
        assert backend.look(seconds - 1) == []
        backend.tried(seconds=1)
        (back,) = backend.look(s0=(1, 0))
        assert back.state is IN and back.why == "1 good answers"
    for _ in range(4):
        backend.look(10.1, s0=(1, 0))
    assert backend.ejected().why.endswith("for 10 s")


def test_a_server_that_fails_when_it_is_tried_is_out_for_longer() -> None:
    backend = Backend(eject=10)
    backend.ejected()
    backend.tried(seconds=10)
    (event,) = backend.look(s0=(0, 1))
    assert event.why == "it has failed again when it was tried; for 20 s"


def test_no_more_than_a_share_is_ejected() -> None:
    backend = Backend(count=4, share=0.5)
    backend.ejected(0)
    backend.ejected(1)
    (event,) = backend.look(s2=(0, 5))
    assert event.spared and backend.state(2) is IN
    assert event.why == "5 failures in a row, but 2 of 4 servers are ejected"
    assert backend.look(s2=(0, 50)) == []  # said once
    backend.look(s2=(1, 0))
    (event,) = backend.look(s2=(0, 5))
    assert event.spared


def test_one_of_few_may_be_ejected_and_never_the_last_that_is_usable() -> None:
    backend = Backend(count=3, share=0.1)
    backend.ejected(0)
    assert backend.look(s1=(0, 5))[0].spared
    backend = Backend(count=3, share=1.0)
    backend.usable = {0, 1}
    backend.ejected(0)
    (event,) = backend.look(s1=(0, 5))
    assert event.spared and event.why.endswith("but no other server is usable")
    alone = Backend(count=1)
    assert alone.look(s0=(0, 5))[0].spared


def test_what_is_down_already_is_not_judged() -> None:
    backend = Backend()
    backend.usable = {1, 2, 3}
    assert backend.look(s0=(0, 9)) == []
    backend.usable = {0, 1, 2, 3}
    assert backend.look(s0=(0, 4)) == []  # what came before doesn't count


def test_servers_come_and_go_and_figures_that_go_back_count_for_nothing() -> None:
    backend = Backend(count=2)
    backend.counts[2] = Counts(50, 50)
    backend.usable.add(2)
    assert backend.look() == []
    backend.counts[2] = Counts(0, 3)
    assert backend.look() == []
    backend.ejected(0)
    del backend.counts[0]
    backend.look()
    assert backend.state(0) is IN


def test_the_next_process_goes_on() -> None:
    backend = Backend(eject=10)
    backend.ejected()
    kept = backend.outliers.kept(0)
    after = Backend(eject=10)
    after.outliers.take_back(0, Counts(7, 7), kept)
    after.counts[0] = Counts(7, 7)
    after.now = backend.now
    assert after.look() == [] and after.state() is EJECTED
    after.tried(seconds=10)
    assert after.look(s0=(0, 1))[0].why.endswith("for 20 s")
    with pytest.raises(ValueError):
        after.outliers.take_back(0, Counts(0, 0), [1.0])


UP, DOWN, OUT = Member(True, True), Member(True, False), Member(False, True)
BACKUP, BACKUP_DOWN = Member(True, True, True), Member(True, False, True)


@pytest.mark.parametrize(
    ("members", "share", "expected"),
    [
        ([DOWN, DOWN], 0.0, False),
        ([UP, UP], 0.5, False),
        ([UP, DOWN], 0.5, False),
        ([UP, DOWN, DOWN], 0.5, True),
        ([DOWN, DOWN], 0.1, True),
        ([UP, DOWN], 1.0, True),
        ([UP, OUT, OUT, OUT], 0.5, False),  # in maintenance: those aren't expected to be there
        ([OUT, OUT], 0.5, False),
        ([], 0.5, False),
        ([DOWN, DOWN, BACKUP], 0.5, False),
        ([DOWN, DOWN, BACKUP_DOWN], 0.5, True),
    ],
)
def test_panic(members: list[Member], share: float, expected: bool) -> None:
    assert panics(members, share) is expected
