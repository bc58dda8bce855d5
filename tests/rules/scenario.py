"""Scenarios of the tables: a frontend with rules, and requests with their outcomes.

A line of a table is ``METHOD host/target | Field: value | … => outcome``. The outcome is the name of the
backend that gets the request, or the status of the refusal. Where a frontend trusts ``127.0.0.1``,
``X-Forwarded-For`` says who the client is.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Scenario:
    """A frontend: its rules, further keys, and the texts of the maps' files."""

    rules: str
    table: str
    keys: dict[str, object] = field(default_factory=dict)
    maps: dict[str, str] = field(default_factory=dict)
    """By ``name:kind``, and perhaps ``:key``."""


def routes(*some: str) -> str:
    """Rules, each as ``backend: match``."""
    split = (route.partition(": ") for route in some)
    return "".join(f'[[rule]]\nmatch = {{ {match} }}\nbackend = "{name}"\n' for name, _, match in split)
