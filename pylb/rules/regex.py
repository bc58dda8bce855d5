"""Regular expressions on what strangers send: in linear time, or refused.

They run in the event loop: in Python's own engine ``(.*)*\\.php$`` takes seconds on 26 bytes, and so long the
worker serves nobody. ``google-re2`` (the extra ``regex``) takes time linear in the input. Without it an
expression is refused, unless the configuration says ``unsafe_regex = true``.

Floor: the bottom of `pylb.rules`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Protocol

try:
    import re2
except ImportError:  # it is an extra
    re2 = None

LONGEST = 65536
"""Bytes of an input; longer ones are refused, as a rule must not be dodged by them."""
LONGEST_UNSAFE = 2048
_LONGEST_TEXT = 4096


class TooLong(Exception):
    """An input is too long to be searched."""


class Match(Protocol):
    """What of a match is used."""

    def groups(self) -> tuple[bytes | None, ...]:
        """What the groups have found."""

    def groupdict(self) -> Mapping[str, bytes | None]:
        """The same of those with a name."""

    def span(self) -> tuple[int, int]:
        """Where it was found: from here up to there."""

    def expand(self, template: bytes) -> bytes:
        """The template with its ``\\1`` filled in."""


def _options() -> Any:
    """Byte by byte, and . for each byte: with ``%ff`` or ``%0a`` in a path no rule is to be dodged."""
    options = re2.Options()
    options.log_errors = False
    options.encoding = re2.Options.Encoding.LATIN1
    options.dot_nl = True
    return options


class Regex:
    """A compiled expression."""

    __slots__ = ("text", "names", "groups", "_engine", "_longest")

    def __init__(self, text: str, unsafe: bool = False) -> None:
        """Raises ValueError with a sentence."""
        if len(text) > _LONGEST_TEXT:
            raise ValueError(f"an expression of more than {_LONGEST_TEXT} characters")
        self.text = text
        self._longest = LONGEST
        self._engine: Any
        if re2 is not None:
            try:
                self._engine = re2.compile(text.encode(), _options())
            except re2.error as error:
                if not unsafe:
                    why = error.args[0] if error.args else "?"
                    said = why.decode("utf-8", "replace") if isinstance(why, bytes) else str(why)
                    raise ValueError(f"no regular expression that RE2 knows: {said}") from None
                self._engine = self._python(text)
        elif unsafe:
            self._engine = self._python(text)
        else:
            raise ValueError(
                "regular expressions need google-re2 (pip install 'pylb[regex]'), which takes linear time; "
                "with unsafe_regex = true Python's own engine is used, which an input may hold for ever"
            )
        self.names: frozenset[str] = frozenset(
            name.decode() if isinstance(name, bytes) else name for name in self._engine.groupindex
        )
        self.groups: int = self._engine.groups

    def _python(self, text: str) -> re.Pattern[bytes]:
        self._longest = LONGEST_UNSAFE
        try:
            return re.compile(text.encode(), re.DOTALL)
        except (re.error, RecursionError, OverflowError) as error:
            raise ValueError(f"no regular expression: {error}") from None

    def search(self, subject: bytes) -> Match | None:
        """The first match anywhere in it; raises `TooLong`."""
        if len(subject) > self._longest:
            raise TooLong
        found: Match | None = self._engine.search(subject)
        return found

    def found(self, match: Match) -> dict[str, bytes]:
        """What its groups have found, by number and by name."""
        groups = {str(number): value or b"" for number, value in enumerate(match.groups(), 1)}
        for name, value in match.groupdict().items():
            groups[name.decode() if isinstance(name, bytes) else name] = value or b""
        return groups
