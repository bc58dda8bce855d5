"""Request heads: what a client sent, and what is sent on to the server.

llhttp (through httptools) judges the syntax of fields, beside `fields.py`: among others it refuses bare CR or
LF, folded lines, control bytes, and white space before a colon. This module adds what it leaves open and
works out the framing. A head is edited line by line and not rebuilt from a list of fields: most lines pass as
they are.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass
from functools import lru_cache

import httptools

from pylb.http.errors import Refused
from tests.http.oracle.fields import FieldLines, Malformed

_LINES = FieldLines(
    [
        *(b"connection", b"content-length", b"expect", b"forwarded", b"host", b"http2-settings"),
        *(b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding", b"upgrade"),
        *(b"x-client-cert-subject", b"x-forwarded-for", b"x-forwarded-host", b"x-forwarded-proto"),
        b"x-request-id",
    ]
)

# Fields that a client may not have removed by naming them in Connection (RFC 9110 §7.6.1 speaks only of
# hop-by-hop fields; taking these away would change the message or its framing).
_KEPT = frozenset(
    {b"host", b"content-length", b"transfer-encoding", b"expect", b"via", b"close", b"keep-alive"}
    | {b"authorization", b"cookie", b"content-type"}
    | {b"x-request-id", b"x-forwarded-proto", b"x-forwarded-host"}
)
_TOKEN = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
# RFC 9112 §3. A target is visible ASCII; a fragment has no place in it.
_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([!-\"$-~]+) (HTTP/[0-9]\.[0-9])")
_ABSOLUTE = re.compile(rb"https?://([^/?#@]+)(/[^#]*|\?[^#]*)?", re.IGNORECASE)
_PORT = rb"[0-9]{0,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"
_HOST = re.compile(rb"(?:(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::(?:" + _PORT + rb"))?)?")
_UPGRADE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+(?:/[!#$%&'*+\-.^_`|~0-9A-Za-z]+)?")
IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"})
"""Methods that may be sent twice (RFC 9110 §9.2.2)."""


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """Bytes of a request line, bytes of a whole head, and number of fields."""

    line_bytes: int = 8192
    header_bytes: int = 16384
    header_count: int = 100


# The next two are made often; frozen ones cost three times as much.
@dataclass(slots=True)
class RequestLine:
    """A request line, understood. ``out`` is the line for the server, in origin form."""

    method: bytes
    http11: bool
    out: bytes
    authority: bytes | None
    """What an absolute target names; it must agree with ``Host``."""


@dataclass(slots=True)
class RequestFields:
    """The fields of a request, understood."""

    out: bytes
    """The lines that go to the server, each with a CRLF before it."""
    host: bytes | None
    content_length: int
    chunked: bool
    expect_continue: bool
    keep_alive: bool
    upgrade: bytes
    """The protocol that the client wants to change to, or nothing."""
    forwarded_for: bytes
    """A trusted peer's ``X-Forwarded-For``, to be continued."""
    forwarded: bytes
    """Likewise its ``Forwarded``."""
    given: tuple[bytes, ...]
    """Which of X-Forwarded-Proto and -Host a trusted peer has set, and whether there is an X-Request-ID."""
    count: int


@lru_cache(1024)
def read_line(line: bytes) -> RequestLine:
    """Understand a request line (without its CRLF).

    Raises:
        Refused: 400, 405 for CONNECT and TRACE, 505 for a version other than 1.0 and 1.1.
    """
    match = _LINE.fullmatch(line)
    if match is None:
        raise Refused(400, "request_line")
    method, target, version = match.groups()
    if version not in (b"HTTP/1.1", b"HTTP/1.0"):
        raise Refused(505, "version")
    if method in (b"CONNECT", b"TRACE"):
        raise Refused(405, "method")
    authority = None
    if target[:1] != b"/" and not (target == b"*" and method == b"OPTIONS"):
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise Refused(400, "target")
        authority = absolute[1]
        if not _HOST.fullmatch(authority):
            raise Refused(400, "target")
        # RFC 9112 §3.2.4: OPTIONS for an empty path means the server as a whole.
        target = absolute[2] or (b"*" if method == b"OPTIONS" else b"/")
        if target[:1] == b"?":
            target = b"/" + target
    return RequestLine(method, version == b"HTTP/1.1", b"%s %s HTTP/1.1" % (method, target), authority)


