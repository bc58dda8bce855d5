"""Request heads: what a client sent, and what is sent on to the server.

llhttp (through httptools) has the first word on syntax: among others it refuses bare CR or LF, folded
lines, control bytes, and white space before a colon. This module adds what it leaves open, works out the
framing, and rewrites the head for the server. The head is edited as bytes and not rebuilt from a list
of fields: most fields pass unchanged, and a search that finds the few that matter is several times
cheaper than a callback per field.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import httptools

from pylb.http.errors import Refused

# Applied to a lower-cased head. The leading \n is that of the line before.
_FIELDS = re.compile(
    rb"\n(connection|content-length|expect|host|keep-alive|proxy-connection|te|transfer-encoding"
    rb"|upgrade|x-forwarded-for|x-forwarded-host|x-forwarded-proto):[ \t]*([^\r]*)\r"
)

# Fields that a client may not have removed by naming them in Connection (RFC 9110 §7.6.1 speaks only of
# hop-by-hop fields; taking these away would change the message or its framing).
_KEPT = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"expect", b"via", b"close", b"keep-alive"}
)
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_ABSOLUTE = re.compile(rb"https?://([^/?#@]+)(/[^#]*|\?[^#]*)?", re.IGNORECASE)
_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"})
"""Methods that may be sent twice (RFC 9110 §9.2.2)."""


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """Bytes of a request line, bytes of a whole head, and number of fields."""

    line_bytes: int = 8192
    header_bytes: int = 16384
    header_count: int = 100


class RequestHead:
    """The head of the request that a connection is at; one object per connection, used again.

    Args:
        client: the client's address as it goes into ``X-Forwarded-For``.
        host: the address that the client connected to, for HTTP/1.0 requests without a ``Host``.
        scheme: ``http`` or ``https``.
    """

    __slots__ = (
        "method",
        "http11",
        "keep_alive",
        "content_length",
        "chunked",
        "expect_continue",
        "_parser",
        "_client",
        "_host",
        "_scheme",
        "_suffix",
        "_limits",
    )

    def __init__(self, client: bytes, host: bytes, scheme: bytes, limits: HeadLimits) -> None:
        self.method = b""
        self.http11 = True
        self.keep_alive = True
        self.content_length = 0
        self.chunked = False
        self.expect_continue = False
        self._parser = httptools.HttpRequestParser(self)
        self._client = client
        self._host = host
        self._scheme = scheme
        self._limits = limits
        common = b"X-Forwarded-Proto: " + scheme + b"\r\nVia: 1.1 pylb\r\nX-Forwarded-For: "
        self._suffix = common + client + b"\r\nX-Forwarded-Host: "

    def parse(self, raw: bytes) -> bytes:
        """Read a complete head (it ends with an empty line) and give the head for the server.

        Raises:
            Refused: with the status to answer; the connection can't be used any longer.
        """
        limits = self._limits
        if len(raw) > limits.header_bytes:
            raise Refused(431, "header_bytes")
        try:
            self._parser.feed_data(raw)
        except httptools.HttpParserUpgrade:
            # Upgrades are not passed on, so the connection stays HTTP (RFC 9110 §7.8 lets us ignore it).
            self._parser = httptools.HttpRequestParser(self)
        except httptools.HttpParserError:
            raise Refused(400, "syntax") from None
        if raw.count(b"\n") - 2 > limits.header_count:
            raise Refused(431, "header_count")
        eol = raw.find(b"\r\n")
        if eol > limits.line_bytes:
            raise Refused(414, "line_bytes")
        line = raw[:eol].split(b" ")
        if len(line) != 3:
            raise Refused(400, "request_line")
        method, target, version = line
        if version == b"HTTP/1.1":
            self.http11 = self.keep_alive = True
        elif version == b"HTTP/1.0":
            self.http11 = self.keep_alive = False
        else:
            raise Refused(505, "version")
        self.method = method
        self.content_length = 0
        self.chunked = self.expect_continue = False

        lower = raw.lower()
        host: bytes | None = None
        forwarded = b""
        named: list[bytes] = []
        cuts: list[tuple[int, int]] = []
        lengths = encodings = 0
        closing = False
        for field in _FIELDS.finditer(lower, eol):
            name = field[1]
            if name == b"host":
                if host is not None:
                    raise Refused(400, "host")
                host = raw[field.start(2) : field.end(2)].rstrip()
                if not _HOST.fullmatch(host):
                    raise Refused(400, "host")
            elif name == b"content-length":
                lengths += 1
                digits = field[2].rstrip()
                if lengths > 1 or not digits.isdigit() or len(digits) > 18:
                    raise Refused(400, "content_length")
                self.content_length = int(digits)
            elif name == b"transfer-encoding":
                encodings += 1
                if encodings > 1 or field[2].rstrip() != b"chunked" or not self.http11:
                    raise Refused(400, "transfer_encoding")
                self.chunked = True
            elif name == b"expect":
                if field[2].rstrip() != b"100-continue":
                    raise Refused(417, "expect")
                self.expect_continue = self.http11
            else:
                cuts.append((field.start() + 1, field.end() + 1))
                if name == b"connection":
                    tokens = _TOKEN.findall(field[2])
                    if b"close" in tokens:
                        self.keep_alive = False
                        closing = True
                    elif b"keep-alive" in tokens and not closing:
                        self.keep_alive = True
                    named += [token for token in tokens if token not in _KEPT]
                elif name == b"x-forwarded-for":
                    forwarded += raw[field.start(2) : field.end(2)].rstrip() + b", "
        if lengths and encodings:
            raise Refused(400, "content_length_and_transfer_encoding")
        if host is None and self.http11:
            raise Refused(400, "host")

        start = 0
        if target[0:1] != b"/" or not self.http11:
            line_out, host = self._request_line(method, target, host)
            start = eol
        else:
            line_out = b""
        if method == b"CONNECT" or method == b"TRACE":
            raise Refused(405, "method")
        if host is None:
            host = self._host
            line_out += b"\r\nHost: " + host
        suffix = self._suffix
        if not cuts:
            if start:
                return b"".join((line_out, raw[start:-2], suffix, host, b"\r\n\r\n"))
            return b"".join((raw[:-2], suffix, host, b"\r\n\r\n"))
        if named:
            wanted = b"|".join(re.escape(token) for token in set(named))
            for field in re.finditer(rb"\n(?:" + wanted + rb"):[^\r]*\r", lower):
                span = (field.start() + 1, field.end() + 1)
                if span not in cuts:
                    cuts.append(span)
            cuts.sort()
        if forwarded:
            suffix = b"".join(
                (b"X-Forwarded-Proto: ", self._scheme, b"\r\nVia: 1.1 pylb\r\nX-Forwarded-For: ")
                + (forwarded, self._client, b"\r\nX-Forwarded-Host: ")
            )
        pieces = [line_out]
        for cut_start, cut_end in cuts:
            pieces.append(raw[start:cut_start])
            start = cut_end
        pieces += (raw[start:-2], suffix, host, b"\r\n\r\n")
        return b"".join(pieces)

    def body_follows(self) -> None:
        """Say that the body is read by somebody else: llhttp starts afresh with the next head."""
        self._parser = httptools.HttpRequestParser(self)

    def _request_line(self, method: bytes, target: bytes, host: bytes | None) -> tuple[bytes, bytes | None]:
        """The request line for the server and the host, for targets in other than origin form."""
        if target[0:1] == b"/" or (target == b"*" and method == b"OPTIONS"):
            return b" ".join((method, target, b"HTTP/1.1")), host
        if method == b"CONNECT":
            raise Refused(405, "method")
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None or host is not None and absolute[1].lower() != host.lower():
            # A Host that differs from the target's authority would be read differently by different
            # servers; RFC 9112 §3.2.2 has the authority win, refusing leaves no doubt.
            raise Refused(400, "target")
        path = absolute[2] or b"/"
        if path[0:1] == b"?":
            path = b"/" + path
        return b" ".join((method, path, b"HTTP/1.1")), host if host is not None else absolute[1]
