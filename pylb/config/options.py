"""The command line's options that stand for keys: which there are, and where they go.

Above `keys`, below `load` and the command line, of whose library it knows nothing. Every option is declared
at its key, with `declaration.Option`; none is named here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pylb.config.declaration import Option
from pylb.config.keys import Key, all_keys
from pylb.config.mistakes import ConfigError

Given = Mapping[str, Sequence[str] | str | None]
"""By `Option.name` what was written on the command line, or None."""

_QUICK = {"frontend": {"name": "main", "backend": "main"}, "backend": {"name": "main"}}
"""The sections that the quick form begins with."""


@dataclass(frozen=True)
class KeyOption:
    """An option and the key that it stands for."""

    option: Option
    key: Key

    @property
    def quick(self) -> bool:
        """Whether it belongs to the quick form, since a file may have several sections with this key."""
        return self.key.path[0] in _QUICK

    @property
    def metavar(self) -> str:
        return self.option.metavar or self.key.kind.metavar

    @property
    def default(self) -> str:
        """Of the key, without the file's quotes."""
        return self.key.described_default or self.key.default.strip('"')

    @property
    def help(self) -> str:
        """One sentence."""
        return self.key.description.removesuffix(".") + ("; may be repeated." if self.key.many else ".")

    @cached_property
    def _in_messages(self) -> re.Pattern[str]:
        """The key's path at the beginning of a line about the document that `put` has filled."""
        path = re.escape(self.key.path[0]) + (r"\[0\]" if self.quick else "")
        path += "".join(rf"\.{re.escape(name)}" for name in self.key.path[1:])
        if self.key.many:
            path += r"(\[\d+\])?"
        if self.key.section is not None and self.key.section.short:
            path += rf"(\.{self.key.section.short})?"
        return re.compile(rf"^{path}(?=[.:])")

    def put(self, document: dict[str, Any], text: Sequence[str] | str) -> None:
        """Set the key to what the option says; raises ValueError with a sentence.

        Where the file has something else than a table on the way, that is left as it is, and refused as such.
        """
        value: Any
        value = self.option.read(text) if isinstance(text, str) else [self.option.read(one) for one in text]
        table: Any = document
        for name in self.key.path[:-1]:
            table = table.setdefault(name, {})
            if not isinstance(table, dict):
                return
        table[self.key.name] = value

    def renamed(self, problem: str) -> str:
        """The same line, naming the option in place of the key."""
        return self._in_messages.sub(self.option.flag, problem)


OPTIONS: Mapping[str, KeyOption] = {
    key.option.name: KeyOption(key.option, key) for key in all_keys() if key.option is not None
}
"""By `Option.name`, in the model's order."""


def quick_form() -> dict[str, Any]:
    """The document of the quick form before its options are put in: all binds go to one backend."""
    return {name: dict(section) for name, section in _QUICK.items()}


def put(document: dict[str, Any], given: Given) -> None:
    """Put what was given on the command line into a document.

    Raises:
        ConfigError: with every option that can't be read.
    """
    problems = []
    for name, text in given.items():
        if text is not None:
            try:
                OPTIONS[name].put(document, text)
            except ValueError as error:
                problems.append(f"{OPTIONS[name].option.flag}: {error}")
    if problems:
        raise ConfigError(problems)


def renamed(problems: Iterable[str], given: Given) -> list[str]:
    """Lines about a document, naming the options that were given in place of their keys."""
    result = []
    for problem in problems:
        for name, text in given.items():
            if text is not None:
                problem = OPTIONS[name].renamed(problem)
        result.append(problem)
    return result