@lru_cache(256)  # for clients that open a connection for each request
def read_fields(block: bytes, http11: bool, trusted: bool) -> RequestFields:
    """Understand a block of fields, from the CRLF before the first to the empty line at the end.

    ``trusted``: the peer's own forwarding fields are believed and passed on; otherwise they are removed.

    Raises:
        Refused: 400, or 417 for an unknown expectation.
    """
    lines = block[2:-4].split(b"\r\n") if len(block) > 4 else []
    try:
        found, new = _LINES.read(lines)
    except Malformed:
        raise Refused(400, "syntax") from None
    host: bytes | None = None
    content_length = 0
    lengths = encodings = 0
    expect = False
    closing = keeping = upgrading = False
    upgrade = forwarded_for = forwarded = b""
    given: tuple[bytes, ...] = ()
    named: set[bytes] = set()
    cut: list[bytes] = []
    for line, name, value in found:
        if name == b"host":
            if host is not None or not _HOST.fullmatch(value):
                raise Refused(400, "host")
            host = value
        elif name == b"content-length":
            lengths += 1
            if lengths > 1 or not value.isdigit() or len(value) > 18:
                raise Refused(400, "content_length")
            content_length = int(value)
        elif name == b"transfer-encoding":
            encodings += 1
            if encodings > 1 or value.lower() != b"chunked" or not http11:
                raise Refused(400, "transfer_encoding")
        elif name == b"x-request-id":
            given += (name,)
        elif name == b"expect":
            if value.lower() != b"100-continue":
                raise Refused(417, "expect")
            expect = http11
            if not http11:
                cut.append(line)
        elif trusted and name in (b"x-forwarded-proto", b"x-forwarded-host"):
            given += (name,)
        else:
            cut.append(line)
            if name == b"connection":
                tokens = _TOKEN.findall(value.lower())
                closing = closing or b"close" in tokens
                keeping = keeping or b"keep-alive" in tokens
                upgrading = upgrading or b"upgrade" in tokens
                named.update(token for token in tokens if token not in _KEPT)
            elif name == b"upgrade":
                upgrade += b", " + value if upgrade else value  # of several none is taken
            elif trusted and name == b"x-forwarded-for":
                forwarded_for += value + b", "
            elif trusted and name == b"forwarded":
                forwarded += value + b", "
    if lengths and encodings:
        raise Refused(400, "content_length_and_transfer_encoding")
    if new:
        try:
            httptools.HttpRequestParser(None).feed_data(
                b"POST / HTTP/1.1\r\n" + b"\r\n".join(new) + b"\r\n\r\n"
            )
        except httptools.HttpParserUpgrade:
            pass
        except httptools.HttpParserError:
            raise Refused(400, "syntax") from None
        _LINES.remember(new, found)
    if host is None and http11:
        raise Refused(400, "host")
    if named:
        cut += [line for line in lines if line.partition(b":")[0].lower() in named]
    out = b"\r\n".join((b"", *(line for line in lines if line not in cut))) if cut else block[:-4]
    # An upgrade to HTTP/2 in clear text would carry requests past every check (so HTTP2-Settings goes too),
    # and with a body it would be unclear where the other protocol begins.
    if upgrade and (
        not (upgrading and http11 and _UPGRADE.fullmatch(upgrade))
        or upgrade[:2].lower() == b"h2"
        or content_length
        or encodings
    ):
        upgrade = b""
    if upgrade:
        out += b"\r\nConnection: upgrade\r\nUpgrade: " + upgrade
    keep_alive = not closing and (http11 or keeping)
    return RequestFields(
        *(out, host, content_length, bool(encodings), expect, keep_alive, upgrade, forwarded_for, forwarded),
        *(given, len(lines)),
    )


