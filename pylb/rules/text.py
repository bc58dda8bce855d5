"""What a value of a request is compared with, as the configuration says it.

Floor: the bottom of `pylb.rules`; the sections of the configuration know it, so it imports nothing.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Text:
    """What a value is compared with; any of those given may hold."""

    present: bool = False
    """Any value will do."""
    equal: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()
    suffix: tuple[str, ...] = ()
    contains: tuple[str, ...] = ()
    regex: tuple[str, ...] = ()
