"""How it is written where servers are looked for."""

from __future__ import annotations

from typing import Any

import pytest

from pylb.config.load import ConfigError, from_document
from pylb.config.model import Backend
from pylb.config.trials import problems


def backend(**keys: Any) -> Backend:
    front = {"name": "f", "bind": "127.0.0.1:0", "backend": "b"}
    return from_document({"frontend": [front], "backend": [{"name": "b", **keys}]}).backends[0]


def test_a_server_with_discover_is_a_source() -> None:
    looked_up = {"address": "app.internal:80", "discover": "dns", "weight": 3, "slow_start": "10s"}
    one = backend(
        server=["10.0.0.1:80", looked_up], discover=[{"srv": "_http._tcp.app"}, {"dns": "b.internal:80"}]
    )
    assert [server.name for server in one.servers] == ["s1"]
    assert [(source.name, source.asks) for source in one.discover] == [
        ("srv", "srv _http._tcp.app"), ("dns", "dns b.internal:80"), ("dns2", "dns app.internal:80"),
    ]  # fmt: skip
    found = one.discover[2].server("[fd00::1]:80", "[fd00::1]:80")
    assert (found.weight, found.slow_start, str(found.address)) == (3, 10.0, "[fd00::1]:80")


def test_a_backend_may_have_none_but_what_is_found() -> None:
    assert backend(discover=[{"file": "/etc/servers"}]).servers == ()


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({}, "backend[0]: it has no server; expected server, or discover"),
        ({"discover": [{}]}, "expected one of dns, srv, file, docker, http, function (none is there)"),
        ({"discover": [{"dns": "a.b:1", "file": "x"}]}, "(got dns and file)"),
        ({"discover": [{"dns": "10.0.0.1:80"}]}, "nothing to look up; use server"),
        ({"discover": [{"dns": "a.b"}]}, "expected a name and the servers' port"),
        ({"discover": [{"dns": "a.b:1", "label": "x"}]}, "label goes with docker, not with dns"),
        ({"discover": [{"docker": "127.0.0.1:2375"}]}, "expected the engine's unix socket"),
        ({"discover": [{"http": "ftp://x/"}]}, "expected a URL"),
        ({"discover": [{"http": "http://u:p@x/"}]}, "without a password"),
        ({"discover": [{"function": "x"}]}, "expected MODULE:FUNCTION"),
        ({"discover": [{"dns": "a.b:1", "resolvers": "ns.b"}]}, "expected a name server's IP address"),
        (
            {"discover": [{"file": "x", "name": "n"}, {"file": "y", "name": "n"}]},
            "two sources of servers are named",
        ),
        (
            {"server": [{"address": "10.0.0.1:80", "discover": "dns"}]},
            "backend[0].server[0]: 10.0.0.1 is an IP",
        ),
        ({"discover": [{"dns": "a.b:1"}], "tls": {}}, 'tls.name must be set, as in "a.b"'),
    ],
)
def test_mistakes_name_the_key_and_the_fix(keys: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        backend(**keys)
    assert any(said in problem for problem in caught.value.problems)


def test_what_a_source_needs_is_tried_before() -> None:
    sources = [
        {"http": "https://a.b/", "ca": "/nowhere/ca.pem", "token_file": "/nowhere/token"},
        {"function": "nowhere_at_all.fleet:servers"},
    ]
    front = {"name": "f", "bind": "127.0.0.1:0", "backend": "b"}
    found = problems(from_document({"frontend": [front], "backend": [{"name": "b", "discover": sources}]}))
    assert [line.partition(":")[0] for line in found] == [
        "backend[0].discover[0].ca", "backend[0].discover[0].token_file", "backend[0].discover[1].function",
    ]  # fmt: skip
    assert "no module 'nowhere_at_all' on Python's path; set PYTHONPATH" in found[2]
