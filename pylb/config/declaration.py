"""What the declaration of a key says beside its type: words for the documentation, and an option for it.

The lowest floor of the configuration: pure, and it knows no key. A key is declared once, as a field of a
section (`section.Section`). For its type, default, bounds and description pydantic has words; the rest is
added to the type with ``Annotated``, as an instance of a class below. `keys` reads all of it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any


def written(value: Any) -> str:
    """A value as it stands in the file. TOML and JSON spell text, numbers, truth values and lists alike."""
    return json.dumps(list(value) if isinstance(value, tuple) else value)


@dataclass(frozen=True, slots=True)
class Kind:
    """What users write where a value of a type is expected."""

    one: str
    """In words: ``duration``."""
    many: str = ""
    """Several of them, for lists: ``durations``."""
    metavar: str = "TEXT"
    """The placeholder on the command line: ``DURATION``."""
    written: Callable[[Any], str] = written
    """Spells a default as users would."""


def one_of(values: Collection[object]) -> Kind:
    """The kind of a value that is one of these."""
    texts = [f"`{written(value)}`" for value in values]
    either = " or ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)
    return Kind(either, ", ".join(texts), "|".join(map(str, values)))


@dataclass(frozen=True, slots=True)
class Default:
    """In words, a default that is found when pylb starts, or that depends on other keys."""

    words: str


@dataclass(frozen=True, slots=True)
class Option:
    """A key, or a section, that can be given on the command line, too; its help is the key's description.

    The option of a key in ``frontend`` or ``backend`` belongs to the quick form, which makes one of each.
    """

    flag: str
    metavar: str = ""
    """The placeholder, where the one of the key's type doesn't say enough."""
    read: Callable[[str], Any] = str
    """Makes of the option's text what the file would hold; raises ValueError with a sentence."""

    @property
    def name(self) -> str:
        """As the name of a parameter: ``log_format``."""
        return self.flag.lstrip("-").replace("-", "_")
