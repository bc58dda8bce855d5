"""Request heads: what a client sent, and what is sent on to the server.

Fields are judged twice: by the grammar of `fields.py`, and by llhttp (through httptools), which among others
refuses bare CR or LF, folded lines, control bytes, and white space before a colon. This module adds what both
leave open and works out the framing. A head is edited and not rebuilt from a list of fields: most of its
bytes pass as they are.
"""

from __future__ import annotations

import re
import uuid
from dataclasses import dataclass

import httptools

from pylb.http.errors import Refused
from pylb.http.fields import TOKEN, finder, without

# Fields that mean something here; those that nothing is said about below are cut.
_FIND = finder(
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
_NAMED = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
# RFC 9112 §3. A target is visible ASCII; a fragment has no place in it.
_TARGET = rb"[!-\"$-~]"
# A line that goes to the server as it is, but for the version.
_USUAL_LINE = re.compile(rb"(?!CONNECT |TRACE )(" + TOKEN + rb"{1,32}) /" + _TARGET + rb"* HTTP/1\.[01]\r\n")
_LINE = re.compile(rb"(" + TOKEN + rb"{1,32}) (" + _TARGET + rb"+) (HTTP/[0-9]\.[0-9])")
_ABSOLUTE = re.compile(rb"https?://([^/?#@]+)(/[^#]*|\?[^#]*)?", re.IGNORECASE)
_PORT = rb"[0-9]{0,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"
_HOST = re.compile(rb"(?:(?:[A-Za-z0-9._~!$&'()*+,;=%-]+|\[[0-9A-Fa-f:.]+\])(?::(?:" + _PORT + rb"))?)?")
_UPGRADE = re.compile(TOKEN + rb"+(?:/" + TOKEN + rb"+)?")
IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"})
"""Methods that may be sent twice (RFC 9110 §9.2.2)."""


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """Bytes of a request line, bytes of a whole head, and number of fields."""

    line_bytes: int = 8192
    header_bytes: int = 16384
    header_count: int = 100


def _read_line(line: bytes) -> tuple[bytes, bool, bytes, bytes | None]:
    """Understand a request line (without its CRLF) that is not the usual one.

    Gives the method, whether it is HTTP/1.1, the line for the server in origin form, and what an absolute
    target names.

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
    return method, version == b"HTTP/1.1", b"%s %s HTTP/1.1" % (method, target), authority


def _judge(block: bytes) -> None:
    """What llhttp says of a block of fields.

    Raises:
        Refused: it can't be read.
    """
    try:
        httptools.HttpRequestParser(None).feed_data(b"POST / HTTP/1.1" + block)
    except httptools.HttpParserUpgrade:
        # It doesn't look at the transfer coding then.
        _judge(without(block[:-4], {b"upgrade"}) + b"\r\n\r\n")
    except httptools.HttpParserError:
        raise Refused(400, "syntax") from None


def _value(block: bytes, match: re.Match[bytes]) -> bytes:
    """The value of a field that was found, as it came, without the white space around it."""
    start, end = match.span(2)
    return block[start:end].strip(b"\t ")


class RequestHead:
    """The head of the request that a connection is at; one object per connection, used again.

    A client mostly sends much the same head in each of its requests: one that repeats the last is not read
    again, and neither are fields that repeat those of the last.

    Args:
        client: the client's address as it goes into ``X-Forwarded-For``.
        host: the address that the client connected to, for HTTP/1.0 requests without a ``Host``.
        scheme: ``http`` or ``https``.
        extra: field lines to add to each request, each ending with CRLF.
        trusted: whether the peer's own forwarding fields are believed and passed on; otherwise they are
            removed.
        forwarded: whether to send ``Forwarded`` (RFC 7239) too.
        request_id: whether a request without ``X-Request-ID`` gets one.
    """

    __slots__ = (
        # of the connection
        "_client",
        "_host",
        "_scheme",
        "_extra",
        "_suffix",
        "_limits",
        "_trusted",
        "_forwarded",
        "_request_id",
        # of the request
        "method",
        "http11",
        "keep_alive",
        "content_length",
        "chunked",
        "host",
        "upgrade",
        # of the last head that was understood
        "raw",
        "_usual_line",
        "_edited",
        "_tail",
        "_identify",
        "_id",
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
        self._client = client
        self._host = host
        self._scheme = scheme
        self._extra = extra
        self._limits = limits
        self._trusted = trusted
        self._forwarded = forwarded
        self._request_id = request_id
        # What mostly goes behind the fields, up to the host; nothing where that depends on the request.
        self._suffix = b""
        if not (trusted or forwarded or request_id):
            self._suffix = (b"\r\nX-Forwarded-Proto: " + scheme + b"\r\nVia: 1.1 pylb\r\n" + extra) + (
                b"X-Forwarded-For: " + client + b"\r\nX-Forwarded-Host: "
            )
        self.method = b""
        self.http11 = True
        self.keep_alive = True
        self.content_length = 0
        self.chunked = False
        self.host: bytes | None = None
        """The ``Host`` field; without one, what an absolute target names."""
        self.upgrade = b""
        """The protocol that the client wants to change to, or nothing."""
        self.raw = b""
        self._usual_line = 0  # bytes of the request line, where it goes to the server as it is
        self._edited: bytes | None = None  # line and fields as they go to the server, if not as they came
        self._tail: bytes | None = None  # what goes behind them, if not the usual
        self._identify = False  # whether the request is to get an identity of its own
        self._id = b""  # which it got

    @property
    def target(self) -> bytes:
        """The request's target in origin form (RFC 9112 §3.2.1), or ``*``."""
        return (self._edited or self.raw).split(b" ", 2)[1]

    def field(self, name: bytes) -> bytes | None:
        """The first value of a field that the client sent; ``name`` in lower case."""
        begin = self.raw.lower().find(b"\n" + name + b":")
        if begin < 0:
            return None
        begin += len(name) + 2
        return self.raw[begin : self.raw.index(b"\r", begin)].strip(b"\t ")

    def read(self, raw: bytes) -> None:
        """Read a complete head (it ends with an empty line).

        Raises:
            Refused: with the status to answer; the connection can't be used any longer.
        """
        if self._identify:
            self._id = b""
        if raw != self.raw:
            self._read(raw)

    def printed(self) -> bytes:
        """The head for an HTTP/1 server, as it was read last."""
        head = self._edited
        if head is None:
            head = self.raw[:-4]
        tail = self._tail
        if tail is None:
            return b"".join((head, self._suffix, self.host or b"", b"\r\n\r\n"))
        if self._identify:
            if not self._id:
                self._id = uuid.uuid4().hex.encode()  # once for each request, however often it is sent
            tail += b"\r\nX-Request-ID: " + self._id
        return b"".join((head, tail, b"\r\n\r\n"))

    def parse(self, raw: bytes) -> bytes:
        """`read` and `printed` in one."""
        self.read(raw)
        return self.printed()

    def _read(self, raw: bytes) -> None:
        """Understand a head that is not the last one again."""
        global _last
        last_read = _last
        limits = self._limits
        if (
            not self.raw
            and last_read is not None
            and raw == last_read.raw
            and last_read._tail is None
            and self._suffix
            and limits is last_read._limits
        ):
            self._take(last_read)
            return
        eol = raw.find(b"\r\n")
        if eol > limits.line_bytes:
            raise Refused(414, "line_bytes")
        if len(raw) > limits.header_bytes:
            raise Refused(431, "header_bytes")
        usual = _USUAL_LINE.match(raw)
        if usual is not None:
            method = usual[1]
            line = raw[:eol]
            http11 = line[-1] == 0x31  # "1"
            if not http11:
                line = line[:-1] + b"1"
            authority = None
        else:
            method, http11, line, authority = _read_line(raw[:eol])
        block = raw[eol:]
        last = self._usual_line
        if usual is not None and last and http11 is self.http11 and block == self.raw[last:]:
            if self._edited is not None:
                self._edited = line + self._edited[last:]
        else:
            # Before anything that takes longer the more there are; shorter ones can't have so many.
            if len(block) > 4 * limits.header_count and block.count(b"\r\n") - 2 > limits.header_count:
                raise Refused(431, "header_count")
            self.raw = b""  # what is known of it changes now
            self._read_fields(line, block, http11, authority)
            if self._edited is None and (usual is None or not http11):
                self._edited = line + block[:-4]
            self.http11 = http11
        self.method = method
        self._usual_line = eol if usual is not None else 0
        self.raw = raw
        if self._tail is None:
            _last = self

    def _take(self, other: RequestHead) -> None:
        """Know what another connection's reader knows of a head to which nothing unusual is added."""
        self.method = other.method
        self.http11 = other.http11
        self.keep_alive = other.keep_alive
        self.content_length = other.content_length
        self.chunked = other.chunked
        self.host = other.host
        self.upgrade = other.upgrade
        self._usual_line = other._usual_line
        self._edited = other._edited
        self._tail = None
        self.raw = other.raw

    def _read_fields(self, line: bytes, block: bytes, http11: bool, authority: bytes | None) -> None:
        """Understand a block of fields, from the CRLF before the first to the empty line at the end.

        ``line`` is the request line for the server, ``authority`` what an absolute target names.
        """
        *found, rest = _FIND.finditer(block.lower())
        if rest.start() != len(block) - 3:
            raise Refused(400, "syntax")
        host: bytes | None = None
        content_length = -1
        chunked = False
        given: list[bytes] = []  # names that mean something, and whose fields stay as they came
        cut: list[re.Match[bytes]] = []
        for match in found:
            name = match[1]
            if name == b"host":
                value = _value(block, match)
                if host is not None or (value != self.host and not _HOST.fullmatch(value)):
                    raise Refused(400, "host")
                host = value
            elif name == b"content-length":
                value = _value(block, match)
                if content_length >= 0 or not value.isdigit() or len(value) > 18:
                    raise Refused(400, "content_length")
                content_length = int(value)
            elif name == b"transfer-encoding":
                if chunked or match[2].strip(b"\t ") != b"chunked" or not http11:
                    raise Refused(400, "transfer_encoding")
                chunked = True
            elif name == b"expect" and match[2].strip(b"\t ") != b"100-continue":
                raise Refused(417, "expect")
            elif (
                name == b"x-request-id"
                or (name == b"expect" and http11)
                or (self._trusted and name in (b"x-forwarded-proto", b"x-forwarded-host"))
            ):
                given.append(name)
            else:
                cut.append(match)
        if content_length >= 0 and chunked:
            raise Refused(400, "content_length_and_transfer_encoding")
        _judge(block)
        if host is None and http11:
            raise Refused(400, "host")
        self.keep_alive = http11
        self.upgrade = b""
        self._edited = None
        if cut:
            self._edited = line + self._edit(block, cut, http11, content_length > 0 or chunked)
        self._tail = None
        if not self._suffix or host is None or authority is not None:
            self._tail = self._behind(block, cut, given, host, authority)
            self._identify = self._request_id and b"x-request-id" not in given
        self.host = host if host is not None else authority
        self.content_length = content_length if content_length > 0 else 0
        self.chunked = chunked

    def _edit(self, block: bytes, cut: list[re.Match[bytes]], http11: bool, body: bool) -> bytes:
        """The fields for the server, each with a CRLF before it, without those that are cut.

        Those are also what says whether the connection stays, and which protocol the client wants.
        """
        pieces: list[bytes] = []
        end = 0
        tokens: set[bytes] = set()
        upgrades: list[bytes] = []
        for match in cut:
            pieces.append(block[end : match.start() - 1])
            end = match.end() - 1
            if match[1] == b"connection":
                tokens.update(_NAMED.findall(match[2]))
            elif match[1] == b"upgrade":
                value = _value(block, match)
                if value or upgrades:
                    upgrades.append(value)
        pieces.append(block[end:-4])
        out = b"".join(pieces)
        named = tokens - _KEPT
        if named:
            out = without(out, named)
        # An upgrade to HTTP/2 in clear text would carry requests past every check (so HTTP2-Settings goes
        # too), and with a body it would be unclear where the other protocol begins. Of several none is taken.
        upgrade = b", ".join(upgrades)
        if (
            upgrade
            and (b"upgrade" in tokens and http11 and _UPGRADE.fullmatch(upgrade))
            and upgrade[:2].lower() != b"h2"
            and not body
        ):
            self.upgrade = upgrade
            out += b"\r\nConnection: upgrade\r\nUpgrade: " + upgrade
        self.keep_alive = b"close" not in tokens and (http11 or b"keep-alive" in tokens)
        return out

    def _behind(
        self,
        block: bytes,
        cut: list[re.Match[bytes]],
        given: list[bytes],
        host: bytes | None,
        authority: bytes | None,
    ) -> bytes:
        """What goes behind a request's own fields, where that is not the usual."""
        forwarded_for: list[bytes] = []
        forwarded: list[bytes] = []
        if self._trusted:  # what its own fields say is continued
            forwarded_for = [_value(block, match) for match in cut if match[1] == b"x-forwarded-for"]
            forwarded = [_value(block, match) for match in cut if match[1] == b"forwarded"]
        out: list[bytes] = []
        if host is None:
            host = authority or self._host
            out.append(b"\r\nHost: " + host)
        elif authority is not None and authority.lower() != host.lower():
            # RFC 9112 §3.2.2 has the authority win, but servers differ; refusing leaves no doubt.
            raise Refused(400, "target")
        if b"x-forwarded-proto" not in given:
            out.append(b"\r\nX-Forwarded-Proto: " + self._scheme)
        out.append(b"\r\nVia: 1.1 pylb\r\n" + self._extra)
        out.append(b"X-Forwarded-For: " + b", ".join([*forwarded_for, self._client]))
        if b"x-forwarded-host" not in given:
            out.append(b"\r\nX-Forwarded-Host: " + host)
        if self._forwarded:
            # RFC 7239 §6: an address, or that there is none to tell.
            node = b"unknown" if self._client == b"unix" else self._client
            node = b'"[%s]"' % node if b":" in node else node
            own = b"for=%s;proto=%s" % (node, self._scheme)
            if host:
                own += b';host="%s"' % host
            forwarded.append(own)
        if forwarded:
            out.append(b"\r\nForwarded: " + b", ".join(forwarded))
        return b"".join(out)


# Which has read the last head to which nothing unusual is added: clients that open a connection for each
# request send the same again. One, so that there is nothing to fill.
_last: RequestHead | None = None
