"""Lines of the access log: for every way in which a request can end, with its timers."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylb.accesslog import template
from pylb.accesslog.template import VARIABLES, Format
from pylb.config.accesslog import AccessLog
from pylb.config.address import parse_address
from pylb.config.model import Frontend, Limits
from pylb.http.errors import Refused, error, redirect
from pylb.http.request import HeadLimits, RequestHead
from pylb.http.response import ResponseHead
from pylb.worker.facts import Client
from pylb.worker.frontend import Bind
from pylb.worker.frontend import Frontend as CompiledFrontend
from pylb.worker.listeners import Listener
from pylb.worker.logwriter import LogWriter
from pylb.worker.phases import logfields, logline
from pylb.worker.phases.accesslog import access_log
from pylb.worker.reasons import Reason
from pylb.worker.sides import FromServer, Spans
from pylb.worker.transaction import Transaction
from tests.http.wire import TestCore, Transport
from tests.worker.scene import Scene, Waits
from tests.worker.stand_ins import HEAD, OK, POST, STREAM, SWITCH, FakeServer, request_head

MS = 1_000_000


def _config(**more: Any) -> Frontend:
    given = {"name": "f", "bind": (parse_address("127.0.0.1:80"),), "backend": "b", **more}
    return Frontend(**given)


class Lines:
    """Stands for a writer."""

    def __init__(self) -> None:
        self.lines: list[str] = []


def logged(scene: Scene, log: AccessLog | None = None, **more: Any) -> list[str]:
    """The list in which a scene's lines will be."""
    lines = Lines()
    phase = access_log(_config(**more), log or AccessLog(), cast(LogWriter, lines), scene.core)

    def told(tx: Transaction) -> None:
        tx.client.label = ""  # a client has one frontend, and so one log
        phase(tx)

    scene.frontend.on_account = (*scene.frontend.on_account, told)
    return lines.lines


def shape(line: str) -> str:
    """A line without its date and with N for milliseconds from 1 on, which a test can't know."""
    date = re.sub(r"\[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d\.\d{3}\] ", "", line, count=1).removesuffix("\n")
    words = date.split(" ")
    words[3] = "/".join("T" if step.isdigit() else step for step in words[3].split("/"))
    return " ".join(words)


Play = Callable[[Scene], None]


def _answered(scene: Scene) -> None:
    scene.request()
    scene.tell(scene.exchange.response, OK, b"xok", 1, True)


def _chunked(scene: Scene) -> None:
    """Framing isn't counted."""
    scene.request()
    scene.tell(scene.exchange.response, STREAM, b"2\r\nab\r\n", 0, False, [(3, 5)])
    scene.tell(scene.exchange.response_body, b"1\r\nc\r\n0\r\n\r\n", [(3, 4)])
    scene.tell(scene.exchange.response_end)


def _to_head(scene: Scene) -> None:
    scene.request(HEAD)
    scene.tell(scene.exchange.response, OK, b"", 0, True)


def _refused(scene: Scene) -> None:
    scene.tell(scene.exchange.refuse, Refused(400, "syntax"), scene.client)


def _denied(scene: Scene) -> None:
    scene.phases(Refused(413, "body_bytes"))
    scene.request()


def _redirected(scene: Scene) -> None:
    scene.phases(redirect(b"https://a/"))
    scene.request()


def _within_its_head(scene: Scene) -> None:
    scene.tell(scene.exchange.never, Reason.CLIENT_GONE)


def _late_head(scene: Scene) -> None:
    scene.tell(scene.exchange.refuse, Refused(408, "timeout"), scene.client)


def _leaves(scene: Scene) -> None:
    scene.request()
    scene.tell(scene.exchange.client_gone, Reason.CLIENT_GONE)


def _leaves_in_upload(scene: Scene) -> None:
    scene.request(POST, b"a", False)
    scene.tell(scene.exchange.client_gone, Reason.CLIENT_GONE)


def _stalls_in_upload(scene: Scene) -> None:
    scene.request(POST, b"a", False)
    scene.late()


def _leaves_in_response(scene: Scene) -> None:
    scene.request()
    scene.tell(scene.exchange.response, STREAM, b"abc", 0, False)
    scene.tell(scene.exchange.client_gone, Reason.CLIENT_GONE)


