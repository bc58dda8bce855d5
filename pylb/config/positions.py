"""On which line of a TOML file each key stands.

The lowest floor of the configuration, beside `declaration`: pure, and it knows no key. `tomllib` reads the
file and gives no positions, so this finds the keys once more where a message needs a line. It judges nothing:
of a text that is no TOML it tells what it has found up to there. https://toml.io/en/v1.0.0
"""

from __future__ import annotations

import re
import tomllib
from bisect import bisect_right
from collections.abc import Mapping
from typing import TypeAlias

Location: TypeAlias = tuple[str | int, ...]
"""Names of keys and positions in lists: ``("frontend", 0, "bind", 1)``."""

_MOST_SPELLINGS = 16
"""Of one location, that are looked for; a location has few positions."""

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BLANK_OR_COMMA = re.compile(r"(?:[ \t\r\n,]|#[^\n]*)*")
_REST_OF_LINE = re.compile(r"[^\n]*")
_NAME = re.compile(r"""[ \t]*(?:([A-Za-z0-9_-]+)|("(?:\\.|[^"\\\n])*"|'[^'\n]*'))[ \t]*""")
_SCALAR = re.compile(
    r'"""(?:\\.|[^\\])*?"""(?:"{0,2})'
    r"|'''.*?'''(?:'{0,2})"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|[^,\]}#\n\"']+",
    re.DOTALL,
)


def key_lines(text: str) -> dict[Location, int]:
    """The line, from 1, of each table, key and element of a list.

    What stands on the line of what holds it is left out, so that the dictionary stays small: the line of the
    longest part of a location that is in it is the line asked for (`line_of`).
    """
    return _Scanner(text).scan()


def line_of(lines: Mapping[Location, int], location: Location) -> tuple[int, int]:
    """How many parts of a location have been found, and the line of the last of them; (0, 0) for none.

    A list written as its only element has no positions in the file, so any position 0 may be missing.
    """
    known, line = 0, 0
    spelled: list[Location] = [()]
    for parts, part in enumerate(location, 1):
        longer: list[Location] = [(*one, part) for one in spelled]
        spelled = [*longer, *spelled][:_MOST_SPELLINGS] if part == 0 else longer
        for one in longer:
            if one in lines:
                known, line = parts, lines[one]
                break
    return known, line


class _Scanner:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._newlines = [match.start() for match in re.finditer("\n", text)]
        self._found: dict[Location, int] = {}
        self._last: dict[Location, int] = {}  # the position of the last table of each list of tables

    def scan(self) -> dict[Location, int]:
        table: Location = ()
        while self._skip(_BLANK):
            before = self._at
            if self._text[self._at] == "[":
                table = self._header()
                self._skip(_REST_OF_LINE)
                continue
            path = self._key(table)
            if path is not None:
                self._value(path)
            if self._at == before:
                self._skip(_REST_OF_LINE)
        return self._found

    def _skip(self, pattern: re.Pattern[str]) -> bool:
        """Pass over what matches; whether anything follows."""
        match = pattern.match(self._text, self._at)
        self._at = match.end() if match is not None else self._at
        return self._at < len(self._text)

    def _note(self, path: Location, line: int) -> None:
        if self._found.get(path[:-1]) != line:
            self._found.setdefault(path, line)

    def _line(self) -> int:
        return bisect_right(self._newlines, self._at) + 1

    def _names(self) -> list[str]:
        """The parts of a dotted key; empty where there is none."""
        names = []
        while match := _NAME.match(self._text, self._at):
            self._at = match.end()
            names.append(match[1] or _unquoted(match[2]))
            if not self._text.startswith(".", self._at):
                break
            self._at += 1
        return names

    def _header(self) -> Location:
        line = self._line()
        many = self._text.startswith("[[", self._at)
        self._at += 2 if many else 1
        path: Location = ()
        names = self._names()
        for number, name in enumerate(names, 1):
            path = (*path, name)
            if many and number == len(names):
                self._last[path] = self._last.get(path, -1) + 1
            self._found.setdefault(path, line)
            if path in self._last:
                path = (*path, self._last[path])
                self._found.setdefault(path, line)
        return path

    def _key(self, table: Location) -> Location | None:
        """Read ``a.b =`` in a table, and give the location of the key; None where none is there."""
        line = self._line()
        names = self._names()
        if not names or not self._text.startswith("=", self._at):
            return None
        self._at += 1
        path = table
        for name in names:
            path = (*path, name)
            self._note(path, line)
        return path

    def _value(self, path: Location) -> None:
        """Pass over a value, and note what is in it."""
        within: list[tuple[Location, list[int] | None]] = []  # for a list, the number of its elements so far
        while True:
            if not self._skip(_BLANK):
                return
            opening = self._text[self._at]
            if opening in "[{":
                within.append((path, [0] if opening == "[" else None))
                self._at += 1
            else:
                before = self._at
                self._skip(_SCALAR)
                if self._at == before:
                    return
            while within:  # the next value in the innermost list or table
                if not self._skip(_BLANK_OR_COMMA):
                    return
                if self._text[self._at] in "]}":
                    within.pop()
                    self._at += 1
                    continue
                holder, count = within[-1]
                if count is not None:
                    path = (*holder, count[0])
                    count[0] += 1
                    self._note(path, self._line())
                    break
                inner = self._key(holder)
                if inner is None:
                    return
                path = inner
                break
            else:
                return


def _unquoted(key: str) -> str:
    """A quoted key as it is meant."""
    if "\\" not in key:
        return key[1:-1]
    try:
        return str(tomllib.loads(f"key = {key}")["key"])
    except ValueError:
        return key[1:-1]
