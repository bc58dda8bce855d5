from __future__ import annotations

import random
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylb.balance.loads import LANES
from pylb.config.model import ServerKey
from pylb.net.listeners import BindError
from pylb.scoreboard import Scoreboard, ServerField
from pylb.supervisor.indices import Indices


def keys(**backends: int) -> list[ServerKey]:
    """Backends with so many servers."""
    return [
        (name, f"s{number}", f"10.0.{number // 250}.{number % 250}:80")
        for name, count in backends.items()
        for number in range(count)
    ]


def blocks(indices: Indices, backend: str) -> set[int]:
    return {index // LANES for (name, *_), index in indices.known.items() if name == backend}


def test_a_backends_servers_stand_together() -> None:
    indices = Indices(Scoreboard(1, 512))
    indices.give(keys(a=2, b=LANES, c=70, d=20, e=3))
    assert [len(blocks(indices, name)) for name in "abcde"] == [1, 1, 3, 1, 1]
    assert len(set(indices.known.values())) == len(indices.known)


def test_further_servers_join_those_that_are_there() -> None:
    indices = Indices(Scoreboard(1, 512))
    indices.give(keys(a=2, b=2))
    indices.give(keys(a=30, b=2))
    assert len(blocks(indices, "a")) == 1


def test_whatever_is_free_is_given_in_the_end() -> None:
    board = Scoreboard(1, 70)
    indices = Indices(board)
    indices.give(keys(a=20, b=20, c=30))
    assert sorted(indices.known.values()) == list(range(70))
    indices.give_up(list(islice(indices.known, 1, None, 2)), 2)
    with pytest.raises(BindError, match="more than 70 servers"):
        indices.give(keys(d=1))  # nobody has said that they are forgotten
    assert len(indices.free(2)) == 35
    indices.give(keys(d=35))
    assert sorted(indices.known.values()) == list(range(70))


def test_a_server_that_comes_back_has_its_index_again() -> None:
    indices = Indices(Scoreboard(1))
    before = dict(indices.known) if indices.give(keys(a=3)) else {}
    before = dict(indices.known)
    indices.give_up(keys(a=3), 2)
    assert indices.held() == []
    assert indices.give(keys(a=2)) == []
    assert indices.free(5) == keys(a=3)[2:] and indices.held() == keys(a=2)
    assert all(before[key] == index for key, index in indices.known.items())


def test_an_index_is_not_free_while_a_request_is_at_its_server() -> None:
    board = Scoreboard(2)
    indices = Indices(board)
    (key,) = indices.give(keys(a=1))
    board.server_column(ServerField.ACTIVE, indices.known[key])[1] = 1
    board.server_column(ServerField.REQUESTS, indices.known[key])[board.rows] = 9
    indices.give_up([key], 2)
    assert indices.free(2) == []
    board.server_column(ServerField.ACTIVE, indices.known[key])[1] = 0
    assert indices.free(1) == []
    index = indices.known[key]
    assert indices.free(2) == [key]
    assert board.server_total(ServerField.REQUESTS, index) == 0


class Process:
    """One that is told lists, later and in order, and works with the newest that it has read."""

    def __init__(self, told: dict[ServerKey, int], version: int) -> None:
        self.knows = dict(told)
        self.version = version
        self.unread: list[tuple[int, dict[ServerKey, int]]] = []
        self.busy: dict[ServerKey, int] = {}
        """Servers at which it has requests, whether it still may pick them or not."""


@given(st.integers(0, 1 << 30), st.integers(3, 12))
def test_no_process_ever_sees_an_index_mean_two_servers(seed: int, room: int) -> None:
    chance = random.Random(seed)
    board = Scoreboard(1, room, rows=8)
    indices = Indices(board)
    version = 1
    listed: dict[ServerKey, int] = {}
    processes: dict[int, Process] = {}
    for _ in range(150):
        step = chance.randrange(6)
        free_rows = sorted(set(range(8)) - processes.keys())
        process = processes[chance.choice(list(processes))] if processes else None
        if step == 0:  # another list
            wanted = [
                ("b", f"s{chance.randrange(8)}", f"a{chance.randrange(3)}")
                for _ in range(chance.randrange(room))
            ]
            try:
                indices.give(wanted)
            except BindError:
                continue
            version += 1
            indices.give_up([key for key in indices.held() if key not in wanted], version)
            listed = {key: indices.known[key] for key in wanted}
            for one in processes.values():
                one.unread.append((version, dict(listed)))
        elif step == 1 and free_rows:
            processes[free_rows[0]] = Process(listed, version)
        elif step == 2 and processes:  # it dies
            row = chance.choice(list(processes))
            board.retire(row)
            del processes[row]
        elif step == 3 and process is not None and process.unread:
            process.version, process.knows = process.unread.pop(0)
        elif step == 4 and process is not None and process.knows:
            key = chance.choice(list(process.knows))
            process.busy[key] = process.knows[key]
        elif step == 5 and process is not None and process.busy:
            del process.busy[chance.choice(list(process.busy))]
        for row, one in processes.items():
            for index in range(room):
                board.server_column(ServerField.ACTIVE, index)[row] = list(one.busy.values()).count(index)
        indices.free(min((one.version for one in processes.values()), default=version))
        meanings: dict[int, set[ServerKey]] = {}
        everywhere = [
            listed,
            *(one.knows for one in processes.values()),
            *(one.busy for one in processes.values()),
        ]
        everywhere += [told for one in processes.values() for _, told in one.unread]
        for known in everywhere:
            for key, index in known.items():
                meanings.setdefault(index, set()).add(key)
        # A list that waits to be read, of before a server was given up, is no meaning of its own: it is
        # read before what comes after it, and nothing is freed until then.
        assert all(len(found) == 1 for found in meanings.values())
        assert all(indices.known[key] == index for key, index in listed.items())
