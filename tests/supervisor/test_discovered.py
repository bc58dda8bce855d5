"""What is discovered in the lists of servers."""

from __future__ import annotations

import pytest

from pylb.config.load import from_document
from pylb.config.model import Config
from pylb.net.serverlists import Reader, packets
from pylb.scoreboard import Scoreboard
from pylb.supervisor.overlay import Refused
from pylb.supervisor.servers import Servers

A, B = "10.0.0.1:80", "10.0.0.2:80"


def config(**more: object) -> Config:
    front = {"name": "f", "bind": "127.0.0.1:0", "backend": "b"}
    source = {"dns": "app.internal:80", "weight": 3, "slow_start": "10s"} | more
    return from_document({"frontend": [front], "backend": [{"name": "b", "server": B, "discover": [source]}]})


def found(*addresses: str) -> list[dict[str, object]]:
    return [{"name": one, "address": one, "weight": 5} for one in addresses]


def test_what_is_found_has_the_keys_of_its_source_in_each_process() -> None:
    first = config()
    servers = Servers(Scoreboard(1), first)
    assert servers.discovered("b", "dns", found(A), [first])
    assert not servers.discovered("b", "dns", found(A), [first])
    listed = servers.listed(first.backends[0])
    assert [(one.config.name, one.config.weight, one.config.slow_start, one.source) for one in listed] == [
        ("s1", 1, 0.0, ""), (A, 5, 10.0, "dns"),
    ]  # fmt: skip
    reader = Reader({"b": first.backends[0]})
    (packet,) = packets("b", 2, listed)
    assert reader.take(packet) == ("b", listed)
    assert reader.take(packet) == ("b", listed)
    # Another configuration says other things of the same server; one without the source doesn't have it.
    other = config(slow_start=0)
    assert servers.listed(other.backends[0])[1].config.slow_start == 0
    assert servers.prepare(other) == []
    assert len(servers.listed(config(name="other").backends[0])) == 1


def test_a_source_that_is_none_is_refused_and_changes_nothing() -> None:
    first = config()
    servers = Servers(Scoreboard(1), first)
    for backend, source, told in (("x", "dns", found(A)), ("b", "x", found(A)), ("b", "dns", found("?"))):
        with pytest.raises((ValueError, Refused)):
            servers.discovered(backend, source, told, [first])
    assert len(servers.listed(first.backends[0])) == 1
