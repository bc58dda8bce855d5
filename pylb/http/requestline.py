"""Request lines, and what they name: methods, targets, hosts (RFC 9112 §3, RFC 9110 §7.2).

Pure, and below `request.py`. It knows nothing of fields, but for the grammar of ``Host``.
"""

from __future__ import annotations

import re

from pylb.http.errors import Refused
from pylb.http.fields import TEXT, TOKEN

IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"})
"""Methods that may be sent twice (RFC 9110 §9.2.2)."""
# A target is visible ASCII; a fragment has no place in it.
_TARGET = rb"[!-\"$-~]"
USUAL_LINE = re.compile(rb"(?!CONNECT |TRACE )(" + TOKEN + rb"{1,32}) /" + _TARGET + rb"* HTTP/1\.[01]\r\n")
"""A line that goes to the server as it is, but for the version; group 1 is the method."""
COMMON_LINE = rb"(GET|POST|HEAD|PUT|DELETE|PATCH|OPTIONS) /" + _TARGET + rb"*+ HTTP/1\.1()\r\n"
"""What most lines match; a part of an expression. Group 1 is the method, 2 nothing, at the line's end."""
_METHOD = re.compile(TOKEN + rb"{1,32}")
_TARGET_BEGUN = re.compile(_TARGET + rb"*")
_VERSION_BEGUN = re.compile(rb"(?:[0-9](?:\.(?:[0-9]\r?)?)?)?")
_FIELDS = re.compile(rb"(?:" + TOKEN + rb"+:" + TEXT + rb"*\r\n)*")
_FIELD_BEGUN = re.compile(TOKEN + rb"*(?:(?<=.):" + TEXT + rb"*)?\r?")
_LOOK = 256
"""Bytes of an unfinished line that are judged; what is wrong from the beginning is wrong within these."""
_PORTS = {b"http": b"80", b"https": b"443"}
_LINE = re.compile(rb"(" + TOKEN + rb"{1,32}) (" + _TARGET + rb"+) (HTTP/[0-9]\.[0-9])")
_ABSOLUTE = re.compile(rb"(https?)://([^/?#@]+)(/[^#]*|\?[^#]*)?", re.IGNORECASE)
_PORT = rb"[0-9]{0,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"
_NAME = rb"[A-Za-z0-9._~!$&'()*+,;=%-]+"
IS_HOST = re.compile(rb"(?:(?:" + _NAME + rb"|\[[0-9A-Fa-f:.]+\])(?::(?:" + _PORT + rb"))?)?")
"""A value of ``Host``: a name or an address and perhaps a port, or nothing."""
COMMON_HOST = _NAME + rb"+(?::(?:" + _PORT + rb"))?"
"""What most match: a name or an IPv4 address and perhaps a port; a part of an expression."""


def same_host(one: bytes, other: bytes, scheme: bytes) -> bool:
    """Whether two authorities name the same host and port (RFC 3986 §6.2.2.1, §6.2.3)."""
    return one == other or _normal(one, scheme) == _normal(other, scheme)


def _normal(authority: bytes, scheme: bytes) -> bytes:
    """In lower case, without the port if that is empty or the scheme's own."""
    authority = authority.lower()
    host, colon, port = authority.rpartition(b":")
    return host if colon and port in (b"", _PORTS.get(scheme.lower())) else authority


def judge_beginning(data: bytes, start: int = 0) -> int:
    """Judge what has come of a head that isn't whole, a byte or more.

    Gives up to where it was judged; with that as ``start``, and more data, the next call goes on. The head
    is judged as a whole when it is there.

    Raises:
        Refused: whatever follows, it won't be a request.
    """
    if not start:
        eol = data.find(b"\n")
        if eol < 0:
            if not _begun(data[:_LOOK]):
                raise Refused(400, "request_line")
            return 0
        if data[eol - 1 : eol] != b"\r":
            raise Refused(400, "request_line")
        if not USUAL_LINE.match(data):
            read_line(data[: eol - 1])
        start = eol + 1
    lines = _FIELDS.match(data, start)
    end = start if lines is None else lines.end()
    if data.find(b"\n", end) >= 0 or not _FIELD_BEGUN.fullmatch(data[end : end + _LOOK]):
        raise Refused(400, "syntax")
    return end


def _begun(line: bytes) -> bool:
    """Whether the beginning of a request line can still become one."""
    method, _, rest = line.partition(b" ")
    target, _, version = rest.partition(b" ")
    if not _METHOD.fullmatch(method) or not _TARGET_BEGUN.fullmatch(target):
        return False
    return b"HTTP/".startswith(version[:5]) and _VERSION_BEGUN.fullmatch(version[5:]) is not None


def read_line(line: bytes) -> tuple[bytes, bool, bytes, tuple[bytes, bytes] | None]:
    """Understand a request line (without its CRLF) that is not the usual one.

    Gives the method, whether it is HTTP/1.1, the line for the server in origin form, and of an absolute
    target the scheme and the authority.

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
    named = None
    if target[:1] != b"/" and not (target == b"*" and method == b"OPTIONS"):
        absolute = _ABSOLUTE.fullmatch(target)
        if absolute is None:
            raise Refused(400, "target")
        named = absolute[1], absolute[2]
        if not IS_HOST.fullmatch(absolute[2]):
            raise Refused(400, "target")
        # RFC 9112 §3.2.4: OPTIONS for an empty path means the server as a whole.
        target = absolute[3] or (b"*" if method == b"OPTIONS" else b"/")
        if target[:1] == b"?":
            target = b"/" + target
    return method, version == b"HTTP/1.1", b"%s %s HTTP/1.1" % (method, target), named
