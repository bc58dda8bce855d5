"""The files that a configuration is written in, read and put together as one document.

Above `mistakes`, below `load`. It knows TOML, ``include`` and the environment's variables, and which keys are
lists of tables; what else the keys mean is the model's affair. The supervisor does nothing else while it
reads, so number and size of the files are bounded, and nothing but a regular file is opened.
"""

from __future__ import annotations

import codecs
import functools
import glob
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pylb.config.address import refuse_in_path
from pylb.config.environment import expand
from pylb.config.files import read_regular
from pylb.config.keys import keys
from pylb.config.mistakes import ConfigError, path_of
from pylb.config.positions import Location, key_lines, line_of
from pylb.config.values import one_or_more

_LARGEST_FILE = 4 * 1024 * 1024  # bytes
_MOST_BYTES = 16 * 1024 * 1024  # of all files together
_MOST_FILES = 1000
_DEEPEST = 8
"""Files that may include each other in a row."""
_MOST_DOTS = 500
"""In a key. No key of the model has as many, and `tomllib` takes time by the square of their number."""
_STRING = re.compile(r"\"[^\"\n]*\"|'[^'\n]*'")
_AT_LINE = re.compile(r"\(at line (\d+), column \d+\)")
_NAME_ENDS = re.compile(r"[.:\[]|$")
_MOST_ENDS = 20
"""Where the name of a key in a message may end; names with more dots and colons in them aren't found."""
_NUMBER = re.compile(r"\[(\d{1,9})\]")

