"""Remembered lines must mean what they mean when they are read for the first time."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylb.http import request, response
from pylb.http.errors import Refused
from pylb.http.fields import _LINE, _LINES, FieldLines, Malformed
from pylb.http.request import HeadLimits, RequestHead
from pylb.http.response import BadResponse, read_response

LINES = [
    *(b"Host: a", b"host: b", b"Connection: close", b"Connection: keep-alive, x-gone", b"X-Gone: 1", b"A: b"),
    *(b"Content-Length: 2", b"content-length:3", b"Transfer-Encoding: chunked", b"A: c", b"A : c", b" d: e"),
    *(b"Expect: 100-continue", b"Upgrade: websocket", b"connection: upgrade", b"TE: trailers", b"a\rb: c"),
    *(b"X-Forwarded-For: 192.0.2.1", b"X-Forwarded-Host: c", b"X-Request-ID: 7", b"Forwarded: for=x"),
    b"A: \x00",
]
heads = st.lists(st.sampled_from(LINES), max_size=6)


def ask(one: RequestHead, lines: list[bytes], version: bytes) -> object:
    try:
        out = one.parse(b"\r\n".join((b"GET / HTTP/" + version, *lines, b"", b"")))
        return out, one.keep_alive, one.chunked
    except Refused as refused:
        return refused.status, refused.reason


def answer(lines: list[bytes]) -> object:
    try:
        return read_response(b"\r\n".join((b"HTTP/1.1 200 OK", *lines, b"", b"")), False)
    except BadResponse:
        return None


@given(st.lists(st.tuples(heads, st.sampled_from([b"1.1", b"1.0"])), max_size=6), st.booleans())
def test_a_head_means_the_same_whatever_was_read_before(
    sequence: list[tuple[list[bytes], bytes]], trusted: bool
) -> None:
    def head() -> RequestHead:
        return RequestHead(b"192.0.2.7", b"h", b"http", HeadLimits(), trusted=trusted)

    used = head()
    for lines, version in sequence:
        again, response_again = ask(used, lines, version), answer(lines)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(request, "read_fields", request.read_fields.__wrapped__)
            patch.setattr(request, "_LINES", FieldLines(request._LINES._meaningful))
            patch.setattr(response, "_LINES", FieldLines(response._LINES._meaningful))
            assert again == ask(head(), lines, version)
            assert response_again == answer(lines)
            # And when all of it was seen just before.
            assert again == ask(head(), lines, version)
            assert response_again == answer(lines)


def test_memory_is_bounded() -> None:
    lines = FieldLines([b"host"])
    for number in range(3 * _LINES):
        new = [b"A: %d" % number, b"Host: %d" % number, b"B: " + b"b" * _LINE + b"%d" % number]
        found, unseen = lines.read(new)
        assert [name for _, name, _ in found] == [b"host"]
        assert unseen == new
        lines.remember(new, found)
    assert len(lines._plain) + len(lines._known) <= _LINES + 2


def test_only_what_was_found_good_is_remembered() -> None:
    lines = FieldLines([b"host"])
    for _ in range(2):
        with pytest.raises(Malformed):
            lines.read([b"A: b", b"A : b"])
        assert lines.read([b"A: b"])[1] == [b"A: b"]