class RequestHead:
    """The head of the request that a connection is at; one object per connection, used again.

    Args:
        client: the client's address as it goes into ``X-Forwarded-For``.
        host: the address that the client connected to, for HTTP/1.0 requests without a ``Host``.
        scheme: ``http`` or ``https``.
        extra: field lines to add to each request, each ending with CRLF.
        trusted: whether the peer's own forwarding fields are believed.
        forwarded: whether to send ``Forwarded`` (RFC 7239) too.
        request_id: whether a request without ``X-Request-ID`` gets one.
    """

    __slots__ = (
        "method",
        "http11",
        "keep_alive",
        "content_length",
        "chunked",
        "fields",
        "_client",
        "_host",
        "_scheme",
        "_extra",
        "_suffix",
        "_limits",
        "_trusted",
        "_forwarded",
        "_request_id",
        "_usual",
        "_block",
        "_block_http11",
    )

    def __init__(
        self,
        client: bytes,
        host: bytes,
        scheme: bytes,
        limits: HeadLimits,
        extra: bytes = b"",
        trusted: bool = False,
        forwarded: bool = False,
        request_id: bool = False,
    ) -> None:
        self.method = b""
        self.http11 = True
        self.keep_alive = True
        self.content_length = 0
        self.chunked = False
        self.fields: RequestFields | None = None
        self._client = client
        self._host = host
        self._scheme = scheme
        self._extra = extra
        self._limits = limits
        self._trusted = trusted
        self._forwarded = forwarded
        self._request_id = request_id
        # A client mostly sends the same fields in each of its requests.
        self._block = b""
        self._block_http11 = True
        self._usual = not (trusted or forwarded or request_id)
        self._suffix = (b"\r\nX-Forwarded-Proto: " + scheme + b"\r\nVia: 1.1 pylb\r\n" + extra) + (
            b"X-Forwarded-For: " + client + b"\r\nX-Forwarded-Host: "
        )

    def parse(self, raw: bytes) -> bytes:
        """Read a complete head (it ends with an empty line) and give the head for the server.

        Raises:
            Refused: with the status to answer; the connection can't be used any longer.
        """
        limits = self._limits
        eol = raw.find(b"\r\n")
        if eol > limits.line_bytes:
            raise Refused(414, "line_bytes")
        if len(raw) > limits.header_bytes:
            raise Refused(431, "header_bytes")
        line = read_line(raw[:eol])
        http11 = self.http11 = line.http11
        block = raw[eol:]
        fields = self.fields
        if fields is None or block != self._block or http11 is not self._block_http11:
            fields = read_fields(block, http11, self._trusted)
            if fields.count > limits.header_count:
                raise Refused(431, "header_count")
            self.fields = fields
            self._block = block
            self._block_http11 = http11
        self.method = line.method
        self.keep_alive = fields.keep_alive
        self.content_length = fields.content_length
        self.chunked = fields.chunked
        host = fields.host
        if self._usual and host is not None and line.authority is None:
            return b"".join((line.out, fields.out, self._suffix, host, b"\r\n\r\n"))
        return self._unusual(line, fields)

    def _unusual(self, line: RequestLine, fields: RequestFields) -> bytes:
        """The head for the server where more than the usual fields are added."""
        out = [line.out, fields.out]
        host = fields.host
        if host is None:
            host = line.authority or self._host
            out.append(b"\r\nHost: " + host)
        elif line.authority is not None and line.authority.lower() != host.lower():
            # RFC 9112 §3.2.2 has the authority win, but servers differ; refusing leaves no doubt.
            raise Refused(400, "target")
        if b"x-forwarded-proto" not in fields.given:
            out.append(b"\r\nX-Forwarded-Proto: " + self._scheme)
        out.append(b"\r\nVia: 1.1 pylb\r\n" + self._extra)
        out.append(b"X-Forwarded-For: " + fields.forwarded_for + self._client)
        if b"x-forwarded-host" not in fields.given:
            out.append(b"\r\nX-Forwarded-Host: " + host)
        if self._forwarded:
            # RFC 7239 §6: an address, or that there is none to tell.
            node = b"unknown" if self._client == b"unix" else self._client
            node = b'"[%s]"' % node if b":" in node else node
            out.append(b"\r\nForwarded: %sfor=%s;proto=%s" % (fields.forwarded, node, self._scheme))
            if host:
                out.append(b';host="%s"' % host)
        elif fields.forwarded:
            out.append(b"\r\nForwarded: " + fields.forwarded[:-2])
        if self._request_id and b"x-request-id" not in fields.given:
            out.append(b"\r\nX-Request-ID: " + uuid.uuid4().hex.encode())
        out.append(b"\r\n\r\n")
        return b"".join(out)
