"""What a server may not say: the client gets 502, and nothing of it (RFC 9112 §6, RFC 9110 §15)."""

from __future__ import annotations

import pytest

from tests.http.wire import Wire

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"

BAD = [
    # Status lines
    *(b"NONSENSE\r\n\r\n", b"\r\n!\r\n\r\n", b"HTTP/2 200 OK\r\n\r\n", b"HTTP/11 200 OK\r\n\r\n"),
    *(b"HTTP/1.1 20 OK\r\n\r\n", b"HTTP/1.1 2000 OK\r\n\r\n", b"HTTP/1.1 abc OK\r\n\r\n"),
    *(
        b"HTTP/1.1 2 0 OK\r\n\r\n",
        b"HTTP/1.1200 OK\r\n\r\n",
        b"HTTP/1.1 099 OK\r\n\r\n",
        b"HTTP/1.1\r\n\r\n",
    ),
    *(b"http/1.1 200 OK\r\n\r\n", b" HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.1 200OK\r\n\r\n"),
    *(b"HTTP/1.1 200 O\rK\r\n\r\n", b"HTTP/1.1 200 OK\r\r\nA: b\r\n\r\n", b"HTTP/1.1 +20 OK\r\n\r\n"),
    # Lengths
    *(
        OK + b"Content-Length: " + value + b"\r\n\r\nx"
        for value in (b"+1", b"-1", b"1, 2", b"1,", b",1", b"1 1", b"", b"x", b"0x1", b"9" * 19)
    ),
    OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nx",
    OK + b"Content-Length: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    OK + b"Transfer-Encoding: chunked\r\nContent-Length: 1, 2\r\n\r\n0\r\n\r\n",
    *(
        OK + b"Transfer-Encoding: " + value + b"\r\n\r\n"
        for value in (
            b"gzip",
            b"gzip, chunked",
            b"identity",
            b"chunked, chunked",
            b",chunked",
            b"chunked;q=1",
        )
    ),
    OK + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    # Fields; the first ones might split the response
    *(OK + b"A: b" + rest + b"\r\n\r\n" for rest in (b"\rSet-Cookie: c", b"\r\r\nSet-Cookie: c")),
    *(
        OK + field + b"\r\n\r\n"
        for field in (b"A : b", b" A: b", b": b", b"A", b"A b: c", b"A\x00: b", b"A\x7f: b")
    ),
    *(OK + field + b"\r\n\r\n" for field in (b"A(: b", b"A/: b", b"[A]: b", b"\xe9: b")),
    OK + b" c\r\nA: b\r\n\r\n",
    # Some readers take these bytes for white space.
    *(OK + b"Content-Length: " + value + b"\r\n\r\nx" for value in (b"1\x0b", b"\x0b1", b"1\x00")),
    *(OK + b"Transfer-Encoding: chunked" + byte + b"\r\n\r\n" for byte in (b"\x0b", b"\x00", b"\x1f")),
    OK + b"A: " + b"b" * 17_000 + b"\r\n\r\n",
    OK + b"A: b\r\n" * 4000,
    # Bodies that are broken from the start
    *(
        CHUNKED + chunk
        for chunk in (b"x\r\n", b"-1\r\n", b" 1\r\nx\r\n", b"1\rx\r\n", b"f" * 16 + b"\r\n", b"1\r\nxx")
    ),
    # What nobody asked for
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
]


@pytest.mark.parametrize("raw", BAD, ids=range(len(BAD)))
def test_bad_gateway(raw: bytes) -> None:
    wire = Wire()
    wire.client_sends(GET)
    wire.server_sends(raw)
    assert wire.statuses() == [502]
    assert b"Set-Cookie" not in wire.near.written
    assert not wire.client_closed  # the client has done nothing wrong
    assert wire.servers[0].closed


def test_there_are_many() -> None:
    assert len(BAD) >= 50


@pytest.mark.parametrize(
    "tail", [b"x", b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged", b"\r\n!", b"HTTP/1.1 "]
)
@pytest.mark.parametrize("head", [OK + b"Content-Length: 2\r\n\r\nok", CHUNKED + b"2\r\nok\r\n0\r\n\r\n"])
def test_what_comes_behind_a_response_reaches_nobody(head: bytes, tail: bytes) -> None:
    wire = Wire()
    wire.client_sends(GET)
    wire.server_sends(head + tail)
    assert wire.near.written.endswith((b"\r\n\r\nok", b"2\r\nok\r\n0\r\n\r\n"))
    assert wire.servers[0].closed  # never used again
    before = wire.near.written
    wire.client_sends(GET)
    assert wire.near.written == before
    wire.answer()
    assert wire.statuses() == [200, 200]


def test_a_chunked_body_that_breaks_later_breaks_the_connection() -> None:
    wire = Wire()
    wire.client_sends(GET)
    wire.server_sends(CHUNKED + b"2\r\nok\r\n")
    wire.server_sends(b"junk\r\n")
    assert wire.statuses() == [200]
    assert wire.client_closed  # the only way left to say that it is not whole


def test_an_answer_that_no_request_waits_for_closes_the_connection() -> None:
    wire = Wire()
    wire.servers[0].protocol.data_received(OK + b"Content-Length: 0\r\n\r\n")
    assert wire.servers[0].closed
    assert wire.upstream.pool.idle == {}
