"""Cookies in heads: found in a request, taken out of it, changed in a response (RFC 6265).

Heads are bytes of HTTP/1.1; whatever isn't the cookie that is meant stays byte for byte. The time is linear
in the size of a head.

Floor: beside `tokens`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator

from pylb.http.fields import any_case

_FIELD = rb"\r\n" + any_case(b"cookie:")
_LINE = re.compile(_FIELD + rb"([^\r\n]*)")
_NAMED = len("\r\nCookie: ")
_SEMICOLON, _BLANK = b"; "


class Cookie:
    """The cookie of one name."""

    __slots__ = ("name", "sign", "_find", "_set")

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.sign = name + b"="
        """What isn't in a head without the cookie."""
        # One blank behind each semicolon and no other: so there is one way to match.
        self._find = re.compile(_FIELD + rb" (?:[^;\r\n]*; )*?(" + re.escape(name) + rb")=([^;\r\n]*)").search
        self._set = re.compile(
            rb"\r\n" + any_case(b"set-cookie:") + rb"[\t ]*" + re.escape(name)
            + rb"[\t ]*=[\t ]*([^;\r\n]*)[^\r\n]*"
        )  # fmt: skip

    def usual(self, head: bytes) -> tuple[bytes, int, int] | None:
        """Of a request that has it once, as browsers write it: the value, and from where to where it is to be
        cut out."""
        match = self._find(head)
        if match is None or head.find(self.sign, match.end()) >= 0:
            return None
        (line, end), at = match.span(), match.start(1)
        if at != line + _NAMED:
            return match[2], at - 2, end  # with the semicolon before it
        if head[end] != _SEMICOLON:
            return match[2], line, end  # the field has nothing else
        return match[2], at, end + (2 if head[end + 1] == _BLANK else 1)

    def values(self, head: bytes) -> Iterable[bytes]:
        """Its values in a request: a browser sends one for each path and domain that it knows it of."""
        usual = self.usual(head)
        if usual is not None:
            return (bare(usual[0]),)
        return self._all(head) if self.sign in head else ()

    def _all(self, head: bytes) -> Iterator[bytes]:
        for line in _LINE.findall(head):
            for pair in line.split(b";"):
                name, equals, value = pair.partition(b"=")
                if equals and name.strip(b"\t ") == self.name:
                    yield bare(value)

    def without(self, head: bytes) -> bytes:
        """A request without it; a ``Cookie`` field that had nothing else is gone."""
        usual = self.usual(head)
        if usual is None:
            return _LINE.sub(self._left, head) if self.sign in head else head
        _, begin, end = usual
        return head[:begin] + head[end:]

    def _left(self, line: re.Match[bytes]) -> bytes:
        pairs = line[1].split(b";")
        left = [
            pair for pair in pairs if b"=" not in pair or pair.partition(b"=")[0].strip(b"\t ") != self.name
        ]
        if len(left) == len(pairs):
            return line[0]
        text = b";".join(left).strip(b"\t ")
        return line[0][: line.start(1) - line.start()] + b" " + text if text else b""

    def changed(self, head: bytes, change: Callable[[bytes], bytes]) -> bytes:
        """A request with its values changed."""

        def line(match: re.Match[bytes]) -> bytes:
            pairs = match[1].split(b";")
            for at, pair in enumerate(pairs):
                name, equals, value = pair.partition(b"=")
                if equals and name.strip(b"\t ") == self.name:
                    pairs[at] = name + equals + change(value)
            return match[0][: match.start(1) - match.start()] + b";".join(pairs)

        return _LINE.sub(line, head) if self.sign in head else head

    def is_set(self, head: bytes) -> bool:
        """Whether a response sets it."""
        return self.name in head and self._set.search(head) is not None

    def unset(self, head: bytes) -> bytes:
        """A response that doesn't set it."""
        return self._set.sub(b"", head) if self.name in head else head

    def set_to(self, head: bytes, change: Callable[[bytes], bytes]) -> bytes:
        """A response that sets it to something else, where it does; the attributes stay."""
        if self.name not in head:
            return head

        def line(match: re.Match[bytes]) -> bytes:
            begin, end = match.start(1) - match.start(), match.end(1) - match.start()
            return match[0][:begin] + change(match[1].rstrip(b"\t ")) + match[0][end:]

        return self._set.sub(line, head)


def bare(value: bytes) -> bytes:
    """A cookie's value without white space and quotes around it."""
    value = value.strip(b"\t ")
    return value[1:-1] if value[:1] == b'"' and value[-1:] == b'"' and len(value) > 1 else value
