from __future__ import annotations

from itertools import islice

import pytest

from pylb.balance.loads import LANES
from pylb.config.load import from_document
from pylb.config.model import Config
from pylb.net.listeners import BindError
from pylb.scoreboard import Scoreboard
from pylb.supervisor.indices import Indices


def config(**backends: int) -> Config:
    """Backends with so many servers."""
    return from_document(
        {
            "frontend": [{"name": "f", "bind": "127.0.0.1:0", "backend": next(iter(backends))}],
            "backend": [
                {
                    "name": name,
                    "server": [f"10.0.{number // 250}.{number % 250}:80" for number in range(count)],
                }
                for name, count in backends.items()
            ],
        }
    )


def blocks(indices: Indices, backend: str) -> set[int]:
    return {index // LANES for (name, *_), index in indices.known.items() if name == backend}


def test_a_backends_servers_stand_together() -> None:
    indices = Indices(Scoreboard(1, 512))
    indices.give(config(a=2, b=LANES, c=70, d=20, e=3))
    assert [len(blocks(indices, name)) for name in "abcde"] == [1, 1, 3, 1, 1]
    assert len(set(indices.known.values())) == len(indices.known)


def test_further_servers_join_those_that_are_there() -> None:
    indices = Indices(Scoreboard(1, 512))
    indices.give(config(a=2, b=2))
    indices.give(config(a=30, b=2))
    assert len(blocks(indices, "a")) == 1


def test_whatever_is_free_is_given_in_the_end() -> None:
    board = Scoreboard(1, 70)
    indices = Indices(board)
    indices.give(config(a=20, b=20, c=30))
    assert sorted(indices.known.values()) == list(range(70))
    kept = set(islice(indices.known, 0, None, 2))
    indices.take_back(kept)
    indices.give(config(d=35))
    assert sorted(indices.known.values()) == list(range(70))
    with pytest.raises(BindError, match="more than 70 servers"):
        indices.give(config(e=1), [config(a=20, b=20, c=30), config(d=35)])
