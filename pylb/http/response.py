"""Response heads: what a server sent, and what is sent on to the client (pure).

Judged and edited as in `request.py`, and as strictly: nothing ambiguous reaches a client.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import httptools

from pylb.http.fields import TEXT, any_case, finder, unlike, without

# Fields that mean something here; those that nothing is said about below are cut.
_NAMES = [
    *(b"connection", b"content-length", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding"),
    b"upgrade",
]
_FIND = finder(_NAMES)
_NAMED = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_KEPT = frozenset({b"content-length", b"transfer-encoding", b"close", b"keep-alive", b"date", b"via"})
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: " + TEXT + rb"*)?\r\n")


def _usual() -> re.Pattern[bytes]:
    """What matches a usual head as a whole, which needs half the time; `_FIND` tells of all others.

    It has HTTP/1.1, a status with a body, at most one of each ``Content-Length``, ``Transfer-Encoding:
    chunked``, ``Connection: keep-alive`` with ``Keep-Alive`` behind it, and else fields that mean nothing.
    Groups: the status; the line's end; the length; the whole line of the coding; those that are to be cut.
    """
    space = rb"[\t ]*+"
    end = space + rb"\r\n"
    lines = b"(?:" + unlike(_NAMES, []) + b")*"
    once = [  # (?(3)(?!)) fails where group 3 has matched before
        any_case(b"content-length:") + rb"(?(3)(?!))" + space + rb"([0-9]{1,18})" + end,
        rb"(?(4)(?!))(" + any_case(b"transfer-encoding:") + space + any_case(b"chunked") + end + rb")",
        rb"(?(5)(?!))(" + any_case(b"connection:") + space + any_case(b"keep-alive") + end,
    ]
    once[2] += rb"(?:" + any_case(b"keep-alive:") + TEXT + rb"*+\r\n)?)"
    line = rb"HTTP/1\.1 ((?!204|304)[2-5][0-9][0-9])(?: " + TEXT + rb"*+)?()\r\n"
    return re.compile(line + lines + rb"(?:(?:" + rb"|".join(once) + rb")" + lines + rb"){0,3}\r\n")


_USUAL = _usual()


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

    def with_out(self, out: bytes) -> ResponseHead:
        """The same with another text, of the same status and framing."""
        return ResponseHead(
            *(out, True, self.status, self.keep_alive, self.content_length, self.chunked, self.upgrade)
        )

    def adding(self, lines: bytes) -> ResponseHead:
        """The same head with further field lines, each ending with CRLF."""
        return self.with_out(b"%b%b\r\n" % (self.out[:-2], lines))


def _judge(block: bytes) -> None:
    """What llhttp says of a block of fields.

    Raises:
        BadResponse: it can't be read.
    """
    try:
        httptools.HttpResponseParser(None).feed_data(b"HTTP/1.1 200 OK" + block)
    except httptools.HttpParserUpgrade:
        pass
    except httptools.HttpParserError as error:
        raise BadResponse(str(error)) from None


def read_response(raw: bytes, head_request: bool) -> ResponseHead:
    """Understand a complete head, the answer to a HEAD request or to another.

    Raises:
        BadResponse: the head must not be passed on.
    """
    usual = None if head_request else _USUAL.fullmatch(raw)
    if usual is not None:
        code, _, length, coding, cut = usual.groups()
        if length is None or coding is None:
            _judge(raw[usual.end(2) :])
            out = raw
            if cut is not None:
                start, end = usual.span(5)
                out = raw[:start] + raw[end:]
            content_length = -1 if length is None else int(length)
            return ResponseHead(
                out, cut is not None, int(code), True, content_length, coding is not None, b""
            )
    line = _STATUS.match(raw)
    if line is None:
        raise BadResponse("status line")
    begin = line.end() - 2
    *found, rest = _FIND.finditer(raw.lower(), begin)
    if rest.start() != len(raw) - 3:
        raise BadResponse("field line")
    http11 = line[1] == b"1"
    status = int(line[2])
    keep_alive = http11
    content_length = -1
    chunked = False
    upgrade = b""
    named: set[bytes] = set()
    pieces: list[bytes] = []
    end = 0  # of the last line that was cut
    for match in found:
        name, value = match.groups()
        value = value.strip(b"\t ")
        if name == b"content-length":
            if content_length >= 0 or not value.isdigit() or len(value) > 18:
                raise BadResponse("content-length")
            content_length = int(value)
        elif name == b"transfer-encoding":
            if chunked or value != b"chunked":
                raise BadResponse("transfer-encoding")
            chunked = True
        else:
            pieces.append(raw[end : match.start() - 1])
            end = match.end() - 1
            if name == b"connection":
                tokens = _NAMED.findall(value)
                if b"close" in tokens:
                    keep_alive = False
                named.update(tokens)
            elif name == b"upgrade":
                upgrade = raw[match.start(2) : match.end(2)].strip(b"\t ")
    if chunked and (content_length >= 0 or not http11):
        raise BadResponse("ambiguous length")
    if status < 200 or status == 204:
        if chunked or content_length > 0:
            # RFC 9112 §6.3: no body here, whatever the fields say; some readers would wait for one.
            raise BadResponse("length where there is no body")
        content_length = 0
    _judge(raw[begin:])
    if head_request or status == 304:
        content_length, chunked = 0, False
    if chunked:
        content_length = -1
    out = raw
    if pieces:
        pieces.append(raw[end:])
        out = b"".join(pieces)
        named -= _KEPT
        if named:
            out = without(out[:-4], named) + b"\r\n\r\n"
    if not http11:
        out = b"HTTP/1.1" + out[8:]
    if status == 101:
        out = out[:-2] + b"Connection: upgrade\r\nUpgrade: " + upgrade + b"\r\n\r\n"
    return ResponseHead(out, out != raw, status, keep_alive, content_length, chunked, upgrade)