# Where one mark begins as another does, the longer one comes first.
_MARKS = (
    (codecs.BOM_UTF8, "UTF-8 with a byte order mark (BOM)"),
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


@dataclass
class _File:
    name: str
    text: str
    document: dict[str, Any]
    first: dict[str, int] = field(default_factory=dict)
    """By the name of a list of tables, the position that this file's first table has in the document."""

    @cached_property
    def lines(self) -> dict[Location, int]:
        return key_lines(self.text)

    def line(self, location: Location) -> tuple[int, int]:
        """As `line_of`, for a location in the whole document."""
        name = location[0] if location else ""
        if name in self.first and len(location) > 1 and isinstance(location[1], int):
            number = location[1] - self.first[str(name)]
            if not 0 <= number < len(one_or_more(self.document.get(str(name)))):
                return 0, 0
            location = (name, number, *location[2:])
        return line_of(self.lines, location)


class Places:
    """Where in which file each key of a document stands; lines are looked for when they are asked for."""

    def __init__(self) -> None:
        self._files: list[_File] = []

    def add(self, file: _File) -> None:
        self._files.append(file)

    @property
    def files(self) -> list[str]:
        """The names of all files, the one that includes the others first."""
        return [file.name for file in self._files]

    def of(self, location: Location) -> str:
        """``pylb.toml:12`` for a key, or for the table that it is missing in; the first file for none."""
        name, line = self.file_and_line(location)
        return f"{name}:{line}" if line else name

    def file_and_line(self, location: Location) -> tuple[str, int]:
        """The same in two parts; line 0 for no key of the file."""
        best, name, line = 0, self._files[0].name, 0
        for file in self._files:
            known, at = file.line(location)
            if known > best:
                best, name, line = known, file.name, at
        return name, line

    def of_problem(self, problem: str) -> str:
        """The place of the key that a line of `ConfigError` begins with."""
        return self.of(_location(problem, self._document))

    @cached_property
    def _document(self) -> dict[str, Any]:
        return functools.reduce(_merged, (file.document for file in self._files))


def _location(problem: str, value: Any) -> Location:
    """The location whose path in messages a line begins with, as far as a document has it."""
    found: Location = ()
    rest = problem
    while True:
        if found and (number := _NUMBER.match(rest)):
            at, rest = int(number[1]), rest[number.end() :]
            if isinstance(value, list) and at < len(value):
                value = value[at]
            elif isinstance(value, list) or at:
                return found
            found = (*found, at)  # a list may be written as its only element
            continue
        if found:
            if not rest.startswith("."):
                return found
            rest = rest[1:]
        if not isinstance(value, dict):
            return found
        ends = [end.start() for end, _ in zip(_NAME_ENDS.finditer(rest), range(_MOST_ENDS), strict=False)]
        name = next((rest[:end] for end in reversed(ends) if rest[:end] in value), None)
        if name is None:
            return found
        value, found, rest = value[name], (*found, name), rest[len(name) :]


@dataclass(frozen=True)
class Source:
    """All files of a configuration as one document."""

    document: dict[str, Any]
    places: Places


def read_source(path: str | os.PathLike[str], environ: Mapping[str, str] | None = None) -> Source:
    """Read a TOML file and those that it includes.

    Raises:
        ConfigError: with every mistake in them that isn't the model's to find, and their places.
        OSError: the file can't be read.
    """
    reading = _Reading(os.environ if environ is None else environ)
    try:
        reading.file(os.fspath(path), read_regular(path, _LARGEST_FILE), ())
    except RecursionError:
        raise ConfigError(["not valid TOML: it is nested too deeply"], [os.fspath(path)]) from None
    if reading.problems:
        problems, places = zip(*reading.problems, strict=True)
        raise ConfigError(list(problems), list(places))
    return Source(reading.document, reading.places)


class _Reading:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self.document: dict[str, Any] = {}
        self.places = Places()
        self.problems: list[tuple[str, str]] = []
        """Sentences that begin with a key, and the places that they are about."""
        self._environ = environ
        self._owners: dict[Location, _File] = {}
        """Who has set which key that may be set once."""
        self._seen: dict[str, str] = {}
        """Real paths of the files, and by which place they were included."""
        self._bytes = 0

    def file(self, name: str, data: bytes, within: tuple[str, ...]) -> None:
        """Add a file to the document, and those that it includes."""
        self._seen[os.path.realpath(name)] = name
        self._bytes += len(data)
        try:
            text, document = parse(data)
        except ConfigError as error:
            self.problems += ((one, _syntax_place(name, data, one)) for one in error.problems)
            return
        found: list[tuple[Location, str]] = []
        file = _File(name, text, {})
        expanded = expand(document, self._environ, found)
        file.document = expanded
        self.problems += ((f"{path_of(at)}: {sentence}", _place(file, at)) for at, sentence in found)
        for key in _LISTS & expanded.keys():
            file.first[key] = len(one_or_more(self.document.get(key, [])))
        self.places.add(file)
        included = expanded.get("include", [])
        if within:
            expanded = {key: value for key, value in expanded.items() if key != "include"}
            file.document = expanded
        self.document = _merged(self.document, expanded, lambda at: self._twice(file, at))
        self._own(file, expanded)
        for number, pattern in enumerate(one_or_more(included)):
            at: Location = ("include", number)
            for problem in self._include(file, pattern, (*within, name)):
                self.problems.append((f"include: {problem}", _place(file, at)))

    def _include(self, file: _File, pattern: Any, within: tuple[str, ...]) -> list[str]:
        """Add the files that a pattern stands for; gives what is wrong with the pattern."""
        if not isinstance(pattern, str) or not pattern:
            return ["expected the path of a file, or a pattern such as conf.d/*.toml"]
        try:
            refuse_in_path(pattern)
        except ValueError as error:
            return [str(error)]
        if len(within) > _DEEPEST:
            return [f"{pattern}: more than {_DEEPEST} files include each other; shorten the chain"]
        folder = os.path.dirname(file.name)
        names = sorted(glob.glob(pattern, root_dir=folder or None)) if glob.has_magic(pattern) else [pattern]
        problems = []
        for name in (os.path.join(folder, one) for one in names):
            real = os.path.realpath(name)
            if name in within or real in map(os.path.realpath, within):
                problems.append(f"{name} includes itself; name the files so that it isn't among them")
            elif real in self._seen:
                problems.append(f"{name} is included twice")
            elif len(self._seen) >= _MOST_FILES:
                return [*problems, f"{pattern}: there are more than {_MOST_FILES} files"]
            else:
                try:
                    data = read_regular(name, min(_LARGEST_FILE, _MOST_BYTES - self._bytes))
                except OSError as error:
                    problems.append(f"{name}: {error.strerror or error}")
                else:
                    self.file(name, data, within)
        return problems

    def _own(self, file: _File, document: dict[str, Any]) -> None:
        waiting: list[tuple[Location, Any]] = [((), document)]
        while waiting:
            at, value = waiting.pop()
            if isinstance(value, dict):
                waiting += (((*at, key), one) for key, one in value.items() if at or key not in _LISTS)
            if at:
                self._owners.setdefault(at, file)

    def _twice(self, file: _File, at: Location) -> None:
        first = self._owners.get(at)
        also = _place(first, at) if first is not None else "another file"
        self.problems.append((f"{path_of(at)}: is set in {also}, too; remove one", _place(file, at)))


_LISTS = frozenset(key.name for key in keys() if key.many and key.section is not None)
"""The lists of tables that several files may add to."""


def _merged(
    before: dict[str, Any], more: dict[str, Any], twice: Callable[[Location], None] = lambda at: None
) -> dict[str, Any]:
    """Two documents as one: lists of tables one after the other, tables joined; ``twice`` gets the rest."""
    merged = dict(before)
    waiting: list[tuple[Location, dict[str, Any], dict[str, Any]]] = [((), merged, more)]
    while waiting:
        at, into, added = waiting.pop()
        for key, value in added.items():
            if key not in into:
                into[key] = value
            elif not at and key in _LISTS:
                into[key] = [*one_or_more(into[key]), *one_or_more(value)]
            elif isinstance(into[key], dict) and isinstance(value, dict):
                into[key] = dict(into[key])
                waiting.append(((*at, key), into[key], value))
            else:
                twice((*at, key))
    return merged


def _place(file: _File, location: Location) -> str:
    _, line = line_of(file.lines, location)
    return f"{file.name}:{line}" if line else file.name


def _syntax_place(name: str, data: bytes, problem: str) -> str:
    line = _AT_LINE.search(problem)
    if line is not None:
        return f"{name}:{line[1]}"
    return f"{name}:{len(data.splitlines())}" if problem.endswith("(at end of document)") else name


def parse(data: bytes) -> tuple[str, dict[str, Any]]:
    """A file's bytes as text and as a document; raises ConfigError with one sentence."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            raise ConfigError([f"not valid TOML: the file is {encoding}; save it as UTF-8 without a BOM"])
    try:
        text = data.decode()
        if any(line.count(".") > _MOST_DOTS for line in _STRING.sub("", text).splitlines()):
            raise RecursionError
        return text, tomllib.loads(text)
    except RecursionError:
        raise ConfigError(["not valid TOML: it is nested too deeply"]) from None
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError, and a number of too many digits
        hint = "; it looks like UTF-16, save it as UTF-8" if b"\0" in data[:4] else ""
        raise ConfigError([f"not valid TOML: {error}{hint}"]) from None
