"""Response heads: what a server sent, and what is sent on to the client.

Edited as bytes, as in `request.py`, and checked as strictly: nothing ambiguous reaches a client.
"""

from __future__ import annotations

import re

import httptools

_FIELDS = re.compile(
    rb"\n(connection|content-length|keep-alive|proxy-connection|te|transfer-encoding|upgrade)"
    rb":[ \t]*([^\r]*)\r"
)
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_KEPT = frozenset({b"content-length", b"transfer-encoding", b"close", b"keep-alive", b"date", b"via"})


class BadResponse(Exception):
    """The server's head is malformed or ambiguous; the client gets 502."""


class ResponseHead:
    """The head of the response that a server connection is at; one per connection, used again."""

    __slots__ = ("status", "keep_alive", "content_length", "chunked", "_parser")

    def __init__(self) -> None:
        self.status = 0
        self.keep_alive = True
        self.content_length = -1  # -1: not given
        self.chunked = False
        self._parser = httptools.HttpResponseParser(self)

    def parse(self, raw: bytes, head_request: bool) -> tuple[int, int, bytes | None]:
        """Read a complete head, the answer to a HEAD request or to another.

        Gives ``(start, end, head)``: either ``head`` is None and the head for the client is ``raw`` without
        the bytes ``start:end`` (an empty range when nothing goes), which lets the caller splice
        it with the body in one step, or ``head`` is the whole head, and the numbers mean nothing.

        Raises:
            BadResponse: the head must not be passed on.
        """
        try:
            self._parser.feed_data(raw)
        except httptools.HttpParserUpgrade:
            raise BadResponse("upgrade") from None
        except httptools.HttpParserError as error:
            raise BadResponse(str(error)) from None
        version = raw[:9]
        self.keep_alive = version == b"HTTP/1.1 "
        if not self.keep_alive and version != b"HTTP/1.0 ":
            raise BadResponse("version")
        status = raw[9:12]
        if not status.isdigit() or raw[12:13] not in (b" ", b"\r"):
            raise BadResponse("status")
        self.status = int(status)
        self.content_length = -1
        self.chunked = False
        named: list[bytes] = []
        cuts: list[tuple[int, int]] = []
        lower = raw.lower()
        for field in _FIELDS.finditer(lower, 12):
            name = field[1]
            if name == b"content-length":
                digits = field[2].rstrip()
                if self.content_length >= 0 or not digits.isdigit() or len(digits) > 18:
                    raise BadResponse("content-length")
                self.content_length = int(digits)
            elif name == b"transfer-encoding":
                if self.chunked or field[2].rstrip() != b"chunked":
                    raise BadResponse("transfer-encoding")
                self.chunked = True
            else:
                cuts.append((field.start() + 1, field.end() + 1))
                if name == b"connection" and field[2] != b"keep-alive":
                    tokens = _TOKEN.findall(field[2])
                    if b"close" in tokens:
                        self.keep_alive = False
                    named += [token for token in tokens if token not in _KEPT]
        if self.chunked and (self.content_length >= 0 or version == b"HTTP/1.0 "):
            raise BadResponse("ambiguous length")
        if self.status < 200 or self.status == 204:
            if self.chunked or self.content_length > 0:
                # RFC 9112 §6.3: no body here, whatever the fields say; some readers would wait for one.
                raise BadResponse("length where there is no body")
            self.content_length = 0
        if head_request or self.status == 304:
            self.content_length, self.chunked = 0, False
        if self.chunked or self.content_length != 0 or head_request:
            # The body is not shown to llhttp: it starts afresh with the next head.
            self._parser = httptools.HttpResponseParser(self)
        if version == b"HTTP/1.1 " and not named:
            if not cuts:
                return 0, 0, None
            if len(cuts) == 1:
                return cuts[0][0], cuts[0][1], None
        if named:
            wanted = b"|".join(re.escape(token) for token in set(named))
            for field in re.finditer(rb"\n(?:" + wanted + rb"):[^\r]*\r", lower):
                span = (field.start() + 1, field.end() + 1)
                if span not in cuts:
                    cuts.append(span)
            cuts.sort()
        pieces = [b"HTTP/1.1"]
        start = 8
        for cut_start, cut_end in cuts:
            pieces.append(raw[start:cut_start])
            start = cut_end
        pieces.append(raw[start:])
        return 0, 0, b"".join(pieces)
