"""Response heads: what a server sent, and what is sent on to the client.

Edited line by line, as in `request.py`, and checked as strictly: nothing ambiguous reaches a client.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import httptools

from tests.http.oracle.fields import FieldLines, Malformed

_LINES = FieldLines(
    [
        *(b"connection", b"content-length", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding"),
        b"upgrade",
    ]
)
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_KEPT = frozenset({b"content-length", b"transfer-encoding", b"close", b"keep-alive", b"date", b"via"})
_STATUS = re.compile(rb"HTTP/1\.[01] ([1-5][0-9][0-9])(?: [\t -~\x80-\xff]*)?")


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
    line, *lines = raw[:-4].split(b"\r\n")
    match = _STATUS.fullmatch(line)
    if match is None:
        raise BadResponse("status line")
    try:
        found, new = _LINES.read(lines)
    except Malformed:
        raise BadResponse("field line") from None
    status = int(match[1])
    http11 = line[7:8] == b"1"
    keep_alive = http11
    content_length = -1
    chunked = False
    upgrade = b""
    named: set[bytes] = set()
    cut: list[bytes] = []
    for one, name, value in found:
        if name == b"content-length":
            if content_length >= 0 or not value.isdigit() or len(value) > 18:
                raise BadResponse("content-length")
            content_length = int(value)
        elif name == b"transfer-encoding":
            if chunked or value.lower() != b"chunked":
                raise BadResponse("transfer-encoding")
            chunked = True
        else:
            cut.append(one)
            if name == b"connection":
                tokens = _TOKEN.findall(value.lower())
                if b"close" in tokens:
                    keep_alive = False
                named.update(token for token in tokens if token not in _KEPT)
            elif name == b"upgrade":
                upgrade = value
    if chunked and (content_length >= 0 or not http11):
        raise BadResponse("ambiguous length")
    if status < 200 or status == 204:
        if chunked or content_length > 0:
            # RFC 9112 §6.3: no body here, whatever the fields say; some readers would wait for one.
            raise BadResponse("length where there is no body")
        content_length = 0
    if new:
        try:
            httptools.HttpResponseParser(None).feed_data(
                b"HTTP/1.1 200 OK\r\n" + b"\r\n".join(new) + b"\r\n\r\n"
            )
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError as error:
            raise BadResponse(str(error)) from None
        _LINES.remember(new, found)
    if head_request or status == 304:
        content_length, chunked = 0, False
    if chunked:
        content_length = -1
    if named:
        cut += [one for one in lines if one.partition(b":")[0].lower() in named]
    out = raw
    if cut or not http11:
        kept = [one for one in lines if one not in cut]
        out = b"\r\n".join((b"HTTP/1.1" + line[8:], *kept, b"", b""))
    if status == 101:
        out = out[:-2] + b"Connection: upgrade\r\nUpgrade: " + upgrade + b"\r\n\r\n"
    return ResponseHead(out, out != raw, status, keep_alive, content_length, chunked, upgrade)
