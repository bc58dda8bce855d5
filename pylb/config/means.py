"""What matchers and actions are made with, and how a key that can't be used is named.

Above `model`, below `routing` and `changes`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from pylb.rules import template
from pylb.rules.maps import Map


class Unusable(ValueError):
    """A key's value can't be used; ``key`` is its path below the frontend or map."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f"{key}: {why}")
        self.key = key
        self.why = why


@contextmanager
def named(key: str) -> Iterator[None]:
    """What can't be used in here is this key's, or that of one below it."""
    try:
        yield
    except Unusable as error:
        raise Unusable(f"{key}.{error.key}", error.why) from None
    except ValueError as error:
        raise Unusable(key, str(error)) from None


@dataclass(frozen=True, slots=True)
class Means:
    """What matchers and actions are made with."""

    backends: frozenset[str]
    maps: Mapping[str, Map]
    unsafe_regex: bool
    bodies: Mapping[str, bytes] = field(default_factory=dict)
    """What the files of answers hold, by their path."""
    used: set[str] = field(default_factory=set)
    """The variables of all texts so far."""

    def template(self, text: str) -> template.Template:
        """A text with variables; raises ValueError."""
        self.used.update(template.variables(text))
        return template.compile(text, {name: one.text for name, one in self.maps.items()})
