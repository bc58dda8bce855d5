"""A connection to a server between two requests: what may come, how long it is kept, and whose it is."""

from __future__ import annotations

import math

import pytest

from pylb.http.request import RequestHead
from pylb.worker.reasons import Reason
from tests.worker.server_line import CHUNKED, OK, Line
from tests.worker.stand_ins import GET, HEAD, request_head


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.mark.parametrize("head", [OK + b"ok", CHUNKED + b"2\r\nok\r\n0\r\n\r\n"])
@pytest.mark.parametrize("stray", [b"\r\n", b"\n", b"\r\n\r\n"])
@pytest.mark.parametrize("when", ["with it", "idle", "later", "before the head"])
def test_an_empty_line_behind_a_response_is_skipped(line: Line, head: bytes, stray: bytes, when: str) -> None:
    line.codec.request(line.exchange, GET, b"", True)
    line.comes(head + stray if when == "with it" else head)
    assert line.pooled and not line.transport.closed
    if when == "idle":
        line.comes(stray)
        assert line.pooled and not line.transport.closed
    line.server.pool.leave(line.codec)
    line.codec.request(line.fresh(), GET, b"", True)
    if when == "later":
        assert line.comes(stray) == []
    again = stray + OK + b"ok" if when == "before the head" else OK + b"ok"
    assert line.comes(again) == [("response", 200, b"ok", True)]
    assert line.pooled


@pytest.mark.parametrize("piece", [b"!" + OK, b"\0\r\n\r\n", b"\n" * 90 + OK])
def test_what_had_come_before_the_request_is_no_answer_to_it(line: Line, piece: bytes) -> None:
    """It was on its way when the connection was taken from the pool: the request may be sent again."""
    line.codec.request(line.exchange, GET, b"", True)
    line.comes(OK + b"ok")
    line.server.pool.leave(line.codec)
    line.codec.request(line.fresh(), GET, b"", True)
    assert line.comes(piece) == [("server_gone", Reason.SERVER_STALE)]
    assert line.transport.closed


NTLM = request_head(b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: NTLM TlRMTVNTUAAB\r\n\r\n")
BASIC = request_head(b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: Basic TlRMTVNTUAAB\r\n\r\n")


@pytest.mark.parametrize(
    ("head", "response", "personal"),
    [
        (GET, b"401 No\r\nWWW-Authenticate: NTLM", True),
        (GET, b"401 No\r\nwww-authenticate: Basic realm=x, negotiate", True),
        (GET, b"401 No\r\nWWW-Authenticate: Basic realm=x\r\nWWW-Authenticate: Negotiate abc==", True),
        (GET, b"407 No\r\nProxy-Authenticate: Negotiate", True),
        (GET, b"401 No\r\nWWW-Authenticate: Basic realm=ntlm", False),
        (GET, b"200 OK\r\nWWW-Authenticate: Negotiate", False),
        (NTLM, b"200 OK\r\nA: b", True),
        (BASIC, b"200 OK\r\nA: b", False),
    ],
)
def test_a_connection_that_is_authenticated_is_one_clients(
    line: Line, head: RequestHead, response: bytes, personal: bool
) -> None:
    line.codec.request(line.exchange, head, b"", True)
    told = line.comes(b"HTTP/1.1 " + response + b"\r\nContent-Length: 0\r\n\r\n")
    assert line.pooled is not personal
    assert told[1:] == ([("keep", True)] if personal else [])
    assert line.codec.due() == (math.inf if personal else line.core.timeouts.server_idle)
    if personal:  # and stays so
        line.codec.request(line.fresh(), GET, b"", True)
        assert line.comes(OK + b"ok") == [("response", 200, b"ok", True), ("keep", True)]


@pytest.mark.parametrize(
    ("says", "kept"),
    [
        *((b"timeout=3, max=100", 2.0), (b"max=9,timeout=3", 2.0), (b"timeout=1", 0.5)),
        *((b"timeout=600", 4.0), (b"max=5", 4.0)),
    ],
)
@pytest.mark.parametrize("head", [GET, HEAD])
def test_how_long_a_server_keeps_a_connection_is_respected(
    line: Line, head: RequestHead, says: bytes, kept: float
) -> None:
    line.codec.request(line.exchange, head, b"", True)
    fields = b"Connection: keep-alive\r\nKeep-Alive: " + says + b"\r\nContent-Length: 0\r\n\r\n"
    line.comes(b"HTTP/1.1 200 OK\r\n" + fields)
    assert line.pooled and line.codec.due() == kept


def test_an_old_connection_serves_no_further_request(line: Line) -> None:
    line.codec.request(line.exchange, GET, b"", True)
    assert line.codec.due() == 3600.0
    line.core.now = 3600.1
    line.codec.expire()
    assert line.comes(OK + b"ok") == [("response", 200, b"ok", True)]
    assert line.transport.closed and not line.pooled


def test_a_connection_serves_so_many_requests(line: Line) -> None:
    line.server.pool.requests = 2
    line.codec.special = True  # as it is where that is bounded
    for number in (1, 2):
        line.codec.request(line.fresh(), GET, b"", True)
        line.comes(OK + b"ok")
        assert line.pooled is (number == 1) is not line.transport.closed
        line.server.pool.leave(line.codec)


def test_so_many_unused_ones_are_kept(line: Line) -> None:
    line.server.pool.most_idle = 0
    line.codec.request(line.exchange, GET, b"", True)
    line.comes(OK + b"ok")
    assert line.transport.closed and not line.pooled
