"""Lines of the access log: for every way in which a request can end, with its timers."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from typing import Any, cast

import pytest

from pylb.config.accesslog import AccessLog
from pylb.config.model import Limits
from pylb.http.errors import Refused, error, redirect
from pylb.worker.frontend import Bind
from pylb.worker.frontend import Frontend as CompiledFrontend
from pylb.worker.listeners import Listener
from pylb.worker.logwriter import LogWriter
from pylb.worker.phases.accesslog import access_log
from pylb.worker.reasons import Reason
from pylb.worker.sides import FromServer, Spans
from pylb.worker.transaction import Transaction
from tests.http.wire import TestCore, Transport
from tests.worker.logged import Lines, config_of, transaction
from tests.worker.scene import Scene, Waits
from tests.worker.stand_ins import HEAD, OK, POST, STREAM, SWITCH, FakeServer

MS = 1_000_000


def logged(scene: Scene, log: AccessLog | None = None, **more: Any) -> list[str]:
    """The list in which a scene's lines will be."""
    lines = Lines()
    phase = access_log(config_of(**more), log or AccessLog(), cast(LogWriter, lines), scene.core)

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
    (_waits_too_long, f"f b/<NOSRV> T/T/-1/-1/T 503 BYTES - - sQ-- 1/1/0/0/0 0/0 {_GET}"),
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
    phase = access_log(config_of(), AccessLog(sample=0.5), cast(LogWriter, lines), TestCore())
    for _ in range(1000):
        phase(transaction())
    assert 300 < len(lines.lines) < 700


def test_the_health_path_is_not_logged() -> None:
    lines = Lines()
    config = config_of(health={"path": "/a"})
    phase = access_log(config, AccessLog(), cast(LogWriter, lines), TestCore())
    phase(transaction(reason=Reason.ANSWERED))
    assert not lines.lines
    phase(transaction())
    phase(transaction(reason=Reason.ANSWERED, head=POST))
    assert len(lines.lines) == 2


@pytest.mark.parametrize("tls", [False, True])
def test_a_connection_above_the_limit_has_a_line(monkeypatch: pytest.MonkeyPatch, tls: bool) -> None:
    core = TestCore(limits=Limits(connections=1))
    core.held_by_others = 1
    lines = Lines()
    frontend: CompiledFrontend[Transaction] = CompiledFrontend(
        config_of(), Scene(monkeypatch).backend, 0, 0
    )
    frontend.on_account = (access_log(config_of(), AccessLog(), cast(LogWriter, lines), core),)
    bind = Bind("127.0.0.1:80", config_of(), frontend, {}, core.head_limits)
    bind.tls = tls
    transport = Transport()
    listener = Listener(core, bind, config_of(), None)
    listener.protocol().connection_made(cast(asyncio.BaseTransport, transport))
    (line,) = lines.lines
    status = f"503 {len(error(503).head.out + error(503).body)}" if not tls else "-1 0"
    assert shape(line) == f'192.0.2.9:5 f f/<NOSRV> -1/-1/-1/-1/T {status} - - PR-- 1/1/0/0/0 0/0 "<BADREQ>"'
    assert transport.written.startswith(b"" if tls else b"HTTP/1.1 503 ")
