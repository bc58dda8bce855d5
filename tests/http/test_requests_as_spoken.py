"""Requests as they are spoken: what becomes one, and what is refused at once since it can't any more."""

from __future__ import annotations

import pytest

from pylb.http.requestline import same_host
from tests.http.wire import Wire

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


# Empty lines (RFC 9112 §2.2)


@pytest.mark.parametrize("lines", [1, 2, 8])
@pytest.mark.parametrize("split", [False, True])
def test_empty_lines_before_and_between_requests(lines: int, split: bool) -> None:
    wire = Wire()
    for _ in range(2):
        data = b"\r\n" * lines + GET
        for piece in [data[at : at + 1] for at in range(len(data))] if split else [data]:
            wire.client_sends(piece)
        assert wire.answer()
    wire.client_sends(b"\r\n" * lines)
    assert wire.statuses() == [200, 200]
    assert not wire.client_closed
    wire.client.expire()  # an idle connection, of which nothing is refused
    assert wire.refused() == {}


def test_there_can_be_too_many_empty_lines() -> None:
    wire = Wire()
    wire.client_sends(b"\r\n" * 9)
    assert wire.statuses() == [400]


# What can't become a request is refused at once


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"GET / HTTP/1.1\nHost: a\n\n", 400, "request_line"),
        (b"GET / HTTP/1.1\n", 400, "request_line"),
        (b"GET / HTTP/1.1\r\nHost: a\n", 400, "syntax"),
        (b"GET / HTTP/1.1\r\nHost: a\nA: b\r\nC: d\r\n", 400, "syntax"),
        (b"GET / HTTP/1.1\r\nA: " + b"a" * 300 + b"\n", 400, "syntax"),
        (b"\n" + GET[:10], 400, "request_line"),
        (bytes.fromhex("16030100c8010000c403"), 400, "request_line"),
        (b"\x00", 400, "request_line"),
        (b" GET", 400, "request_line"),
        (b"GET  /", 400, "request_line"),
        (b"GET /\x01", 400, "request_line"),
        (b"GET / FTP", 400, "request_line"),
        (b"GET / HTTP/x", 400, "request_line"),
        (b"GET / HTTP/1.1\r\r", 400, "request_line"),
        (b"GET /\r\n", 400, "request_line"),
        (b"EHLO example.org\r\n", 400, "request_line"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", 400, "request_line"),
        (b"*1\r\n$4\r\nPING\r\n", 400, "request_line"),
        (b"A" * 33, 400, "request_line"),
        (b"GET / HTTP/1.2\r\n", 505, "version"),
        (b"CONNECT a:80 HTTP/1.1\r\n", 405, "method"),
        (b"GET / HTTP/1.1\r\nA b", 400, "syntax"),
        (b"GET / HTTP/1.1\r\nA b\r\n", 400, "syntax"),
        (b"GET / HTTP/1.1\r\n: b", 400, "syntax"),
        (b"GET / HTTP/1.1\r\nA: \x00", 400, "syntax"),
    ],
)
def test_refused_at_once(data: bytes, status: int, reason: str) -> None:
    wire = Wire()
    wire.client_sends(data)
    assert wire.statuses() == [status]
    assert wire.refused() == {reason: 1}
    pieces = Wire()
    for at in range(len(data)):
        pieces.client_sends(data[at : at + 1])
    assert len(pieces.statuses()) == 1


