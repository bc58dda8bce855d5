"""Fields as HPACK has them, each judged when it is read first (RFC 9113 §8.2).

A field of the tables is judged once, and then means in each block that names it what it meant before.

Floor: near the bottom of `pylb.http2`; below HPACK.
"""

from __future__ import annotations

import re
from enum import IntEnum

Field = tuple[int, bytes, bytes, bytes, int]
"""Its `Kind`, name, value, its line for HTTP/1.1, and its size (RFC 7541 §4.1)."""


class Kind(IntEnum):
    """What a reader of a section has to do about a field."""

    PLAIN = 0
    """Its line passes as it is."""
    MEANING = 1
    """It means something to a reader of heads."""
    PSEUDO = 2
    BAD = 3
    """No section may have it."""


_PLAIN, _MEANING, _PSEUDO, _BAD = (int(kind) for kind in Kind)
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+").fullmatch
# What could end a line or split a field; and white space around it (§8.2.1).
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]|\A[ \t]|[ \t]\Z").search
_PSEUDO_NAMES = (b":authority", b":method", b":path", b":protocol", b":scheme", b":status")
_KINDS = {
    **dict.fromkeys(_PSEUDO_NAMES, _PSEUDO),
    **dict.fromkeys((b"host", b"cookie", b"content-length", b"te"), _MEANING),
    **dict.fromkeys(
        (b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"), _BAD
    ),
}


def field(name: bytes, value: bytes) -> Field:
    """A field, judged."""
    kind = _KINDS.get(name)
    if kind is None:
        kind = _PLAIN if _NAME(name) else _BAD
    if kind != _BAD and _BAD_VALUE(value):
        kind = _BAD
    line = b"%b: %b\r\n" % (name, value) if kind < _PSEUDO else b""
    return kind, name, value, line, len(name) + len(value) + 32


_STATIC = """
:authority|:method GET|:method POST|:path /|:path /index.html|:scheme http|:scheme https|:status 200
:status 204|:status 206|:status 304|:status 400|:status 404|:status 500|accept-charset
accept-encoding gzip, deflate
accept-language|accept-ranges|accept|access-control-allow-origin|age|allow|authorization|cache-control
content-disposition|content-encoding|content-language|content-length|content-location|content-range|content-type
cookie|date|etag|expect|expires|from|host|if-match|if-modified-since|if-none-match|if-range|if-unmodified-since
last-modified|link|location|max-forwards|proxy-authenticate|proxy-authorization|range|referer|refresh|retry-after
server|set-cookie|strict-transport-security|transfer-encoding|user-agent|vary|via|www-authenticate
"""
_LINES = _STATIC.strip().replace("\n", "|").encode().split(b"|")
PAIRS = [(b"", b""), *((name, value) for name, _, value in (line.partition(b" ") for line in _LINES))]
"""The static table (RFC 7541 appendix A) from index 1 on."""
STATIC: list[Field | None] = [None, *(field(name, value) for name, value in PAIRS[1:])]
"""The same, judged."""
