"""What a source of servers answers. The lowest floor of discovery."""

from __future__ import annotations

from dataclasses import dataclass

LARGEST_WEIGHT = 256


class Failed(Exception):
    """A source has no answer, or one that can't be used; the sentence says why. What was known stays."""


@dataclass(frozen=True, slots=True)
class Found:
    """One server that a source knows; its address is its name, too, so that both stay the same."""

    address: str
    """As the configuration writes a server's: ``10.0.0.1:80``, ``[fd00::1]:80``."""
    weight: int | None = None
    """None where the source doesn't say."""
    backup: bool | None = None
    """Likewise."""


@dataclass(frozen=True, slots=True)
class Answer:
    """All servers that a source knows now."""

    servers: tuple[Found, ...]
    ttl: float | None = None
    """Seconds for which it holds, where the source says so."""
    notes: tuple[str, ...] = ()
    """What was left out of it and why, each a line for the log."""
