"""What servers say that isn't quite HTTP, and what the client gets instead: as HAProxy, and mostly nginx.

`bench.spoken` puts the same questions to both.
"""

from __future__ import annotations

import pytest

from pylb.http.response import head_end, read_response
from pylb.scoreboard import BAD_RESPONSES, Field
from tests.http.wire import Wire

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n"
TWO = OK + b"Content-Length: 2\r\n\r\nok"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNKS = b"2\r\nok\r\n0\r\n\r\n"

AS_IF = [
    # What comes, what the client gets, and whether the connection serves another request.
    # Line ends (RFC 9112 §2.2)
    (b"HTTP/1.1 200 OK\nContent-Length: 2\n\nok", TWO, True),
    (b"HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nok", TWO, True),
    (OK + b"Content-Length: 2\n\nok", TWO, True),
    (OK + b"Content-Length: 2\r\n\nok", TWO, True),
    (OK + b"Content-Length: 2\n\r\nok", TWO, True),
    (OK + b"A: b\nC: d\r\nContent-Length: 2\r\n\r\nok", OK + b"A: b\r\nC: d\r\n" + TWO[17:], True),
    (
        b"HTTP/1.1 200 OK\nContent-Length: 6\n\n\r\n\r\nok",
        OK + b"Content-Length: 6\r\n\r\n\r\n\r\nok",
        True,
    ),
    # Lengths (RFC 9110 §8.6)
    (OK + b"Content-Length: 2\r\nA: b\r\nContent-Length: 2\r\n\r\nok", OK + b"A: b\r\n" + TWO[17:], True),
    (OK + b"Content-Length: 2, 2\r\n\r\nok", TWO, True),
    (OK + b"Content-Length: 2\r\nContent-Length: 02\r\n\r\nok", TWO, True),
    (
        OK + b"Content-Length: %b2\r\n\r\nok" % (b"0" * 20),
        OK + b"Content-Length: %b2\r\n\r\nok" % (b"0" * 20),
        True,
    ),
    # A coding (RFC 9112 §6.3)
    (OK + b"Content-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS, CHUNKED + CHUNKS, False),
    (OK + b"Transfer-Encoding: chunked\r\nContent-Length: 9\r\n\r\n" + CHUNKS, CHUNKED + CHUNKS, False),
    (b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS, CHUNKED + CHUNKS, False),
    (OK + b"Transfer-Encoding:\r\nContent-Length: 2\r\n\r\nok", TWO, False),
    (CHUNKED + b"2  \r\nok\r\n0\t\r\n\r\n", CHUNKED + b"2  \r\nok\r\n0\t\r\n\r\n", True),
    (CHUNKED + b"2 ; a\r\nok\r\n0\r\n\r\n", CHUNKED + b"2 ; a\r\nok\r\n0\r\n\r\n", True),
    (CHUNKED + b"0" * 20 + CHUNKS, CHUNKED + b"0" * 20 + CHUNKS, True),
    *(
        (CHUNKED + chunks, CHUNKED + seen, True)
        for chunks, seen in (
            (b"2\nok\n0\n\n", CHUNKS),
            (b"2;a\nok\r\n0\r\n\r\n", b"2;a\r\nok\r\n0\r\n\r\n"),
            (b"2\r\nok\n0\r\n\r\n", CHUNKS),
            (b"2\r\n\n\n\n3\r\na\nb\r\n0\r\n\n", b"2\r\n\n\n\r\n3\r\na\nb\r\n0\r\n\r\n"),
            (b"2\r\nok\r\n0\r\nA: b\n\r\n", b"2\r\nok\r\n0\r\nA: b\r\n\r\n"),
        )
    ),
    # No body, whatever is said of one
    (b"HTTP/1.1 204 N\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 204 N\r\n\r\n", True),
    (b"HTTP/1.1 204 N\r\nContent-Length: 2\r\n\r\n", b"HTTP/1.1 204 N\r\n\r\n", False),
    (b"HTTP/1.1 204 N\r\nContent-Length: 2\r\n\r\nok", b"HTTP/1.1 204 N\r\n\r\n", False),
    (b"HTTP/1.1 204 N\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"HTTP/1.1 204 N\r\n\r\n", False),
    (b"HTTP/1.1 304 N\r\nTransfer-Encoding: chunked\r\n\r\n", b"HTTP/1.1 304 N\r\n\r\n", False),
    # The length that a 200 would have had (RFC 9110 §15.4.5)
    (b"HTTP/1.1 304 N\r\nContent-Length: 2\r\n\r\n", b"HTTP/1.1 304 N\r\nContent-Length: 2\r\n\r\n", True),
    *(
        (b"HTTP/1.1 103 E\r\n" + line + b"\r\n\r\n" + TWO, b"HTTP/1.1 103 E\r\n\r\n" + TWO, True)
        for line in (b"Content-Length: 0", b"Content-Length: 2", b"Transfer-Encoding: chunked")
    ),
    # Status lines (RFC 9112 §4)
    *(
        (line + b"\r\nContent-Length: 2\r\n\r\nok", TWO.replace(b"200 OK", phrase), True)
        for line, phrase in (
            (b"HTTP/1.1  200 OK", b"200 OK"),
            (b"HTTP/1.1 200\tOK", b"200 OK"),
            (b"HTTP/1.2 200 OK", b"200 OK"),
            (b"HTTP/2.0 200 OK", b"200 OK"),
            (b"HTTP/1.1 200", b"200"),
            (b"HTTP/1.1 200 ", b"200 "),
            (b"HTTP/1.1 200 O\x00K", b"200 O K"),
            (b"HTTP/1.1 999 Denied", b"999 Denied"),
        )
    ),
    (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", TWO, False),
    # Fields (RFC 9112 §5.2, RFC 9110 §5.5)
    *(
        (OK + field + b"\r\n" + TWO[17:], OK + seen + b"\r\n" + TWO[17:], True)
        for field, seen in (
            (b"A: b\r\n c", b"A: b c"),
            (b"A: b\r\n\t \r\n c", b"A: b  c"),
            (b"A: b\n\tc", b"A: b c"),
            (b"A: b\x01c\x7f", b"A: b c "),
            (b"A: b\x00c", b"A: b c"),
        )
    ),
    *(
        (OK + line + b"Content-Length: 2\r\n\r\nok", TWO, False)
        for line in (
            b"Connection: Close\r\n",
            b"Connection: keep-alive, close\r\n",
            b"Connection: keep-alive\r\nConnection: close\r\n",
        )
    ),
]


@pytest.mark.parametrize(("comes", "goes", "again"), AS_IF, ids=range(len(AS_IF)))
def test_what_is_written_anew(comes: bytes, goes: bytes, again: bool) -> None:
    wire = Wire()
    wire.client_sends(GET)
    wire.server_sends(comes)
    assert wire.near.take() == goes
    assert wire.servers[0].closed is not again
    if again:  # what begins now is the next response, and nothing is left of this one
        wire.client_sends(GET)
        wire.server_sends(TWO)
        assert wire.near.written == TWO
    assert not any(wire.worker.counters[Field.BAD_RESPONSE_FOR :])


@pytest.mark.parametrize("comes", [one for one, _, _ in AS_IF if b"HTTP/1.1 103" not in one])
def test_however_it_comes_it_is_the_same(comes: bytes) -> None:
    whole, pieces = Wire(), Wire()
    for wire in (whole, pieces):
        wire.client_sends(GET)
    whole.server_sends(comes)
    for position in range(len(comes)):
        pieces.server_sends(comes[position : position + 1])
    assert pieces.near.written == whole.near.written


def test_to_a_head_request_a_length_is_no_body() -> None:
    wire = Wire()
    wire.client_sends(HEAD)
    wire.server_sends(OK + b"Content-Length: 5, 5\r\n\r\n")
    assert wire.near.written == OK + b"Content-Length: 5\r\n\r\n"
    assert not wire.servers[0].closed


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"ICY 200 OK\r\n\r\n", "status_line"),
        (OK + b"A b\r\n\r\n", "field_line"),
        (OK + b" A: b\r\n\r\n", "field_line"),
        (OK + b"Content-Length: 2, 3\r\n\r\n", "content_length"),
        (OK + b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n", "content_length"),
        (OK + b"Transfer-Encoding: gzip\r\n\r\n", "transfer_encoding"),
        (OK + b"A: " + b"a" * 20_000 + b"\r\n\r\n", "header_bytes"),
        (CHUNKED + b"x\r\n", "chunk"),
        (b"HTTP/1.1 101 S\r\nUpgrade: x\r\n\r\n", "upgrade"),
    ],
)
def test_a_refused_response_says_why(raw: bytes, reason: str) -> None:
    wire = Wire()
    wire.client_sends(GET)
    wire.server_sends(raw)
    assert wire.statuses() == [502]
    counters = wire.worker.counters[Field.BAD_RESPONSE_FOR :]
    assert {name: count for name, count in zip(BAD_RESPONSES, counters, strict=True) if count} == {reason: 1}
    (said,) = wire.worker.said
    assert said.partition("bad response: ")[2]


@pytest.mark.parametrize(
    "data", [b"SSH-2.0-x\r\n", b"HTTX", b"\x16\x03", b"HTTP/1.1 200 OK\rA: b\r\r", b"<html>"]
)
def test_what_can_be_no_response_any_more_is_refused_at_once(data: bytes) -> None:
    wire = Wire()
    wire.client_sends(GET)
    wire.server_sends(data)
    assert wire.statuses() == [502]
    assert wire.worker.counters[Field.BAD_RESPONSE_FOR] == 1


def test_to_an_old_client_chunks_that_end_with_lf_are_contents() -> None:
    wire = Wire()
    wire.client_sends(GET.replace(b"1.1", b"1.0"))
    wire.server_sends(CHUNKED + b"2\nok\n3\nay!\n0\n\n")
    assert wire.near.written.endswith(b"\r\n\r\nokay!")


def test_where_a_head_ends() -> None:
    assert head_end(b"A\n\nb\r\n\r\n") == 3
    assert head_end(b"A\r\n\nb") == 4
    assert head_end(b"A\nb\r\n\r") == 0


def test_a_status_above_those_of_http_counts_as_5xx() -> None:
    wire = Wire()
    wire.client_sends(GET)
    wire.server_sends(b"HTTP/1.1 900 X\r\nContent-Length: 0\r\n\r\n")
    assert wire.worker.counters[Field.STATUS_5XX] == 1
    assert wire.worker.counters[Field.REFUSED] == 0


def test_a_head_that_is_good_is_not_written_anew() -> None:
    raw = OK + b"Content-Length: 2\r\n\r\n"
    assert read_response(raw, False).changed is False
