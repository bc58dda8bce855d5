"""Rewriting what a request asks for: its path, its query, the host that the server is told.

A rewritten path is one that servers read in one way only: bytes that have no place in a path are
percent-encoded, and one in which a client's bytes have made ``..`` segments, or something that is decoded
twice, is refused.

Floor: above `edits`, whose templates and groups it shares; below plans.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote_to_bytes

from pylb.http.errors import Refused
from pylb.http.requestline import IS_HOST
from pylb.rules import normal
from pylb.rules.edits import Compile, with_groups
from pylb.rules.regex import Regex, TooLong
from pylb.rules.template import Template, encoded
from pylb.rules.view import View

_BAD_IN_PATH = re.compile(rb"%(?![0-9A-Fa-f]{2})|[^!$-;=@-Z_a-z~%]")
_BAD_IN_QUERY = re.compile(rb"%(?![0-9A-Fa-f]{2})|[^!$-~]")
_DOTS = re.compile(rb"/(?:\.|%2[eE]){1,2}(?:/|$)")
_HOST_LINE = re.compile(rb"\r\n[Hh][Oo][Ss][Tt]:[^\r\n]*")


@dataclass(slots=True)
class Target:
    """What a request asks for, as it is rewritten."""

    path: bytes
    """As it goes to the server."""
    normal: bytes
    """The same as rules compare it."""
    query: bytes | None
    """Without the question mark; None where there is none."""
    host: bytes | None = None
    """None where the client's is told."""
    stripped: bytes = b""
    """What was taken off the beginning of the path."""

    def line(self) -> bytes:
        """As it stands in a request line."""
        return self.path if self.query is None else self.path + b"?" + self.query


Step = Callable[[Target, View], None]


def target(view: View) -> Target:
    """What a request asks for before it is rewritten.

    Raises:
        Refused: 400, servers read its path in different ways.
    """
    raw, mark, query = view.target.partition(b"?")
    try:
        return Target(raw, view.path, query if mark else None)
    except normal.Ambiguous:
        raise Refused(400, "path") from None


def _encode(match: re.Match[bytes]) -> bytes:
    return b"%%%02X" % match[0][0]


def path_of(value: bytes) -> bytes:
    """A path as it may stand in a request line.

    Raises:
        Refused: 400, servers could read it in different ways.
    """
    if value[:1] != b"/":
        value = b"/" + value
    value = _BAD_IN_PATH.sub(_encode, value)
    if b"/." in value or b"%" in value or b"//" in value:
        try:
            normal.path(value)
        except normal.Ambiguous:
            raise Refused(400, "path") from None
        if _DOTS.search(value) is not None:
            raise Refused(400, "path")
        while b"//" in value:
            value = value.replace(b"//", b"/")
    return value


def prefix(from_: bytes, to: Template) -> Step:
    """Replaces the beginning of the path, at a segment's end; another path stays as it is."""
    plain = from_.rstrip(b"/")

    def step(target: Target, view: View) -> None:
        path = target.normal
        if not (path == plain or path.startswith(plain + b"/")):
            return
        rest = path[len(plain) :]
        raw = target.path[len(plain) :] if target.path.startswith(plain) else None
        # What follows stays as the client wrote it, unless it means that only together with what goes.
        if raw is None or (raw != rest and unquote_to_bytes(raw) != rest):
            raw = encoded(rest)
        begin = to(view).rstrip(b"/")
        target.stripped += plain
        # The client's part was found good already; checked is what it becomes together with ``to``.
        target.path = (path_of(begin) if begin else b"") + raw or b"/"
        target.normal = unquote_to_bytes(begin) + rest or b"/"

    return step


def regex(expression: str, to: Template, unsafe: bool) -> Step:
    """Replaces what an expression finds first in the normalised path; raises ValueError for a bad one."""
    engine = Regex(expression, unsafe)

    def step(target: Target, view: View) -> None:
        path = target.normal
        try:
            match = engine.search(path)
        except TooLong:
            raise Refused(400, "regex") from None
        if match is None:
            return
        start, end = match.span()
        found = {name: encoded(value) for name, value in engine.found(match).items()}
        _set(target, encoded(path[:start]) + with_groups(to, found, view) + encoded(path[end:]))

    return step


def path(to: Template) -> Step:
    """Sets the path."""
    return lambda target, view: _set(target, to(view))


def _set(target: Target, value: bytes) -> None:
    target.path = path_of(value)
    target.normal = normal.path(target.path)


def query(to: Template) -> Step:
    """Sets the query; what comes out empty is none."""

    def step(target: Target, view: View) -> None:
        target.query = _BAD_IN_QUERY.sub(_encode, to(view)) or None

    return step


def parameters(set: Sequence[tuple[bytes, Template]], remove: Sequence[bytes]) -> Step:
    """Sets and removes parameters of the query, whose names are compared decoded."""
    gone = {*remove, *(name for name, _ in set)}

    def step(target: Target, view: View) -> None:
        pairs = [
            pair
            for pair in (target.query or b"").split(b"&")
            if pair and unquote_to_bytes(pair.partition(b"=")[0].replace(b"+", b" ")) not in gone
        ]
        pairs += [f"{quote(name, safe='')}={quote(value(view), safe='')}".encode() for name, value in set]
        target.query = b"&".join(pairs) or None

    return step


def host(to: Template) -> Step:
    """Sets what the server is told as ``Host``."""

    def step(target: Target, view: View) -> None:
        value = to(view)
        if not value or IS_HOST.fullmatch(value) is None:
            raise Refused(400, "host")
        target.host = value

    return step


def fixed_host(text: str, template: Compile) -> Template:
    """A host's template; raises ValueError where it can't be one."""
    if "{" not in text and (not text or IS_HOST.fullmatch(text.encode()) is None):
        raise ValueError(f"{text!r} is no host, or host and port")
    return template(text)


def rewritten(head: bytes, target: Target) -> bytes:
    """A printed head that asks for the target."""
    method, _, rest = head.split(b" ", 2)
    head = b"%b %b %b" % (method, target.line(), rest)
    if target.host is not None:
        line = b"\r\nHost: " + target.host
        head = _HOST_LINE.sub(lambda match: line, head, count=1)
    return head
