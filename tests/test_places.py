"""Places: never more than there are, over processes; and what a dead worker held is given back."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator

import pytest

from pylb.config.address import parse_address
from pylb.config.model import Config, Server
from pylb.net.serverlists import Listed
from pylb.places import Holder, Places, Tally, row_before
from pylb.scoreboard import Field, Scoreboard, ServerField, State
from pylb.servers import Column, Table
from pylb.supervisor.places import ON_ITS_WAY, PlaceKeeper

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


@pytest.fixture
def places() -> Iterator[Places]:
    yield Places(4, 8, 2)


def test_a_place_is_taken_while_one_is_free(places: Places) -> None:
    assert places.audit(3, 2) == 2
    one, other = Holder(places, 0), Holder(places, 1)
    assert one.take(3) and other.take(3)
    assert not one.take(3) and not other.take(3)
    assert not one.take(2)  # another one's
    assert [places.free[place] for place in (2, 3)] == [0, 0]
    other.give(3)
    assert places.free[3] == 1 and one.take(3)


def test_what_a_worker_held_is_given_back(places: Places) -> None:
    places.audit(0, 3)
    one, other = Holder(places, 0), Holder(places, 1)
    assert one.take(0) and one.take(0) and other.take(0)
    assert places.audit(0, 3) == 0
    places.retire(0)
    assert places.audit(0, 3) == 2
    assert other.take(0) and other.take(0) and not other.take(0)


def test_a_worker_that_dies_between_two_steps(places: Places) -> None:
    """It has taken a place, and not noted that; or it has noted that it gives one back, and has not."""
    places.audit(0, 2)
    one, other = Holder(places, 0), Holder(places, 1)
    assert other.take(0)
    places.sequences[0] += 1
    taken = Places.semaphores(places, 0)[0]
    from pylb import places as module

    assert module._take(taken) == 0  # as `Holder.take` does between two of its lines
    assert places.audit(0, 2) is None  # while it lives, nobody can know
    places.retire(0)
    assert places.audit(0, 2) == 1
    assert one.take(0) and not one.take(0)


def test_a_limit_that_falls_and_rises_while_places_are_taken(places: Places) -> None:
    places.audit(0, 4)
    one = Holder(places, 0)
    assert all(one.take(0) for _ in range(4))
    assert places.audit(0, 2) == 0
    one.give(0)
    one.give(0)
    assert not one.take(0)  # two are left, which is the limit
    one.give(0)
    assert one.take(0) and not one.take(0)
    assert places.audit(0, 3) == 1
    assert one.take(0) and not one.take(0)
    for _ in range(3):
        one.give(0)
    assert places.audit(0, 1) == 0 and places.free[0] == 1


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
    holder = Holder(board.places, 0)
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
            holder = Holder(board.places, row)
            held = board.places.holders(0)
            worst = done = 0
            chance = random.Random(row)
            while done < 20_000 or row == 3:
                if holder.take(0):
                    worst = max(worst, sum(held))
                    for _ in range(chance.randrange(20)):
                        pass
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
    assert [os.waitstatus_to_exitcode(status) for status in statuses] == [2, 2, 2]
    for row in range(3):
        board.retire(row)
    keeper.look()
    keeper.tick(0.2)
    assert board.places.free[0] == 2


def test_a_place_goes_to_another_worker_and_is_nobody_elses_meanwhile(places: Places) -> None:
    places.audit(3, 2)
    one, other = Holder(places, 0), Holder(places, 1)
    assert one.take(3) and one.take(3)
    one.part(3)
    assert places.moving(3) == 1 and list(places.holders(3)) == [1, 0, 0, 0]
    assert places.audit(3, 2) == 0 and not other.take(3)
    other.arrive(3)
    assert places.moving(3) == 0 and list(places.holders(3)) == [1, 1, 0, 0]
    assert places.audit(3, 2) == 0 and not other.take(3)
    other.give(3)
    one.give(3)
    assert places.audit(3, 2) == 0 and places.free[3] == 2


def test_one_that_never_arrives_is_given_back_in_the_end() -> None:
    board = Scoreboard(1)
    board.row(0)[Field.STATE] = board.row(1)[Field.STATE] = State.SERVING
    keeper = _keeper(board, 1)
    one, other = Holder(board.places, 0), Holder(board.places, 1)
    keeper.tick(0.0)
    for now in (1.0, 100.0):  # two that arrive, long after each other
        assert one.take(0)
        one.part(0)
        keeper.tick(now)
        other.arrive(0)
        other.give(0)
        keeper.tick(now + 1)
    assert one.take(0)
    one.part(0)
    keeper.tick(200.0)
    keeper.tick(200.0 + ON_ITS_WAY - 1)
    assert not other.take(0)
    keeper.tick(200.0 + ON_ITS_WAY + 1)
    assert board.places.moving(0) == 0 and other.take(0)
