"""Response heads: what a server sent, and what is sent on to the client (pure).

Judged and edited as in `request.py`; nothing ambiguous reaches a client. Servers are read less strictly than
clients, as far as one reading is left: what HAProxy takes, a head with bare line feeds, a folded line, a
length said twice, is written anew as it should have been (`_tidied`), and where it leaves a doubt about where
the next response begins, the connection is not used again.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

import httptools

from pylb.http.fields import TEXT, any_case, finder, unlike, without

# Fields that mean something here; those that nothing is said about below are cut.
_NAMES = [
    *(b"connection", b"content-length", b"keep-alive", b"proxy-connection", b"te", b"transfer-encoding"),
    b"upgrade",
]
_CHALLENGES = (b"www-authenticate", b"proxy-authenticate")
_FIND = finder([*_NAMES, *_CHALLENGES])
_OF_CONNECTIONS = re.compile(rb"(?:^|,)[\t ]*(?:negotiate|ntlm)(?![^\t ,=])")
"""In a challenge in lower case: a scheme that authenticates not the request but its connection (RFC 4559)."""
_TIMEOUT = re.compile(rb"(?:^|[\t ,:;])timeout[\t ]*=[\t ]*\"?([0-9]{1,9})")
_NAMED = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_KEPT = frozenset({b"content-length", b"transfer-encoding", b"close", b"keep-alive", b"date", b"via"})
_STATUS = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?: " + TEXT + rb"*)?\r\n")
# As some servers write it: other versions, several blanks, a phrase of any bytes.
_ANY_STATUS = re.compile(rb"HTTP/([0-9]\.[0-9])[ \t]+([1-9][0-9][0-9])(?:[ \t]+([^\r]*))?\r\n")
_LENGTHS = re.compile(rb"[0-9]+(?:[\t ]*,[\t ]*[0-9]+)*")
_EMPTY_LINE = re.compile(rb"\n\r?\n")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_BARE_CR = re.compile(rb"\r[^\n]")
_FOLD = re.compile(rb"\r\n[ \t]+")
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_DOUBTFUL = re.compile(
    rb"\n(?:content-length|transfer-encoding)[^\n]*[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]", re.IGNORECASE
)


def _usual() -> re.Pattern[bytes]:
    """What matches a usual head as a whole, which needs half the time; `_FIND` tells of all others.

    It has HTTP/1.1, a status with a body that asks for no credentials, at most one of each
    ``Content-Length``, ``Transfer-Encoding: chunked``, ``Connection: keep-alive`` with ``Keep-Alive`` behind
    it, and else fields that mean nothing.
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
    line = rb"HTTP/1\.1 ((?!204|304|401|407)[2-5][0-9][0-9])(?: " + TEXT + rb"*+)?()\r\n"
    return re.compile(line + lines + rb"(?:(?:" + rb"|".join(once) + rb")" + lines + rb"){0,3}\r\n")


_USUAL = _usual()


class BadResponse(Exception):
    """The server's head is malformed or ambiguous; the client gets 502.

    ``reason`` is a word for the counters, the text is for the log.
    """

    def __init__(self, reason: str, text: str = "") -> None:
        super().__init__(text or reason.replace("_", " "))
        self.reason = reason


@dataclass(slots=True)
class ResponseHead:
    """A response head, understood."""

    out: bytes
    """The head for an HTTP/1.1 client whose connection stays open."""
    changed: bool
    """Whether ``out`` differs from what the server sent."""
    status: int
    keep_alive: bool
    """Whether the server's connection can serve another request."""
    content_length: int
    """Bytes of body; -1: chunked, or until the connection ends."""
    chunked: bool
    upgrade: bytes
    """With 101: the protocol that the server changes to."""
    says: tuple[float, bool] | None = None
    """What else it says of the connection, if anything: for how many seconds the server keeps it when it is
    idle, and whether the client's answer to a challenge authenticates it, and not a request."""

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
        raise BadResponse("syntax", str(error)) from None


def head_end(data: bytes) -> int:
    """Where a head ends whose lines may end with a bare LF; 0: not yet."""
    found = _EMPTY_LINE.search(data)
    return found.end() if found is not None else 0


def _tidied(raw: bytes) -> bytes:
    """A head as its server should have written it, where that is beyond doubt (RFC 9112 §2.2, §4, §5.2).

    Lines end with CRLF, folded ones are joined, control bytes are blanks (but where they say how long the
    body is), and the version is 1.0 or 1.1.
    """
    if _DOUBTFUL.search(raw):
        return raw
    raw = _BARE_LF.sub(b"\r\n", raw)
    line = _ANY_STATUS.match(raw)
    if line is None:
        return raw
    version, status, phrase = line.groups()
    version = version if version == b"1.0" else b"1.1"
    fields = _FOLD.sub(b" ", raw[line.end() :])
    return _CONTROL.sub(b" ", b"HTTP/%b %b %b\r\n" % (version, status, phrase or b"")) + _CONTROL.sub(
        b" ", fields
    )


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
            says = None
            if cut is not None:
                start, end = usual.span(5)
                out = raw[:start] + raw[end:]
                keeps = _keeps(cut.lower())
                says = None if keeps == math.inf else (keeps, False)
            content_length = -1 if length is None else int(length)
            return ResponseHead(
                out, cut is not None, int(code), True, content_length, coding is not None, b"", says
            )
    try:
        return _read_any(raw, head_request)
    except BadResponse:
        tidied = _tidied(raw)
        if tidied == raw:
            raise
        return replace(_read_any(tidied, head_request), changed=True)


