"""Request heads: what a client sent, and what is sent on to the server.

Fields are judged twice: by the grammar of `fields.py`, and by llhttp (through httptools), which among others
refuses bare CR or LF, folded lines, control bytes, and white space before a colon. This module adds what both
leave open and works out the framing. A head is edited and not rebuilt from a list of fields: most of its
bytes pass as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import httptools

from pylb.http.added import USUAL, Added, Sends, identity, trace
from pylb.http.errors import Refused
from pylb.http.requestfields import edit, judge, understand, usual
from pylb.http.requestline import USUAL_LINE, read_line


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """Bytes of a request line, bytes of a whole head, and number of fields."""

    line_bytes: int = 8192
    header_bytes: int = 16384
    header_count: int = 100


class RequestHead:
    """The head of the request that a connection is at; one object per connection, used again.

    A client mostly sends much the same head in each of its requests: one that repeats the last is not read
    again, and neither are fields that repeat those of the last. Others are read by one expression if they are
    usual ones (`requestfields.py`), and line by line if not.

    Args:
        client: the client's address as it goes into ``X-Forwarded-For``.
        host: the address that the client connected to, for HTTP/1.0 requests without a ``Host``.
        scheme: ``http`` or ``https``.
        sends: which fields each request gets.
        port: the one that the client connected to.
        extra: further field lines for each request, each ending with CRLF.
        trusts: of a peer that is trusted, tells which of those before it are; its own forwarding fields are
            believed and passed on. Those of any other peer are removed.
        version: of HTTP, that the client speaks if it isn't 1.0, for ``Via``.
        added: what another reader adds whose client, and all of the above, is the same.
    """

    __slots__ = (
        # of the connection
        "added",
        "_suffix",
        "_fixed",
        "_alike",
        "_kept",
        "trusted",
        "_limits",
        "_usual",
        "_usual_bytes",
        # of the request
        "method",
        "http11",
        "keep_alive",
        "content_length",
        "chunked",
        "host",
        "upgrade",
        "personal",
        # of the last head that was understood
        "raw",
        "_eol",
        "_edited",
        "_tail",
        "_identify",
        "_trace",
        "_id",
        "_new",
        "_printed",
        # what the rules do to what is printed
        "changes",
    )

    def __init__(
        self,
        client: bytes,
        host: bytes,
        scheme: bytes,
        limits: HeadLimits,
        sends: Sends = USUAL,
        port: bytes = b"",
        extra: bytes = b"",
        trusts: Callable[[bytes], bool] | None = None,
        version: bytes = b"1.1",
        added: Added | None = None,
    ) -> None:
        if added is None:
            added = Added(sends, client, host, scheme, port, extra, trusts, version)
        self.added = added
        self._suffix = added.suffix
        self._fixed = added.fixed
        # Whether nothing else goes behind the fields of usual requests.
        self._alike = self._fixed is not None or bool(self._suffix)
        self.trusted = trusts is not None
        """Whether its forwarding fields are believed."""
        self._kept = sends.kept(self.trusted)
        self._limits = limits
        self._usual = usual(limits.header_count)
        # Up to which size of a head no limit matters; 0 where no head is usual.
        self._usual_bytes = 0
        if self._alike and limits.header_count >= 3:
            self._usual_bytes = min(limits.line_bytes, limits.header_bytes)
        self.method = b""
        self.http11 = True
        self.keep_alive = True
        self.content_length = 0
        self.chunked = False
        self.host: bytes | None = None
        """The ``Host`` field; without one, what an absolute target names."""
        self.upgrade = b""
        """The protocol that the client wants to change to, or nothing."""
        self.personal = False
        """Whether it has credentials that authenticate its connection: NTLM, Negotiate."""
        self.raw = b""
        self._eol = 0  # bytes of the request line, where a head with the same fields may follow
        self._edited: bytes | None = None  # line and fields as they go to the server, if not as they came
        self._tail: bytes | None = None  # what goes behind them, if not the usual
        self._identify = False  # whether the request is to get an identity of its own
        self._trace = False  # and a trace
        self._id = b""  # its identity, once one was made
        self._new = b""  # the lines with both
        self._printed: bytes | None = None  # the whole, where it stays the same as long as the head does
        self.changes: Callable[[bytes], bytes] | None = None
        """What rules do to the printed head; whoever sets it sets it for each request."""

    @property
    def target(self) -> bytes:
        """The request's target in origin form (RFC 9112 §3.2.1), or ``*``."""
        raw = self._edited or self.raw
        begin = len(self.method) + 1
        return raw[begin : raw.index(b" ", begin)]

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
        if self._new or self._id:
            self._new = self._id = b""
        if raw != self.raw:
            self._read(raw)
        elif self._printed is None and self._tail is None:
            self._printed = self._usual_print()  # it repeats; an idle connection's first one needn't be kept

    @property
    def request_id(self) -> bytes:
        """The value of ``X-Request-ID``; where the request has none, a new one, whether it is sent or not."""
        own = self.field(b"x-request-id") if b"x-request-id" in self._kept else None
        if own:
            return own
        if not self._id:
            self._id = identity()  # once for each request, however often it is sent
        return self._id

    @property
    def made_id(self) -> bytes:
        """The identity that was made for the request, if one was; it may be given another process's."""
        return self._id

    @made_id.setter
    def made_id(self, made: bytes) -> None:
        self._id = made

    def printed(self) -> bytes:
        """The head for an HTTP/1 server, as it was read last, with what rules have changed."""
        out = self._printed
        if out is None:
            tail = self._tail
            if tail is None:
                out = self._usual_print()
            else:
                if self._identify or self._trace:
                    tail += self._identities()
                out = b"".join((self._edited or self.raw[:-4], tail, b"\r\n\r\n"))
        return out if self.changes is None else self.changes(out)

    def _usual_print(self) -> bytes:
        return b"".join((self._edited or self.raw[:-4], self._suffix, self.host or b"", b"\r\n\r\n"))

    def _identities(self) -> bytes:
        """The lines by which the request can be told from others, made once for it."""
        if not self._new:
            if self._identify:
                self._new = b"\r\nX-Request-ID: " + self.request_id
            if self._trace:
                self._new += b"\r\ntraceparent: " + trace()
        return self._new

    def forget(self) -> None:
        """Know of no request any more: it is to serve another connection of the same client."""
        self.raw = self.method = self._id = self._new = b""
        self.host = self._edited = self._tail = self._printed = self.changes = None
        self._eol = 0

    def parse(self, raw: bytes) -> bytes:
        """`read` and `printed` in one."""
        self.read(raw)
        return self.printed()

    def _read(self, raw: bytes) -> None:
        """Understand a head that is not the last one again."""
        global _feed, _last
        self._printed = None
        last = self.raw
        if not last:
            if _last is not None and self._take(_last, raw):
                return
        elif self._eol and raw.endswith(last[self._eol :]) and self._read_line_only(raw):
            return
        usual = self._usual(raw) if len(raw) <= self._usual_bytes else None
        if usual is None:
            if not last:
                self._usual_bytes = 0  # a client (a proxy, say) whose first head is unusual has no others
            self._read_any(raw)
            return
        method, _, host, keep_alive, length = usual.groups()
        if host is None:
            raise Refused(400, "host")
        if length is not None:
            judge(raw[raw.index(b"\r") :])
            self.content_length = int(length)
        else:
            try:
                _feed(raw)
            except httptools.HttpParserError:
                _feed = httptools.HttpRequestParser(None).feed_data
                raise Refused(400, "syntax") from None
            self.content_length = 0
        if keep_alive is not None:
            begin, end = usual.span(4)
            self._edited = raw[: begin - 2] + raw[end - 2 : -4]
        else:
            self._edited = None
        self.method = method
        self.http11 = True
        self.keep_alive = True
        self.chunked = False
        self.host = host
        self.upgrade = b""
        self.personal = False
        self._tail = self._fixed
        # Where fields have differed once, the next aren't compared: it would take a tenth of the time.
        self._eol = 0 if last else usual.end(2)
        self.raw = raw
        if self._fixed is None:
            _last = self

    def _read_line_only(self, raw: bytes) -> bool:
        """Understand a head with the last one's fields, if its line is a usual one; whether it is."""
        limits = self._limits
        old = self._eol
        eol = len(raw) - len(self.raw) + old
        usual = USUAL_LINE.match(raw)
        if usual is None or usual.end() != eol + 2 or (raw[eol - 1] == 0x31) is not self.http11:
            return False
        if eol > limits.line_bytes or len(raw) > limits.header_bytes:
            return False
        if self._edited is not None:
            # It ends with HTTP/1.1, whatever the client's does.
            self._edited = raw[: eol - 1] + self._edited[old - 1 :]
        self.method = usual[1]
        self._eol = eol
        self.raw = raw
        return True

    def _read_any(self, raw: bytes) -> None:
        """Understand a head of any kind."""
        global _last
        limits = self._limits
        eol = raw.find(b"\r\n")
        if eol > limits.line_bytes:
            raise Refused(414, "line_bytes")
        if len(raw) > limits.header_bytes:
            raise Refused(431, "header_bytes")
        usual = USUAL_LINE.match(raw)
        line = raw[:eol]
        named = None
        if usual is not None:
            method = usual[1]
            http11 = line[-1] == 0x31  # "1"
            if not http11:
                line = line[:-1] + b"1"
        else:
            method, http11, line, named = read_line(line)
        block = raw[eol:]
        # Before anything that takes longer the more there are; shorter ones can't have so many.
        if len(block) > 4 * limits.header_count and block.count(b"\r\n") - 2 > limits.header_count:
            raise Refused(431, "header_count")
        self.raw = b""  # what is known of it changes now
        self._read_fields(line, block, http11, named)
        if self._edited is None and (usual is None or not http11):
            self._edited = line + block[:-4]
        self.http11 = http11
        self.method = method
        self._eol = eol if usual is not None else 0
        self.raw = raw
        if self._tail is None:
            _last = self

    def _take(self, other: RequestHead, raw: bytes) -> bool:
        """Know what another connection's reader knows of its last head, if it is this one; whether it is.

        Only where nothing unusual is added to either.
        """
        if raw != other.raw or other._tail is not None or not self._suffix:
            return False
        if self._limits is not other._limits:
            return False
        self.method = other.method
        self.http11 = other.http11
        self.keep_alive = other.keep_alive
        self.content_length = other.content_length
        self.chunked = other.chunked
        self.host = other.host
        self.upgrade = other.upgrade
        self.personal = other.personal
        self._eol = other._eol
        self._edited = other._edited
        self._tail = None
        self.raw = other.raw
        return True

    def _read_fields(
        self, line: bytes, block: bytes, http11: bool, target: tuple[bytes, bytes] | None
    ) -> None:
        """Understand a block of fields, from the CRLF before the first to the empty line at the end.

        ``line`` is the request line for the server, ``target`` the scheme and authority of an absolute one.
        """
        host, content_length, chunked, given, cut, self.personal = understand(
            block, http11, self._kept, self.host
        )
        if host is None and http11:
            raise Refused(400, "host")
        self.keep_alive = http11
        self.upgrade = b""
        self._edited = None
        if cut:
            out, self.keep_alive, self.upgrade = edit(block, cut, http11, content_length > 0 or chunked)
            self._edited = line + out
        self._tail = self._fixed
        if not self._alike or host is None or target is not None or (not http11 and self.added.versions):
            self._tail = self.added.behind(block, cut, given, host, target, http11)
            self._identify, self._trace = self.added.identifies(given)
        self.host = host if host is not None or target is None else target[1]
        self.content_length = content_length
        self.chunked = chunked


# llhttp, for heads that it has nothing to remember of: it is at the beginning of a message after each.
_feed = httptools.HttpRequestParser(None).feed_data
# Which has read the last head to which nothing unusual is added: clients that open a connection for each
# request send the same again. One, so that there is nothing to fill.
_last: RequestHead | None = None
