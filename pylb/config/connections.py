"""Rules of frontends in TCP mode: which keys they may have, as there is no request to look at.

Above `model`, below `routing`, which makes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pylb.config.model import Match, Rule
from pylb.rules import template

MATCHERS = frozenset({"all", "alpn", "any", "not", "port", "sni", "source"})
ACTIONS = frozenset({"backend", "drop", "split", "split_by"})
VARIABLES = frozenset({"client.ip", "client.peer", "port", "tls.sni"})


def others(rules: Sequence[Rule]) -> Iterator[tuple[str, str]]:
    """(key, sentence) for what only HTTP has."""
    for number, rule in enumerate(rules):
        key = f"rule[{number}]"
        for place, name in _keys(rule.match, f"{key}.match"):
            if name not in MATCHERS:
                yield f"{place}.{name}", _only(MATCHERS)
        for name in sorted(rule.model_fields_set - {"match"} - ACTIONS):
            yield f"{key}.{name}", _only(ACTIONS)
        for name in template.variables(rule.backend or ""):
            if name not in VARIABLES:
                yield f"{key}.backend", f"{{{name}}}: {_only(VARIABLES)}"
        if rule.split_by not in (None, "source"):
            yield f"{key}.split_by", 'in mode "tcp" there is source only'


def needs_hello(rules: Sequence[Rule]) -> bool:
    """Whether what the client's TLS asks for must be known: its first message is waited for then."""
    return any(name in ("alpn", "sni") for rule in rules for _, name in _keys(rule.match, "")) or any(
        "tls.sni" in template.variables(rule.backend or "") for rule in rules
    )


def _keys(match: Match, place: str) -> Iterator[tuple[str, str]]:
    """The keys of a match and of those in it, and where each stands."""
    for name in sorted(match.model_fields_set):
        yield place, name.rstrip("_")
    for position, inner in enumerate(match.all):
        yield from _keys(inner, f"{place}.all[{position}]")
    for position, inner in enumerate(match.any):
        yield from _keys(inner, f"{place}.any[{position}]")
    if match.not_ is not None:
        yield from _keys(match.not_, f"{place}.not")


def _only(names: frozenset[str]) -> str:
    return f'in mode "tcp" there are {", ".join(sorted(names))} only'
