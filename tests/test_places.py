"""Places: never more than there are, over processes; and what a dead worker held is given back."""

from __future__ import annotations

import ctypes
import mmap
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from functools import partial
from types import FrameType
from typing import Any

import pytest

from pylb.config.address import parse_address
from pylb.config.model import Config, Server
from pylb.net.serverlists import Listed
from pylb.places import Holder, Places, Tally, row_before, semaphore
from pylb.scoreboard import Field, Scoreboard, ServerField, State
from pylb.servers import Column, Table
from pylb.supervisor.indices import NoRoom, backends_for, room_for
from pylb.supervisor.places import ON_ITS_WAY, PlaceKeeper
from pylb.supervisor.servers import Servers

_CONFIG = Config.model_validate(
    {
        "frontend": [{"name": "f", "bind": "127.0.0.1:80", "backend": "b"}],
        "backend": [{"name": "b", "server": ["127.0.0.1:1"]}],
    }
)


def _keeper(board: Scoreboard, maxconn: int) -> PlaceKeeper:
    """Of one server, whose index is 0."""
    server = Server(address=parse_address("127.0.0.1:1"), maxconn=maxconn)
    keeper = PlaceKeeper(board, lambda config: {"b": [Listed(server, 0)]})
    keeper.follow(1, _CONFIG)
    return keeper


def _audit(places: Places, place: int, capacity: int) -> int:
    """Until it can be said; by how many more are free."""
    while (paid := places.audit(place, capacity)) is None:
        pass
    return paid


class _Worker:
    """Takes places and gives them back."""

    def __init__(self, places: Places, row: int) -> None:
        holder = self.holder = Holder(places, row)
        self._ends = [holder.ends(place, 0, lambda _: None) for place in range(4)]

    def take(self, place: int) -> bool:
        return self._ends[place][0]()

    def give(self, place: int) -> None:
        self._ends[place][1]()


@pytest.fixture
def places() -> Iterator[Places]:
    yield Places(4, 8, 2)


@pytest.mark.parametrize("interpreters", [True, False])
def test_a_semaphore_is_the_same_to_all_who_know_its_address(interpreters: bool) -> None:
    shared = mmap.mmap(-1, 64)
    address = ctypes.addressof(ctypes.c_char.from_buffer(shared))
    ctypes.CDLL(None).sem_init(ctypes.c_void_p(address), 1, 1)
    one, other = semaphore(address, interpreters), semaphore(address, not interpreters)
    assert one.acquire(False) and not other.acquire(False) and other._get_value() == 0
    one.release()
    one.release()
    assert other._get_value() == one._get_value() == 2
    assert other.acquire(False) and one.acquire(False) and not one.acquire(False)


def test_a_place_is_taken_while_one_is_free(places: Places) -> None:
    assert places.audit(3, 2) == 2
    one, other = _Worker(places, 0), _Worker(places, 1)
    assert one.take(3) and other.take(3)
    assert not one.take(3) and not other.take(3)
    assert not one.take(2)  # another one's
    assert [places.free[place] for place in (2, 3)] == [0, 0]
    other.give(3)
    assert places.free[3] == 1 and one.take(3)


def test_what_a_worker_held_is_given_back(places: Places) -> None:
    places.audit(0, 3)
    one, other = _Worker(places, 0), _Worker(places, 1)
    assert one.take(0) and one.take(0) and other.take(0)
    assert places.audit(0, 3) == 0
    places.retire(0)
    assert places.audit(0, 3) == 2
    assert other.take(0) and other.take(0) and not other.take(0)


class _Killed(BaseException):
    """The worker is gone, at this instruction."""


def _stopping(number: int, then: Callable[[], None], step: Callable[[], object]) -> bool:
    """Run a step of a holder's, and before its so-and-so-many-th instruction something else; whether it has
    that many."""
    left = number

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code.co_name not in ("take", "give") or not frame.f_code.co_filename.endswith("places.py"):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            left -= 1
            if left == 0:
                then()
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        step()
    except _Killed:
        pass
    finally:
        sys.settrace(before)
    return left <= 0