def _server_leaves(scene: Scene) -> None:
    scene.request()
    scene.tell(scene.exchange.server_gone, Reason.SERVER_GONE, "why")


def _server_is_bad(scene: Scene) -> None:
    scene.request()
    scene.tell(scene.exchange.server_gone, Reason.SERVER_BAD, "why")


def _server_is_late(scene: Scene) -> None:
    scene.request()
    scene.late()


def _server_cuts_off(scene: Scene) -> None:
    scene.request()
    scene.tell(scene.exchange.response, STREAM, b"abc", 0, False)
    scene.tell(scene.exchange.server_gone, Reason.SERVER_GONE, "why")


def _waits_too_long(scene: Scene) -> None:
    scene.phases(Waits())
    scene.request()
    scene.late()


def _cold(scene: Scene) -> None:
    for server in scene.backend.servers:
        server.pool.idle.clear()


def _no_connection(scene: Scene) -> None:
    _cold(scene)
    scene.request()
    scene.connect(ConnectionRefusedError(111, "Connection refused"), TimeoutError())


def _another_server(scene: Scene) -> None:
    _cold(scene)
    scene.request()
    scene.connect(ConnectionRefusedError(111, "Connection refused"), FakeServer())
    scene.tell(scene.exchange.response, OK, b"ok", 0, True)


def _tunnel(scene: Scene) -> None:
    scene.request()
    server = scene.server
    scene.tell(scene.exchange.switched, SWITCH)
    near, far = scene.client.pipe.listener, server.pipe.listener
    assert near is not None and far is not None
    near.came(b"in")
    far.came(b"out!")
    near.gone(False)
    far.gone(False)


def _tunnel_breaks(scene: Scene) -> None:
    scene.request()
    server = scene.server
    scene.tell(scene.exchange.switched, SWITCH)
    near, far = scene.client.pipe.listener, server.pipe.listener
    assert near is not None and far is not None
    near.gone(True)
    far.gone(False)


_GET = '"GET / HTTP/1.1"'
_POST = '"POST / HTTP/1.1"'
_OK, _STREAM, _SWITCH = len(OK.out), len(STREAM.out), len(SWITCH.out)
ENDS: list[tuple[Play, str]] = [
    (_answered, f"f b/s0 T/T/T/T/T 200 {_OK + 2} - - ---- 1/1/0/0/0 0/0 {_GET}"),
    (_chunked, f"f b/s0 T/T/T/T/T 200 {_STREAM + 3} - - ---- 1/1/0/0/0 0/0 {_GET}"),
    (_to_head, f'f b/s0 T/T/T/T/T 200 {_OK} - - ---- 1/1/0/0/0 0/0 "HEAD / HTTP/1.1"'),
    (_refused, 'f f/<NOSRV> -1/-1/-1/-1/T 400 BYTES - - PR-- 1/1/0/0/0 0/0 "<BADREQ>"'),
    (_denied, f"f f/<NOSRV> T/-1/-1/-1/T 413 BYTES - - PR-- 1/1/0/0/0 0/0 {_GET}"),
    (_redirected, f"f f/<NOSRV> T/-1/-1/-1/T 308 BYTES - - LR-- 1/1/0/0/0 0/0 {_GET}"),
    (_within_its_head, 'f f/<NOSRV> -1/-1/-1/-1/T -1 0 - - CR-- 1/1/0/0/0 0/0 "<BADREQ>"'),
    (_late_head, 'f f/<NOSRV> -1/-1/-1/-1/T 408 BYTES - - cR-- 1/1/0/0/0 0/0 "<BADREQ>"'),
    (_leaves, f"f b/s0 T/T/T/-1/T -1 0 - - CH-- 1/1/0/0/0 0/0 {_GET}"),
    (_leaves_in_upload, f"f b/s0 T/T/T/-1/T -1 0 - - CD-- 1/1/0/0/0 0/0 {_POST}"),
    (_stalls_in_upload, f"f b/s0 T/T/T/-1/T 408 BYTES - - cH-- 1/1/0/0/0 0/0 {_POST}"),
    (_leaves_in_response, f"f b/s0 T/T/T/T/T 200 {_STREAM + 3} - - CD-- 1/1/0/0/0 0/0 {_GET}"),
    (_server_leaves, f"f b/s0 T/T/T/-1/T 502 BYTES - - SH-- 1/1/0/0/0 0/0 {_GET}"),
    (_server_is_bad, f"f b/s0 T/T/T/-1/T 502 BYTES - - PH-- 1/1/0/0/0 0/0 {_GET}"),
    (_server_is_late, f"f b/s0 T/T/T/-1/T 504 BYTES - - sH-- 1/1/0/0/0 0/0 {_GET}"),
    (_server_cuts_off, f"f b/s0 T/T/T/T/T 200 {_STREAM + 3} - - SD-- 1/1/0/0/0 0/0 {_GET}"),
    (_waits_too_long, f"f b/<NOSRV> T/-1/-1/-1/T 503 BYTES - - sQ-- 1/1/0/0/0 0/0 {_GET}"),
    (_no_connection, f"f b/s1 T/T/-1/-1/T 504 BYTES - - sC-- 1/1/0/0/+1 0/0 {_GET}"),
    (_another_server, f"f b/s1 T/T/T/T/T 200 {_OK + 2} - - ---- 1/1/0/0/+1 0/0 {_GET}"),
    (_tunnel, f"f b/s0 T/T/T/T/T 101 {_SWITCH + 4} - - ---- 1/1/0/0/0 0/0 {_GET}"),
    (_tunnel_breaks, f"f b/s0 T/T/T/T/T 101 {_SWITCH} - - CD-- 1/1/0/0/0 0/0 {_GET}"),
]


