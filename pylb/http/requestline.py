"""Request lines, and what they name: methods, targets, hosts (RFC 9112 §3, RFC 9110 §7.2).

Pure, and below `request.py`. It knows nothing of fields, but for the grammar of ``Host``.
"""

from __future__ import annotations

import re

from pylb.http.errors import Refused
from pylb.http.fields import TOKEN

IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE"})
"""Methods that may be sent twice (RFC 9110 §9.2.2)."""
# A target is visible ASCII; a fragment has no place in it.
_TARGET = rb"[!-\"$-~]"
USUAL_LINE = re.compile(rb"(?!CONNECT |TRACE )(" + TOKEN + rb"{1,32}) /" + _TARGET + rb"* HTTP/1\.[01]\r\n")
"""A line that goes to the server as it is, but for the version; group 1 is the method."""
COMMON_LINE = rb"(GET|POST|HEAD|PUT|DELETE|PATCH|OPTIONS) /" + _TARGET + rb"*+ HTTP/1\.1()\r\n"
"""What most lines match; a part of an expression. Group 1 is the method, 2 nothing, at the line's end."""
_LINE = re.compile(rb"(" + TOKEN + rb"{1,32}) (" + _TARGET + rb"+) (HTTP/[0-9]\.[0-9])")
_ABSOLUTE = re.compile(rb"https?://([^/?#@]+)(/[^#]*|\?[^#]*)?", re.IGNORECASE)
_PORT = rb"[0-9]{0,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]"
_NAME = rb"[A-Za-z0-9._~!$&'()*+,;=%-]+"
IS_HOST = re.compile(rb"(?:(?:" + _NAME + rb"|\[[0-9A-Fa-f:.]+\])(?::(?:" + _PORT + rb"))?)?")
"""A value of ``Host``: a name or an address and perhaps a port, or nothing."""
COMMON_HOST = _NAME + rb"+(?::(?:" + _PORT + rb"))?"
"""What most match: a name or an IPv4 address and perhaps a port; a part of an expression."""


def read_line(line: bytes) -> tuple[bytes, bool, bytes, bytes | None]:
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
        if not IS_HOST.fullmatch(authority):
            raise Refused(400, "target")
        # RFC 9112 §3.2.4: OPTIONS for an empty path means the server as a whole.
        target = absolute[2] or (b"*" if method == b"OPTIONS" else b"/")
        if target[:1] == b"?":
            target = b"/" + target
    return method, version == b"HTTP/1.1", b"%s %s HTTP/1.1" % (method, target), authority