@pytest.mark.parametrize(
    "whole",
    [
        GET,
        b"OPTIONS * HTTP/1.0\r\n\r\n",
        b"X!#$%&'*+-.^_`|~0 http://a:80/x?y HTTP/1.1\r\nHost: a\r\nA:\r\nB:\t\xe9 \r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ],
)
def test_the_beginning_of_a_request_is_waited_for(whole: bytes) -> None:
    end = whole.index(b"\r\n\r\n") + 4
    wire = Wire()
    for at in range(end - 1):
        wire.client_sends(whole[at : at + 1])
        assert wire.near.written == b"", whole[: at + 1]


# Host and target name one host (RFC 9112 §3.2.2)


@pytest.mark.parametrize(
    ("target", "host", "same"),
    [
        (b"http://a:80/", b"a", True),
        (b"http://a/", b"a:80", True),
        (b"http://a:/", b"a", True),
        (b"HTTP://A:80/", b"a", True),
        (b"https://a:443/", b"a", True),
        (b"https://a/", b"A:443", True),
        (b"http://[::1]:80/", b"[::1]", True),
        (b"http://a:8080/", b"a", False),
        (b"http://a:443/", b"a", False),
        (b"https://a:80/", b"a", False),
        (b"http://b/", b"a", False),
        (b"http://a:80/", b"a:443", False),
    ],
)
def test_host_and_target(target: bytes, host: bytes, same: bool) -> None:
    wire = Wire()
    wire.client_sends(b"GET %b HTTP/1.1\r\nHost: %b\r\n\r\n" % (target, host))
    wire.answer()
    assert wire.statuses() == [200 if same else 400]
    if same:
        (seen,) = wire.complete_requests()
        assert b"\r\nHost: " + host + b"\r\n" in seen


def test_whatever_the_scheme_a_host_is_itself() -> None:
    assert same_host(b"a:80", b"A:80", b"") and not same_host(b"a:80", b"a", b"ftp")


# A refused HEAD gets no body


@pytest.mark.parametrize(
    "data",
    [
        b"HEAD / HTTP/1.1\r\n\r\n",
        b"HEAD / HTTP/1.1\r\nHost: a\r\nA b\r\n\r\n",
        b"HEAD /\x01",
        b"HEAD /" + b"a" * 9000,
        b"HEAD / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
    ],
)
def test_a_refused_head_request(data: bytes) -> None:
    wire = Wire()
    wire.client_sends(data)
    assert wire.statuses()[0] >= 400
    assert wire.near.written.endswith(b"\r\n\r\n")
    assert b"\r\nContent-Length: 0" not in wire.near.written


def test_a_head_request_that_comes_too_slowly() -> None:
    wire = Wire()
    wire.client_sends(b"HEAD / HT")
    wire.client.expire()
    assert wire.statuses() == [408]
    assert wire.near.written.endswith(b"\r\n\r\n")


# What goes to the server


@pytest.mark.parametrize(
    ("fields", "passed"),
    [
        (b"TE: trailers\r\n", True),
        (b"TE: trailers\r\nConnection: TE\r\n", True),
        (b"TE: gzip;q=0.5, Trailers\r\n", True),
        (b"TE: gzip\r\n", False),
        (b"TE: xtrailers\r\n", False),
        (b"TE:\r\n", False),
        (b"", False),
    ],
)
def test_te_trailers_is_passed_on(fields: bytes, passed: bool) -> None:
    wire = Wire()
    wire.client_sends(b"GET / HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n")
    (seen,) = wire.complete_requests()
    assert (b"\r\nConnection: TE\r\nTe: trailers\r\n" in seen) is passed
    assert seen.lower().count(b"\r\nte:") == passed


@pytest.mark.parametrize(("version", "via"), [(b"1.0", b"1.0"), (b"1.1", b"1.1")])
@pytest.mark.parametrize("forwarded", [False, True])
def test_via_says_in_which_version_a_request_came(version: bytes, via: bytes, forwarded: bool) -> None:
    wire = Wire(via=True, forwarded=forwarded)
    for _ in range(2):
        wire.client_sends(b"GET / HTTP/%b\r\nHost: a\r\nConnection: keep-alive\r\n\r\n" % version)
        wire.answer()
    for seen in wire.complete_requests():
        assert b"\r\nVia: " + via + b" pylb\r\n" in seen
    assert len(wire.complete_requests()) == 2
