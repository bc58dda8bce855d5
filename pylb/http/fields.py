"""Field lines: the expression that judges them and finds those that mean something to a reader.

A head is never taken apart: one expression runs over all its lines, stops at the few whose names the reader
has to know, and at the first that is no field line; all other bytes pass as they are. Its time is linear in
the size of a head, whatever that says: what a repeated byte may be and what may follow it are disjoint, so
there is one way only to match, and no repetition holds another. (Possessive quantifiers would say so too,
but Python before 3.11.5 gets some of them wrong.)
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import groupby

TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
"""A byte of a name (RFC 9110 §5.6.2)."""
TEXT = rb"[\t -~\x80-\xff]"
"""A byte of a value: visible ones, blank and tab, and obs-text; no CR, LF, NUL or other control byte."""


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


def without(lines: bytes, names: set[bytes]) -> bytes:
    """These lines, each with a CRLF before it, without those that have such a name (in lower case)."""
    return b"\r\n".join(
        [line for line in lines.split(b"\r\n") if line.partition(b":")[0].lower() not in names]
    )
