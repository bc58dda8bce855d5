"""Field lines: the expressions that judge them and find those that mean something to a reader.

A head is never taken apart: one expression (`finder`) runs over all its lines, stops at the few whose names
the reader has to know, and at the first that is no field line; all other bytes pass as they are. Of most
heads it is known beforehand which lines that mean something they may have; the readers have an expression
each that matches such a head as a whole, with `unlike` for all other lines.

Their time is linear in the size of a head, whatever that says: what a repeated byte may be and what may
follow it are disjoint, and so are the lines that may follow each other; there is one way only to match.
(Possessive quantifiers stand behind single bytes only: Python before 3.11.5 gets those of groups wrong.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from itertools import groupby

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
"""A byte of a name (RFC 9110 §5.6.2)."""
TEXT = rb"[\t -~\x80-\xff]"
"""A byte of a value: visible ones, blank and tab, and obs-text; no CR, LF, NUL or other control byte."""

CLIENT_FIELDS = frozenset(
    {b"forwarded", b"x-client-cert-subject", b"x-real-ip", b"x-forwarded-for", b"x-forwarded-host"}
    | {b"x-forwarded-port", b"x-forwarded-prefix", b"x-forwarded-proto", b"x-forwarded-server"}
    | {b"x-forwarded-ssl", b"x-forwarded-user"}
)
"""Fields by which proxies tell servers who a client is and how it came: nobody else is believed them."""

_INITIALS = [bytes([byte]) for byte in range(256) if re.match(TOKEN, bytes([byte]))]


def finder(names: Iterable[bytes]) -> re.Pattern[bytes]:
    """What finds the lines with these names in a head *in lower case*, and where its field lines end.

    To be used with `finditer`, from the CRLF before the first line on. Each match is a line from the LF
    before it to the CR behind it; group 1 is the name, group 2 the value with the white space around it. The
    last match has neither: it begins where there is no field line (RFC 9110 §5), and has all that follows. In
    a good head that is the empty line, three bytes before the end; anywhere else the head is malformed.

    CGI and WSGI take ``_`` and ``-`` for the same, so a line could pass for another (a forged
    ``X_Forwarded_For``): names that are written so are found too, as they are written, and mean nothing
    to a reader but that the line must be cut.
    """
    initials = groupby(sorted(names), lambda name: name[:1])  # most lines can't have any of them
    meaningful = b"|".join(
        initial + b"(?:" + b"|".join(name[1:].replace(b"-", b"[-_]") for name in group) + b")"
        for initial, group in initials
    )
    # The LF that is looked at next is the one that ends the line: before it there is none.
    return re.compile(
        rb"\n(?:(" + meaningful + rb"):(" + TEXT + rb"*)\r(?=\n)"
        rb"|(?!" + TOKEN + rb"+:" + TEXT + rb"*\r\n)(?s:.*))"
    )


def any_case(text: bytes) -> bytes:
    """An expression for these letters, digits and ``-`` in upper and lower case."""
    return b"".join(b"[%c%c]" % (byte - 32, byte) if 97 <= byte <= 122 else bytes([byte]) for byte in text)


def unlike(
    names: Iterable[bytes], spelled: Iterable[bytes], telling: Mapping[bytes, Iterable[bytes]] | None = None
) -> bytes:
    """An expression, without groups, for a field line with its CRLF whose name means nothing.

    Those are all but ``names`` and ``spelled`` (in lower case; here the case in a head is of no importance)
    and what CGI takes for one of them, but ``spelled`` exactly as they are written; and of the names in
    ``telling`` those whose values begin otherwise than it says.
    """
    rests: dict[bytes, list[bytes]] = {}
    for name in names:
        rests.setdefault(name[:1], []).append(any_case(name[1:]).replace(b"-", b"[-_]") + b":")
    for name in spelled:
        rest = any_case(name[1:])
        rests.setdefault(name[:1], []).append(b"(?!" + rest + b":)" + rest.replace(b"-", b"[-_]") + b":")
    for name, values in (telling or {}).items():
        begin = b":[\t ]*(?:" + b"|".join(any_case(value) for value in values) + b")"
        rests.setdefault(name[:1], []).append(any_case(name[1:]).replace(b"-", b"[-_]") + begin)
    # Most lines are told by their first byte; one byte to compare with is found faster than a set of two.
    others = b"".join(byte for byte in _INITIALS if byte.lower() not in rests)
    initials = [b"[" + re.escape(others) + b"]"]
    for initial, some in rests.items():
        look = b"(?!" + b"|".join(some) + b")"
        initials += [initial + look, initial.upper() + look]
    return b"(?:" + b"|".join(initials) + b")" + TOKEN + b"*+:" + TEXT + rb"*+\r\n"


def without(lines: bytes, names: set[bytes]) -> bytes:
    """These lines, each with a CRLF before it, without those that have such a name (in lower case)."""
    return b"\r\n".join(
        [line for line in lines.split(b"\r\n") if line.partition(b":")[0].lower() not in names]
    )