def _about_to(step: str) -> tuple[Places, Callable[[], object], int]:
    """Of a place for two, where a worker is about to do this, and one that is free or held by another one."""
    places = Places(2, 4, 1)
    _audit(places, 0, 2)
    holder = _Worker(places, 0)
    take, give = partial(holder.take, 0), partial(holder.give, 0)
    assert take()
    if step == "take what isn't free":
        assert _Worker(places, 1).take(0)
    if step == "give what is owed":
        assert take()
        _audit(places, 0, 1)
        return places, give, 1
    return places, (take if step.startswith("take") else give), 2


@pytest.mark.parametrize(
    "step", ["take what is free", "take what isn't free", "give", "give what is owed"]
)
def test_a_worker_that_is_looked_at_or_dies_at_any_instruction(step: str) -> None:
    """As long as it lives, no place is made that it may have; when it has died, all that it had are free."""
    number = 0
    more = True
    while more:
        number += 1
        for dies in (False, True):
            places, act, capacity = _about_to(step)
            others = places.held(0)[1]

            def look(places: Places = places, capacity: int = capacity, dies: bool = dies) -> None:
                before = places.free[0]
                for _ in range(3):
                    assert not places.audit(0, capacity)
                assert places.free[0] <= before
                if dies:
                    raise _Killed

            more = _stopping(number, look, act)
            if more and dies:
                places.retire(0)
            _audit(places, 0, capacity)
            _audit(places, 0, capacity)
            held = sum(places.held(0))
            assert held == others or not (more and dies)
            assert places.free[0] == capacity - held
    assert number > 5


def test_a_limit_that_falls_and_rises_while_places_are_taken(places: Places) -> None:
    places.audit(0, 4)
    one = _Worker(places, 0)
    assert all(one.take(0) for _ in range(4))
    assert _audit(places, 0, 2) == 0
    one.give(0)
    one.give(0)
    assert not one.take(0)  # two are left, which is the limit
    one.give(0)
    assert one.take(0) and not one.take(0)
    assert places.audit(0, 3) == 1
    assert one.take(0) and not one.take(0)
    for _ in range(3):
        one.give(0)
    assert _audit(places, 0, 1) == 0 and places.free[0] == 1


def test_a_limit_that_comes_while_requests_are_there() -> None:
    board = Scoreboard(1)
    board.row(0)[Field.STATE] = State.SERVING
    active = board.server_column(ServerField.ACTIVE, 0)
    active[0] = 2
    keeper = _keeper(board, 0)
    keeper.tick(0.0)
    Table(board).supervisor_set(Column.MAXCONN, 0, 3)
    keeper.follow(1, _CONFIG)
    assert not keeper.tick(0.1)
    holder = _Worker(board.places, 0)
    assert holder.take(0) and not holder.take(0)
    active[0] = 1 + 1  # one of the old ones is over; one place is held
    keeper.tick(1.2)
    keeper.tick(2.3)
    assert holder.take(0) and not holder.take(0)


def test_whose_request_is_next() -> None:
    assert row_before([0, 7, 5, 9], 6) == 2
    assert row_before([0, 7, 5, 9], 5) == -1
    assert row_before([0, 0], 1) == -1


def test_a_queues_figures_outlive_its_worker(places: Places) -> None:
    cells = places.tally(1, 2)
    cells[Tally.LENGTH], cells[Tally.QUEUED] = 3, 5
    places.retire(2)
    assert sum(places.tallies(1, Tally.LENGTH)) == 0
    assert sum(places.tallies(1, Tally.QUEUED)) == 5
    assert places.tally(0, 2)[Tally.QUEUED] == 0


def _bounded(count: int) -> Config:
    backends = [{"name": f"b{number}", "server": ["127.0.0.1:1"], "maxconn": 1} for number in range(count)]
    frontend = {"name": "f", "bind": "127.0.0.1:80", "backend": "b0"}
    return Config.model_validate({"frontend": [frontend], "backend": backends})