@pytest.mark.parametrize(("play", "line"), ENDS, ids=[play.__name__ for play, _ in ENDS])
def test_every_end_has_its_line(scene: Scene, play: Play, line: str) -> None:
    lines = logged(scene)
    objects = logged(scene, AccessLog(format="json"))
    combined = logged(scene, AccessLog(format="combined"))
    play(scene)
    (account,) = scene.accounts
    if account["own"]:  # one of pylb's own, with its head
        line = line.replace("BYTES", str(account["bytes_out"] + len(account["response"].out)))
    assert [shape(one) for one in lines] == ["192.0.2.9:5 " + line]
    (one,) = objects
    said = json.loads(one)
    assert said["termination"] == (account["reason"].letter if account["reason"] else "-") + account["state"]
    assert said["status"] == (account["status"] or None) and said["retries"] == account["retries"]
    assert said["server"] == (account["server"].name if account["server"] else None)
    assert f'" {account["status"] or 499} {account["bytes_out"]} "-" "-"\n' in combined[0]


def test_each_variable_is_known_and_each_has_a_value() -> None:
    core = TestCore()
    names = [f"{name}1" if name.endswith(".") else name for name in VARIABLES]
    text = " ".join(f"{{{name}}}" for name in names)
    for format_ in (template.custom(text), Format(template.parse(text), template.haproxy().style)):
        line = logline.line(format_, _config(), core)
        assert len(line(_transaction()).split(" ")) > len(names)  # two dates have a space


def _transaction(**given: Any) -> Transaction:
    """A request of 2026 that a server has answered."""
    tx = Transaction()
    tx.client = Client(cast(asyncio.BaseTransport, Transport()), "127.0.0.1:80")
    tx.head = request_head(b"GET /a?b=c HTTP/1.1\r\nHost: h\r\nCookie: a=b; c=d\r\nAuthorization: x\r\n\r\n")
    tx.response = ResponseHead(b"HTTP/1.1 200 OK\r\nX: y\r\n\r\n", True, 200, True, 2, False, b"")
    tx.local = True
    tx.began_ns = 1000 * MS
    for name, value in given.items():
        setattr(tx, name, value)
    return tx


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
    tx = _transaction(server=server, local=False, backend=scene.backend, state=state, **marks)
    tx.reason = None if state == "-" else Reason.SERVER_LATE
    line = logline.line(template.haproxy(), _config(), scene.core)(tx)
    assert line.split(" ")[4] == timers
    names = ("request", "queue", "connect", "response", "total")
    text = "/".join(f"{{time.{name}}}" for name in names)
    written = logline.line(template.custom(text), _config(), scene.core)(tx)
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
        patch.setattr(logfields, "time", clocks)
        scene = Scene(patch)
        tx = _transaction(server=scene.backend.servers[0], local=False, backend=scene.backend)
        tx.reason, tx.own, tx.first_byte_ns, tx.asked_ns, tx.retries = reason, own, first, asked, retries
        tx.answered_ns, tx.ended_ns = answered * MS, answered * MS + 5 * MS
        tx.state = state if reason else "-"
        names = [f"{name}1" if name.endswith(".") else name for name in VARIABLES]
        custom = template.custom(" ".join(f"{{{name}}}" for name in names))
        formats = (custom, template.haproxy(), template.as_json(False), template.combined())
        written = [logline.line(one, _config(), scene.core)(tx) for one in formats]
        patch.setattr(logline, "USUAL", "False")
        assert written == [logline.line(one, _config(), scene.core)(tx) for one in formats]