def find_head(data: bytes, end: int, limit: int, head_request: bool) -> tuple[ResponseHead, int] | None:
    """The head at the beginning of ``data``, and where it ends; None while more of it is to come.

    Args:
        end: where the first CRLF CRLF ends; below 4: there is none.
        limit: the most bytes of a head.

    Raises:
        BadResponse: it can be no head any more, or one that must not be passed on.
    """
    if end < 4:
        end = head_end(data)  # its lines may end with a bare LF
        if not end and len(data) <= limit:
            begin = data.lstrip(b"\r\n")
            if b"HTTP/".startswith(begin[:5]) and _BARE_CR.search(begin) is None:
                return None
            raise BadResponse("status_line")
    if not end or end > limit:
        raise BadResponse("header_bytes")
    try:
        return read_response(data[:end], head_request), end
    except BadResponse:
        sooner = head_end(data)
        if sooner >= end:
            raise
        # What ends with CRLF is in the body of one whose lines don't.
        return read_response(data[:sooner], head_request), sooner


def _read_any(raw: bytes, head_request: bool) -> ResponseHead:
    """Understand a head of any kind, whose form is right."""
    line = _STATUS.match(raw)
    if line is None:
        raise BadResponse("status_line")
    begin = line.end() - 2
    *found, rest = _FIND.finditer(raw.lower(), begin)
    if rest.start() != len(raw) - 3:
        raise BadResponse("field_line")
    http11 = line[1] == b"1"
    status = int(line[2])
    keep_alive = http11
    length = -1
    chunked = False
    upgrade = b""
    keeps = math.inf
    personal = False
    named: set[bytes] = set()
    lengths: list[re.Match[bytes]] = []
    codings: list[re.Match[bytes]] = []
    cut: list[re.Match[bytes]] = []
    for match in found:
        name, value = match.groups()
        value = value.strip(b"\t ")
        if name == b"content-length":
            length = _length(value, length)
            lengths.append(match)
        elif name == b"transfer-encoding":
            if chunked or value not in (b"chunked", b""):
                raise BadResponse("transfer_encoding")
            chunked = value == b"chunked"
            codings.append(match)
        elif name.replace(b"_", b"-") in _CHALLENGES:
            personal = personal or (status in (401, 407) and _OF_CONNECTIONS.search(value) is not None)
        else:
            cut.append(match)
            if name == b"connection":
                tokens = _NAMED.findall(value)
                if b"close" in tokens:
                    keep_alive = False
                named.update(tokens)
            elif name == b"keep-alive":
                keeps = min(keeps, _keeps(value))
            elif name == b"upgrade":
                upgrade = raw[match.start(2) : match.end(2)].strip(b"\t ")
    none = status < 200 or status == 204  # a length neither (RFC 9110 §8.6): some readers would wait for it
    said = b""
    if codings:
        if lengths or not chunked or not http11 or none or status == 304:
            # RFC 9112 §6.3: the coding counts. Who says both, or it where it can't be, may mean another one.
            keep_alive = False
        if none or status == 304 or not chunked:
            cut += codings
        if chunked:
            cut += lengths
    if none:
        keep_alive = keep_alive and length <= 0
        cut += lengths
    elif not chunked and (len(lengths) > 1 or (lengths and b"," in lengths[0][2])):
        cut += lengths
        said = b"Content-Length: %d\r\n" % length
    out = raw
    if cut:
        out = _without(raw, cut)
        named -= _KEPT
        if named:
            out = without(out[:-4], named) + b"\r\n\r\n"
        out = out[:-2] + said + b"\r\n"
    _judge(out[begin:])
    if none or head_request or status == 304:
        length, chunked = 0, False
    if chunked:
        length = -1
    if not http11:
        out = b"HTTP/1.1" + out[8:]
    if status == 101:
        out = out[:-2] + b"Connection: upgrade\r\nUpgrade: " + upgrade + b"\r\n\r\n"
    says = (keeps, personal) if personal or keeps < math.inf else None
    return ResponseHead(out, out != raw, status, keep_alive, length, chunked, upgrade, says)


def _keeps(value: bytes) -> float:
    """What ``Keep-Alive``, in lower case, says of the time that the server keeps an idle connection."""
    found = _TIMEOUT.search(value)
    return math.inf if found is None else float(found[1])


def _length(value: bytes, before: int) -> int:
    """A ``Content-Length``, which may be said several times if it is the same (RFC 9110 §8.6).

    ``before`` is what another line said; -1: there was none.
    """
    if not _LENGTHS.fullmatch(value):
        raise BadResponse("content_length")
    (digits, *others) = {one.strip(b"\t ").lstrip(b"0") for one in value.split(b",")}
    if others or len(digits) > 18:
        raise BadResponse("content_length")
    length = int(digits or b"0")
    if before not in (-1, length):
        raise BadResponse("content_length")
    return length


def _without(raw: bytes, cut: list[re.Match[bytes]]) -> bytes:
    """A head without the lines that were found."""
    pieces: list[bytes] = []
    end = 0
    for match in sorted(cut, key=lambda match: match.start()):
        if match.end() > end:  # else it is to be cut for two reasons
            pieces.append(raw[end : match.start() - 1])
            end = match.end() - 1
    pieces.append(raw[end:])
    return b"".join(pieces)
