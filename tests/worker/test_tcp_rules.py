"""Rules of frontends in TCP mode: what a connection is like says where it goes."""

from __future__ import annotations

from typing import Any

import pytest

from pylb.config import routing
from pylb.config.load import from_document
from pylb.worker.reasons import Reason
from tests.net.test_clienthello import hello
from tests.worker.tcp_line import TIMEOUTS, Line

RULED = {"backend": "ruled"}


def frontend(**rule: Any) -> dict[str, Any]:
    front = {"name": "f", "bind": "127.0.0.1:80", "backend": "b", "mode": "tcp", "rule": [rule]}
    return {"frontend": front, "backend": {"name": "b", "server": "127.0.0.1:9"}}


async def asked(line: Line, sent: bytes) -> str:
    """The backend that is connected to; empty where the connection ends."""
    line.begin()
    line.comes(line.near, sent)
    if line.near.aborted:
        assert not line.asked and line.over() == (Reason.REFUSED, "R", 0, 0)
        return ""
    line.connect()
    return line.asked[-1]


@pytest.mark.parametrize(
    ("match", "sent", "backend"),
    [
        ({"sni": "a.example"}, hello("A.example"), "ruled"),
        ({"sni": "*.example"}, hello("a.example"), "ruled"),
        ({"sni": "b.example"}, hello("a.example"), "usual"),
        ({"sni": "a.example"}, hello(None), "usual"),
        ({"sni": "a.example"}, b"SSH-2.0-x\r\n", "usual"),
        ({"not": {"sni": ["b.example", "c.example"]}}, hello("a.example"), "ruled"),
        ({"alpn": "h2"}, hello("a.example"), "ruled"),
        ({"alpn": ["spdy", "http/1.1"]}, hello("a.example"), "ruled"),
        ({"alpn": "spdy"}, hello("a.example"), "usual"),
        ({"source": "192.0.2.0/24"}, b"x", "ruled"),
        ({"source": "10.0.0.0/8"}, b"x", "usual"),
        ({"port": [80, 81]}, b"x", "ruled"),
        ({"port": 81}, b"x", "usual"),
        ({"any": [{"port": 81}, {"sni": "a.example"}]}, hello("a.example"), "ruled"),
        ({}, b"x", "ruled"),
    ],
)
async def test_where_a_connection_goes(
    monkeypatch: pytest.MonkeyPatch, match: dict[str, Any], sent: bytes, backend: str
) -> None:
    assert await asked(Line(monkeypatch, rules=[{"match": match, **RULED}]), sent) == backend


DROP = {"match": {"not": {"sni": ["a.example", "*.b.example"]}}, "drop": True}


@pytest.mark.parametrize(
    ("rules", "sent", "backend"),
    [
        ([DROP], hello("a.example"), "usual"),
        ([DROP], hello("x.b.example"), "usual"),
        ([DROP], hello("b.example"), ""),
        ([DROP], hello(None), ""),
        ([DROP], b"SSH-2.0-x\r\n", ""),
        ([{"match": {"sni": "a.example"}, **RULED}, {"drop": True}], hello("a.example"), "ruled"),
        ([{"match": {"sni": "a.example"}, **RULED}, {"drop": True}], hello("c.example"), ""),
    ],
)
async def test_names_that_no_rule_lists_are_refused_where_asked(
    monkeypatch: pytest.MonkeyPatch, rules: list[dict[str, Any]], sent: bytes, backend: str
) -> None:
    assert await asked(Line(monkeypatch, rules=rules), sent) == backend


async def test_without_a_rule_that_ends_it_the_name_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = [{"match": {"source": "10.0.0.0/8"}, **RULED}]
    assert await asked(Line(monkeypatch, sni=True, rules=rules), hello("a.example")) == "named"


async def test_a_computed_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await asked(Line(monkeypatch, rules=[{"backend": "{tls.sni}"}]), hello("ruled")) == "ruled"
    assert await asked(Line(monkeypatch, rules=[{"backend": "{tls.sni}"}]), hello("other")) == "usual"


async def test_rules_that_need_no_client_hello_wait_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line(monkeypatch, rules=[{"match": {"port": 80}, **RULED}]).begin()
    line.connect()
    assert line.asked == ["ruled"]
    waits = Line(monkeypatch, rules=[{"match": {"any": {"alpn": "h2"}}, **RULED}]).begin()
    assert not waits.client.busy and waits.client.due() == TIMEOUTS.request


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({"match": {"path": "/a"}, "backend": "b"}, 'rule[0].match.path: in mode "tcp" there are all, alpn,'),
        (
            {"match": {"not": {"any": [{"host": "a"}]}}, "backend": "b"},
            "rule[0].match.not.any[0].host: in mode",
        ),
        (
            {"deny": 403},
            'rule[0].deny: in mode "tcp" there are backend, drop, split, split_by only',
        ),
        (
            {"backend": "{host}"},
            'rule[0].backend: {host}: in mode "tcp" there are client.ip, client.peer, port',
        ),
        ({"split": {"b": 1}, "split_by": "header:X"}, 'rule[0].split_by: in mode "tcp" there is source only'),
    ],
)
def test_what_only_http_has_is_a_mistake(rule: dict[str, Any], says: str) -> None:
    config = from_document(frontend(**rule))
    with pytest.raises(routing.Unusable) as caught:
        routing.compiled(config, config.frontends[0], {})
    assert str(caught.value).startswith(says)