def test_only_what_is_named_is_captured() -> None:
    core = TestCore()
    for format_ in (template.haproxy(("Host",), ("X",)), template.as_json(False, ("Host",), ("X",))):
        line = logline.line(format_, _config(), core)(_transaction())
        assert "a=b" not in line and "uthorization" not in line
        assert "{h} {y}" in line or '{"host":"h"}' in line and '{"x":"y"}' in line
    named = template.custom("{header.authorization} {cookie.c} {cookie.x}")
    assert logline.line(named, _config(), core)(_transaction()) == "x d -\n"


def test_a_line_is_not_the_last_clients() -> None:
    """What is kept of one head, client or server is not written for another one."""
    line = logline.line(template.custom("{client.ip} {uri} {header.x} {protocol}"), _config(), TestCore())
    first = _transaction(head=request_head(b"GET /1 HTTP/1.1\r\nHost: a\r\nX: 1\r\n\r\n"))
    second = _transaction(head=request_head(b"GET /2 HTTP/1.0\r\nHost: a\r\nX: 2\r\n\r\n"))
    second.client.told = None
    second.client._source = ("192.0.2.10", 6)
    third = _transaction(head=first.head)
    third.client.protocol = "HTTP/2"
    assert [line(tx) for tx in (first, second, first, third, _transaction(head=None))] == [
        "192.0.2.9 /1 1 HTTP/1.1\n",
        "192.0.2.10 /2 2 HTTP/1.0\n",
        "192.0.2.9 /1 1 HTTP/1.1\n",
        "192.0.2.9 /1 1 HTTP/2.0\n",
        "192.0.2.9 - - HTTP/1.1\n",
    ]


def test_http2_says_so() -> None:
    tx = _transaction()
    tx.client.protocol = "HTTP/2"
    line = logline.line(template.combined(), _config(), TestCore())(tx)
    assert '"GET /a?b=c HTTP/2.0"' in line


def test_behind_a_trusted_proxy_the_client_is_the_one_that_it_names() -> None:
    config = _config(trusted_proxies=("192.0.2.0/24",))
    line = logline.line(template.haproxy(), config, TestCore())
    raw = b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 10.0.0.1, 198.51.100.%d\r\n\r\n"
    first, second = _transaction(), _transaction()
    for number, tx in ((7, first), (8, second)):
        head = RequestHead(b"192.0.2.9", b"127.0.0.1:80", b"http", HeadLimits(), trusts=b"10.0.0.1".__eq__)
        tx.head = head
        tx.head.read(raw % number)
    second.client = first.client
    assert [line(tx).split(" ")[0] for tx in (first, second)] == ["198.51.100.7:0", "198.51.100.8:0"]
    assert line(_transaction()).startswith("192.0.2.9:5 ")


