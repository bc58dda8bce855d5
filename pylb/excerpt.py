"""A value as a line of a message shows it. Pure, and below everything else: it knows Python's values only."""

from __future__ import annotations

from typing import Any


def shown(value: Any, width: int = 60) -> str:
    """A value for the log, cut where it is long (or too deep, or a number of too many digits to print)."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):
        text = f"a {type(value).__name__} that can't be shown"
    return text if len(text) <= width else text[: width - 1] + "…"