def test_no_two_backends_have_the_same_places_however_many_there_are() -> None:
    """Those that have a limit go first, and the room grows with the configuration."""
    board = Scoreboard(1, backends=2)
    board.add_backends(["a", "b", "c"], [], {"c"})
    assert board.backends.keys() == {"a", "c"}
    with pytest.raises(OverflowError):
        board.add_backends(["a", "c", "d"], [], {"d"})
    assert board.backends.keys() == {"a", "c"}
    many = _bounded(300)
    board = Scoreboard(1, room_for(many), backends=backends_for(many))
    Servers(board, many)
    assert len(set(board.backends.values())) == 300
    with pytest.raises(NoRoom, match="900 backends"):
        Servers(board, _bounded(901))


def test_processes_never_have_more_than_there_are() -> None:
    """Four that take and give all the time, and count in memory of theirs; one of them is killed."""
    board = Scoreboard(4)
    keeper = _keeper(board, 2)
    keeper.tick(0.0)
    children = []
    for row in range(4):
        board.row(row)[Field.STATE] = State.SERVING
        pid = os.fork()
        if not pid:
            holder = _Worker(board.places, row)
            at_it = [board.row(number) for number in range(4)]
            worst = done = 0
            chance = random.Random(row)
            while done < 20_000 or row == 3:
                if holder.take(0):
                    at_it[row][Field.IN_FLIGHT] = 1
                    worst = max(worst, sum([cells[Field.IN_FLIGHT] for cells in at_it]))
                    for _ in range(chance.randrange(20)):
                        pass
                    at_it[row][Field.IN_FLIGHT] = 0
                    holder.give(0)
                    done += 1
                    board.row(row)[Field.REQUESTS] = done
            os._exit(min(worst, 100))
        children.append(pid)
    while board.row(3)[Field.REQUESTS] < 1000:
        pass
    os.kill(children[3], signal.SIGKILL)
    assert os.waitpid(children[3], 0)[1] == signal.SIGKILL
    board.retire(3)
    keeper.look()
    while keeper.tick(0.1):
        pass
    statuses = [os.waitpid(pid, 0)[1] for pid in children[:3]]
    assert all(os.waitstatus_to_exitcode(status) in (1, 2) for status in statuses)
    for row in range(3):
        board.retire(row)
    keeper.look()
    while keeper.tick(0.2):
        pass
    assert board.places.free[0] == 2


def test_a_place_goes_to_another_worker_and_is_nobody_elses_meanwhile(places: Places) -> None:
    places.audit(3, 2)
    one, other = _Worker(places, 0), _Worker(places, 1)
    assert one.take(3) and one.take(3)
    one.holder.part(3)
    assert places.moving(3) == 1 and places.held(3) == [1, 0, 0, 0]
    assert places.audit(3, 2) == 0 and not other.take(3)
    other.holder.arrive(3)
    assert places.moving(3) == 0 and places.held(3) == [1, 1, 0, 0]
    assert places.audit(3, 2) == 0 and not other.take(3)
    other.give(3)
    one.give(3)
    assert places.audit(3, 2) == 0 and places.free[3] == 2


def test_one_that_never_arrives_is_given_back_in_the_end() -> None:
    board = Scoreboard(1)
    board.row(0)[Field.STATE] = board.row(1)[Field.STATE] = State.SERVING
    keeper = _keeper(board, 1)
    one, other = _Worker(board.places, 0), _Worker(board.places, 1)
    keeper.tick(0.0)
    for now in (1.0, 100.0):  # two that arrive, long after each other
        assert one.take(0)
        one.holder.part(0)
        keeper.tick(now)
        other.holder.arrive(0)
        other.give(0)
        keeper.tick(now + 1)
    assert one.take(0)
    one.holder.part(0)
    keeper.tick(200.0)
    keeper.tick(200.0 + ON_ITS_WAY - 1)
    assert not other.take(0)
    keeper.tick(200.0 + ON_ITS_WAY + 1)
    assert board.places.moving(0) == 0 and other.take(0)