def test_hostile_bytes_make_no_line() -> None:
    head = request_head(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    head.raw = b'GET /"\x1b[2J\xc2\x9b\xff\n127.0.0.1 HTTP/1.1\r\nHost: a\r\nUser-Agent: "\x9b\\\r\n\r\n'
    for name in ("haproxy", "combined", "json"):
        log = AccessLog(format=name, request_headers=() if name == "combined" else ("user-agent",))
        lines = Lines()
        phase = access_log(_config(), log, cast(LogWriter, lines), TestCore())
        phase(_transaction(head=head))
        (line,) = lines.lines
        assert line.count("\n") == 1 and line.removesuffix("\n").isprintable() and line.isascii()
        if name == "json":
            assert json.loads(line)["request_headers"]["user-agent"] == '"\\x9b\\'
        else:
            assert line.count('"') == (2 if name == "haproxy" else 6)


class _RawServer(FakeServer):
    """Of TCP mode, where there is no head."""

    def request(self, exchange: FromServer, head: Any, buffer: bytes, end: bool, spans: Spans = None) -> None:
        self.free = False


def test_tcp_mode_has_haproxys_tcplog(monkeypatch: pytest.MonkeyPatch) -> None:
    scene = Scene(monkeypatch, pooled=False, mode="tcp")
    lines, objects = (logged(scene, log, mode="tcp") for log in (AccessLog(), AccessLog(format="json")))
    server = _RawServer()
    scene.exchange.tx.fresh = True
    scene.request(None)
    scene.connect(server)
    scene.tell(scene.exchange.switched, SWITCH)
    near, far = scene.client.pipe.listener, server.pipe.listener
    assert near is not None and far is not None
    near.came(b"in")
    far.came(b"out!")
    far.gone(True)
    near.gone(False)
    assert [shape(line) for line in lines] == ["192.0.2.9:5 f b/s0 T/T/T 4 SD 1/1/0/0/0 0/0"]
    said = json.loads(objects[0])
    assert (said["bytes_in"], said["bytes_out"], said["reason"]) == (2, 4, "server gone")
    assert "status" not in said


@pytest.mark.parametrize(
    ("when", "plays"),
    [
        ({"status": "5xx"}, [_server_leaves, _no_connection]),
        ({"status": ["200", "400-499"]}, [_answered, _refused, _leaves_in_response]),
        ({"failed": True}, [_server_leaves, _no_connection, _refused, _leaves_in_response]),
        ({"failed": False}, [_answered, _redirected]),
        ({"slower": "1h"}, []),
        ([{"status": 308}, {"failed": True, "status": 200}], [_redirected, _leaves_in_response]),
    ],
)
def test_conditions(monkeypatch: pytest.MonkeyPatch, when: Any, plays: list[Play]) -> None:
    some = [_answered, _server_leaves, _no_connection, _refused, _leaves_in_response, _redirected]
    for play in some:
        scene = Scene(monkeypatch)
        lines = logged(scene, AccessLog.model_validate({"when": when}))
        play(scene)
        assert len(lines) == (play in plays), play.__name__


def test_a_sample_is_a_share() -> None:
    lines = Lines()
    phase = access_log(_config(), AccessLog(sample=0.5), cast(LogWriter, lines), TestCore())
    for _ in range(1000):
        phase(_transaction())
    assert 300 < len(lines.lines) < 700


def test_the_health_path_is_not_logged() -> None:
    lines = Lines()
    config = _config(health={"path": "/a"})
    phase = access_log(config, AccessLog(), cast(LogWriter, lines), TestCore())
    phase(_transaction(reason=Reason.ANSWERED))
    assert not lines.lines
    phase(_transaction())
    phase(_transaction(reason=Reason.ANSWERED, head=POST))
    assert len(lines.lines) == 2


@pytest.mark.parametrize("tls", [False, True])
def test_a_connection_above_the_limit_has_a_line(monkeypatch: pytest.MonkeyPatch, tls: bool) -> None:
    core = TestCore(limits=Limits(connections=1))
    core.held_by_others = 1
    lines = Lines()
    frontend: CompiledFrontend[Transaction] = CompiledFrontend(
        _config(), Scene(monkeypatch).backend, 0, 0
    )
    frontend.on_account = (access_log(_config(), AccessLog(), cast(LogWriter, lines), core),)
    bind = Bind("127.0.0.1:80", _config(), frontend, {}, core.head_limits)
    bind.tls = tls
    transport = Transport()
    listener = Listener(core, bind, _config(), None)
    listener.protocol().connection_made(cast(asyncio.BaseTransport, transport))
    (line,) = lines.lines
    status = f"503 {len(error(503).head.out + error(503).body)}" if not tls else "-1 0"
    assert shape(line) == f'192.0.2.9:5 f f/<NOSRV> -1/-1/-1/-1/T {status} - - PR-- 1/1/0/0/0 0/0 "<BADREQ>"'
    assert transport.written.startswith(b"" if tls else b"HTTP/1.1 503 ")
