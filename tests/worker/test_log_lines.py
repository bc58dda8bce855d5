"""Lines of the access log by themselves: variables, escaping, what is kept from one line to the next."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylb.accesslog import template
from pylb.accesslog.template import VARIABLES, Format
from pylb.config.accesslog import AccessLog
from pylb.http.request import HeadLimits, RequestHead
from pylb.worker.logwriter import LogWriter
from pylb.worker.phases import logline, logtimes
from pylb.worker.phases.accesslog import access_log
from pylb.worker.reasons import Reason
from tests.http.wire import TestCore
from tests.worker.logged import MS, Lines, config_of, transaction
from tests.worker.scene import Scene
from tests.worker.stand_ins import request_head


def test_each_variable_is_known_and_each_has_a_value() -> None:
    core = TestCore()
    names = [f"{name}1" if name.endswith(".") else name for name in VARIABLES]
    text = " ".join(f"{{{name}}}" for name in names)
    for format_ in (template.custom(text), Format(template.parse(text), template.haproxy().style)):
        line = logline.line(format_, config_of(), core)
        assert len(line(transaction()).split(" ")) > len(names)  # two dates have a space


@pytest.mark.parametrize(
    ("marks", "state", "timers"),
    [
        ({"answered_ns": 1007 * MS, "ended_ns": 1009 * MS}, "-", "0/0/0/7/9"),
        ({"first_byte_ns": 900 * MS, "answered_ns": 1007 * MS, "ended_ns": 1009 * MS}, "-", "100/0/0/7/109"),
        (
            {
                **{"asked_ns": 1003 * MS, "connected_ns": 1008 * MS},
                **{"answered_ns": 1020 * MS, "ended_ns": 1100 * MS},
            },
            *("-", "0/3/5/12/100"),
        ),
        ({"asked_ns": 1003 * MS, "ended_ns": 1100 * MS}, "C", "0/3/-1/-1/100"),
        ({"ended_ns": 1100 * MS}, "H", "0/0/0/-1/100"),
    ],
)
def test_timers_are_haproxys(scene: Scene, marks: dict[str, int], state: str, timers: str) -> None:
    server = scene.backend.servers[0]
    tx = transaction(server=server, local=False, backend=scene.backend, state=state, **marks)
    tx.reason = None if state == "-" else Reason.SERVER_LATE
    line = logline.line(template.haproxy(), config_of(), scene.core)(tx)
    assert line.split(" ")[4] == timers
    names = ("request", "queue", "connect", "response", "total")
    text = "/".join(f"{{time.{name}}}" for name in names)
    written = logline.line(template.custom(text), config_of(), scene.core)(tx)
    assert written == timers.replace("-1", "-") + "\n"


@given(
    *(st.sampled_from((None, Reason.ANSWERED, Reason.CLIENT_GONE, Reason.SERVER_GONE)), st.booleans()),
    *(st.sampled_from((0, 990 * MS)), st.sampled_from((0, 1003 * MS)), st.integers(0, 2)),
    *(st.integers(1004, 3000), st.sampled_from("-QCHD")),
)
def test_the_usual_request_is_written_as_any_other(
    reason: Reason | None, own: bool, first: int, asked: int, retries: int, answered: int, state: str
) -> None:
    """What a line leaves out where nothing unusual has happened would have said nothing."""
    clocks = SimpleNamespace(time_ns=lambda: 1_800_000_000_000_000_000, monotonic_ns=lambda: 5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logtimes, "time", clocks)
        scene = Scene(patch)
        tx = transaction(server=scene.backend.servers[0], local=False, backend=scene.backend)
        tx.reason, tx.own, tx.first_byte_ns, tx.asked_ns, tx.retries = reason, own, first, asked, retries
        tx.answered_ns, tx.ended_ns = answered * MS, answered * MS + 5 * MS
        tx.state = state if reason else "-"
        names = [f"{name}1" if name.endswith(".") else name for name in VARIABLES]
        custom = template.custom(" ".join(f"{{{name}}}" for name in names))
        formats = (custom, template.haproxy(), template.as_json(False), template.combined())
        written = [logline.line(one, config_of(), scene.core)(tx) for one in formats]
        patch.setattr(logline, "USUAL", "False")
        assert written == [logline.line(one, config_of(), scene.core)(tx) for one in formats]


def test_only_what_is_named_is_captured() -> None:
    core = TestCore()
    for format_ in (template.haproxy(("Host",), ("X",)), template.as_json(False, ("Host",), ("X",))):
        line = logline.line(format_, config_of(), core)(transaction())
        assert "a=b" not in line and "uthorization" not in line
        assert "{h} {y}" in line or '{"host":"h"}' in line and '{"x":"y"}' in line
    named = template.custom("{header.authorization} {cookie.c} {cookie.x}")
    assert logline.line(named, config_of(), core)(transaction()) == "x d -\n"


def test_a_line_is_not_the_last_clients() -> None:
    """What is kept of one head, client or server is not written for another one."""
    line = logline.line(template.custom("{client.ip} {uri} {header.x} {protocol}"), config_of(), TestCore())
    first = transaction(head=request_head(b"GET /1 HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\n"))
    second = transaction(head=request_head(b"GET /2 HTTP/1.0\r\nHost: a\r\nX: 2\r\n\r\n"))
    second.client.told = None
    second.client._source = ("192.0.2.10", 6)
    third = transaction(head=first.head)
    third.client.protocol = "HTTP/2"
    assert [line(tx) for tx in (first, second, first, third, transaction(head=None))] == [
        "192.0.2.9 /1 1 HTTP/1.1\n",
        "192.0.2.10 /2 2 HTTP/1.0\n",
        "192.0.2.9 /1 1 HTTP/1.1\n",
        "192.0.2.9 /1 1 HTTP/2.0\n",
        "192.0.2.9 - - HTTP/1.1\n",
    ]


def test_http2_says_so() -> None:
    tx = transaction()
    tx.client.protocol = "HTTP/2"
    line = logline.line(template.combined(), config_of(), TestCore())(tx)
    assert '"GET /a?b=c HTTP/2.0"' in line


def test_behind_a_trusted_proxy_the_client_is_the_one_that_it_names() -> None:
    config = config_of(trusted_proxies=("192.0.2.0/24",))
    line = logline.line(template.haproxy(), config, TestCore())
    raw = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.0.0.1, 198.51.100.%d\r\n\r\n"
    first, second = transaction(), transaction()
    for number, tx in ((7, first), (8, second)):
        head = RequestHead(b"192.0.2.9", b"127.0.0.1:80", b"http", HeadLimits(), trusts=b"10.0.0.1".__eq__)
        tx.head = head
        tx.head.read(raw % number)
    second.client = first.client
    assert [line(tx).split(" ")[0] for tx in (first, second)] == ["198.51.100.7:0", "198.51.100.8:0"]
    assert line(transaction()).startswith("192.0.2.9:5 ")


def test_hostile_bytes_make_no_line() -> None:
    head = request_head(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    head.raw = b'GET /"\x1b[2J\xc2\x9b\xff\n127.0.0.1 HTTP/1.1\r\nHost: a\r\nUser-Agent: "\x9b\\\r\n\r\n'
    for name in ("haproxy", "combined", "json"):
        log = AccessLog(format=name, request_headers=() if name == "combined" else ("user-agent",))
        lines = Lines()
        phase = access_log(config_of(), log, cast(LogWriter, lines), TestCore())
        phase(transaction(head=head))
        (line,) = lines.lines
        assert line.count("\n") == 1 and line.removesuffix("\n").isprintable() and line.isascii()
        if name == "json":
            assert json.loads(line)["request_headers"]["user-agent"] == '"\\x9b\\'
        else:
            assert line.count('"') == (2 if name == "haproxy" else 6)
