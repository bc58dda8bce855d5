from __future__ import annotations

import pytest

from pylb.config.load import from_document
from pylb.control.servers import Server, Servers
from pylb.net.serverlists import Listed, as_configured, packets
from pylb.scoreboard import ControlField, Scoreboard

CONFIG = from_document(
    {
        "frontend": [{"name": "f", "bind": "127.0.0.1:0", "backend": "a"}],
        "backend": [
            {"name": "a", "server": ["10.0.0.1:80", "10.0.0.2:80"]},
            {"name": "b", "server": ["10.0.0.3:80"]},
        ],
    }
)


def made(board: Scoreboard) -> Servers:
    return Servers(CONFIG, board, as_configured(CONFIG), 3)


def test_who_comes_and_who_goes_is_told() -> None:
    board = Scoreboard(1)
    servers = made(board)
    assert [one.key for one in servers] == [
        ("a", "s1", "10.0.0.1:80"),
        ("a", "s2", "10.0.0.2:80"),
        ("b", "s1", "10.0.0.3:80"),
    ]
    assert board.control[ControlField.LISTS] == 3
    changes: list[tuple[list[int], list[int]]] = []

    def note(come: list[Server], gone: list[Server]) -> None:
        changes.append(([one.index for one in come], [one.index for one in gone]))

    servers.on_change.append(note)  # type: ignore[arg-type]
    first = CONFIG.backends[0].servers[0]
    (packet,) = packets(
        "a", 4, [Listed(first, 0), Listed(CONFIG.backends[1].servers[0].model_copy(update={"name": "x"}), 9)]
    )
    servers.hear(packet)
    servers.hear(packet)
    assert changes == [([9], [1])]
    assert (
        servers.indices[("a", "x", "10.0.0.3:80")] == 9 and ("a", "s2", "10.0.0.2:80") not in servers.indices
    )
    assert board.control[ControlField.LISTS] == 4
    found = servers.named("a", "x")
    assert found is not None and servers.at(9) is found and servers.named("a", "s2") is None
    (packet,) = packets("a", 5, [Listed(first.model_copy(update={"weight": 7}), 0), Listed(found.config, 9)])
    servers.hear(packet)
    assert changes[1:] == [([0], [0])]


def test_a_list_that_could_not_be_taken_over_is_not_acknowledged() -> None:
    board = Scoreboard(1)
    servers = made(board)

    def fail(come: object, gone: object) -> None:
        raise RuntimeError("no")

    servers.on_change.append(fail)
    (packet,) = packets("b", 4, [])
    with pytest.raises(RuntimeError):
        servers.hear(packet)
    assert board.control[ControlField.LISTS] == 3
    servers.on_change.clear()
    (packet,) = packets("a", 5, [])
    servers.hear(packet)  # it may still be that something of version 4 writes of a server that has gone
    assert board.control[ControlField.LISTS] == 3
