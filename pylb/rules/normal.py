"""Paths and hosts as rules compare them: one spelling for everything that a server takes for the same.

What goes to the server stays as the client wrote it. So a path is *ambiguous* where servers differ in what
they read: an encoded slash is a slash to some of them and a byte of a name to others, ``;x`` is a parameter
to those that are written in Java and a part of the name to the others. A rule that reads it in one way could
be dodged with a server that reads it in the other.

Floor: the bottom of `pylb.rules`; knows nothing of requests.
"""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

_UNLIKE = re.compile(rb"%2[fF]|%5[cC]|%3[bB]|%00|%(?![0-9A-Fa-f]{2})|[;\\]")
"""In a path as it was written: what some servers decode, split at or cut, and others don't."""
_AFTER = re.compile(rb"%[0-9A-Fa-f]{2}|[\xc0\xc1]|\xe0[\x80-\x9f]|\xf0[\x80-\x8f]")
"""In a decoded path: what could be decoded once more, and UTF-8 longer than needed (RFC 3629 §10)."""
_PARAMETER = re.compile(rb";[^/]*")
_LENIENT_ROUNDS = 3


USUAL = re.compile(rb"[^ ]+ ((?:/(?![/.])[^ %;\\?/]*+)+)[ ?]").match
"""Finds, in a head, the path of a usual request line, which is spelled as rules compare it. In linear time: a
segment begins with the only byte that it can't hold."""
_ODD = re.compile(rb"[%;\\]|/[/.]").search


class Ambiguous(Exception):
    """A path that servers read in different ways."""


def path(raw: bytes) -> bytes:
    """A path percent-decoded once, its dot segments resolved and its slashes folded (RFC 3986 §6.2.2).

    ``*``, the target of an ``OPTIONS`` for the whole server, stays.

    Raises:
        Ambiguous: servers may read it otherwise.
    """
    if _ODD(raw) is None:
        return raw
    if _UNLIKE.search(raw) is not None:
        raise Ambiguous
    decoded = unquote_to_bytes(raw)
    if _AFTER.search(decoded) is not None:
        raise Ambiguous
    if b"//" in decoded and b"/.." in decoded:
        raise Ambiguous  # whether .. takes back an empty segment depends on which is done first
    return _resolved(decoded)


def lenient(raw: bytes) -> bytes:
    """A path as the server reads it that folds most: for frontends that pass ambiguous paths on.

    Whatever could be a slash is one, ``;x`` is cut, and it is decoded until nothing is left to decode.
    """
    for _ in range(_LENIENT_ROUNDS):
        raw = _PARAMETER.sub(b"", raw.replace(b"\\", b"/"))
        if b"%" not in raw:
            break
        raw = unquote_to_bytes(raw)
    return _resolved(raw) if raw[:1] == b"/" else raw


def _resolved(decoded: bytes) -> bytes:
    out: list[bytes] = []
    segment = b""
    for segment in decoded.split(b"/"):
        if segment == b"..":
            if out:
                out.pop()
        elif segment not in (b"", b"."):
            out.append(segment)
    whole = b"/" + b"/".join(out)
    return whole + b"/" if out and segment in (b"", b".", b"..") else whole


def host(value: bytes | None) -> bytes:
    """A ``Host`` without its port and trailing dot, in lower case; empty where there is none."""
    if not value:
        return b""
    plain = value[: value.find(b"]") + 1] if value[:1] == b"[" else value.partition(b":")[0]
    return plain.lower().rstrip(b".")
