"""Response heads: what a server sent, and what is sent on to the client.

Edited as bytes and remembered, as in `request.py`, and checked as strictly: nothing ambiguous reaches a
client.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

import httptools

_FIELDS = re.compile(
    rb"\n(connection|content-length|keep-alive|proxy-connection|te|transfer-encoding|upgrade)"
    rb":[ \t]*([^\r]*)\r"
)
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_KEPT = frozenset({b"content-length", b"transfer-encoding", b"close", b"keep-alive", b"date", b"via"})
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: [\t -~\x80-\xff]*)?\r\n")
_REMEMBERED = 4096  # bytes


class BadResponse(Exception):
    """The server's head is malformed or ambiguous; the client gets 502."""


@dataclass(slots=True)
class ResponseHead:
    """A response head, understood."""

    out: bytes
    """The head for an HTTP/1.1 client whose connection stays open."""
    changed: bool
    """Whether ``out`` differs from what the server sent."""
    status: int
    keep_alive: bool
    content_length: int
    """Bytes of body; -1: chunked, or until the connection ends."""
    chunked: bool
    upgrade: bytes
    """With 101: the protocol that the server changes to."""


def read_response(raw: bytes, head_request: bool) -> ResponseHead:
    """Understand a complete head, the answer to a HEAD request or to another.

    Raises:
        BadResponse: the head must not be passed on.
    """
    if len(raw) <= _REMEMBERED:
        return _read_again(raw, head_request)
    return _read(raw, head_request)


def _read(raw: bytes, head_request: bool) -> ResponseHead:
    match = _STATUS.match(raw)
    if match is None:
        raise BadResponse("status line")
    status = int(match[1])
    http11 = raw[7:8] == b"1"
    keep_alive = http11
    content_length = -1
    chunked = False
    upgrade = b""
    named: list[bytes] = []
    cuts: list[tuple[int, int]] = []
    lower = raw.lower()
    for field in _FIELDS.finditer(lower, match.end() - 1):
        name = field[1]
        value = field[2].rstrip(b" \t")
        if name == b"content-length":
            if content_length >= 0 or not value.isdigit() or len(value) > 18:
                raise BadResponse("content-length")
            content_length = int(value)
        elif name == b"transfer-encoding":
            if chunked or value != b"chunked":
                raise BadResponse("transfer-encoding")
            chunked = True
        else:
            cuts.append((field.start() + 1, field.end() + 1))
            if name == b"connection":
                tokens = _TOKEN.findall(value)
                if b"close" in tokens:
                    keep_alive = False
                named += [token for token in tokens if token not in _KEPT]
            elif name == b"upgrade":
                upgrade = raw[field.start(2) : field.end(2)].rstrip()
    if chunked and (content_length >= 0 or not http11):
        raise BadResponse("ambiguous length")
    if status < 200 or status == 204:
        if chunked or content_length > 0:
            # RFC 9112 §6.3: no body here, whatever the fields say; some readers would wait for one.
            raise BadResponse("length where there is no body")
        content_length = 0
    try:
        httptools.HttpResponseParser(None).feed_data(raw)
    except httptools.HttpParserUpgrade:
        if status != 101:
            raise BadResponse("upgrade") from None
    except httptools.HttpParserError as error:
        raise BadResponse(str(error)) from None
    if head_request or status == 304:
        content_length, chunked = 0, False
    if chunked:
        content_length = -1
    if named:
        wanted = b"|".join(re.escape(token) for token in set(named))
        for field in re.finditer(rb"\n(?:" + wanted + rb"):[^\r]*\r", lower):
            span = (field.start() + 1, field.end() + 1)
            if span not in cuts:
                cuts.append(span)
        cuts.sort()
    out = raw
    if cuts or not http11:
        pieces = [b"HTTP/1.1"]
        start = 8
        for cut_start, cut_end in cuts:
            pieces.append(raw[start:cut_start])
            start = cut_end
        pieces.append(raw[start:])
        out = b"".join(pieces)
    if status == 101:
        out = out[:-2] + b"Connection: upgrade\r\nUpgrade: " + upgrade + b"\r\n\r\n"
    return ResponseHead(out, out != raw, status, keep_alive, content_length, chunked, upgrade)


_read_again = lru_cache(1024)(_read)
