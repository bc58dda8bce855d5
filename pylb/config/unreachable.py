"""Rules that can never match: an earlier one takes all their requests, or their own keys exclude each other.

Above `model`, for ``check``. It tells only what is certain whatever the requests are, as that of two prefixes
one lies in the other, and never what an expression or a map may hold.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from pylb.config.model import Config, Frontend, Match
from pylb.config.positions import Location
from pylb.rules.match import Text


def unreachable(config: Config, place: Callable[[Location], str]) -> Iterator[str]:
    """A sentence for each rule, beginning with its key; ``place`` says where a key stands."""
    for number, frontend in enumerate(config.frontends):
        for position, rule in enumerate(frontend.rules):
            at: Location = ("frontend", number, "rule", position)
            why = contradiction(rule.match, frontend)
            if not why:
                for earlier in range(position):
                    other = frontend.rules[earlier]
                    if other.ends and covers(other.match, rule.match):
                        where = place((*at[:-1], earlier))
                        why = f"rule[{earlier}] ({where}) comes first and ends all of these requests"
                        break
            if why:
                yield f"frontend[{number}].rule[{position}]: can never match, since {why}"


# One match lies in another


def covers(wide: Match, narrow: Match) -> bool:
    """Whether all requests that the narrow match holds for are certainly among those of the wide one."""
    return all(
        any(_key_covers(key, getattr(wide, key), one) for one in _conjuncts(narrow))
        for key in wide.model_fields_set
        if getattr(wide, key) is not None
    )


def _conjuncts(match: Match) -> list[Match]:
    """The match and those in it that must hold, too."""
    return [match, *(one for inner in match.all for one in _conjuncts(inner))]


def _key_covers(key: str, wide: Any, narrow: Match) -> bool:
    given: Any = getattr(narrow, key) if key in narrow.model_fields_set else None
    if key in ("path", "path_exact"):
        return _paths_cover(key, wide, narrow)
    if key == "all":
        return all(covers(one, narrow) for one in wide)
    if key == "any":
        if any(covers(one, narrow) for one in wide):
            return True
        return given is not None and all(any(covers(one, other) for one in wide) for other in given)
    if given is None:
        return False
    if key == "not_":
        return covers(given, wide)
    if key in _COVERS:
        return all(any(_COVERS[key](one, other) for one in wide) for other in given)
    if isinstance(wide, dict):
        return all(name in given and _text_covers(one, given[name]) for name, one in wide.items())
    if isinstance(wide, Text):
        return _text_covers(wide, given)
    if isinstance(wide, tuple):
        return set(given) <= set(wide)
    return bool(wide == given)


def _host_covers(wide: str, narrow: str) -> bool:
    return wide == narrow or (wide.startswith("*.") and narrow.removeprefix("*").endswith(wide[1:]))


def _network_covers(wide: str, narrow: str) -> bool:
    one, other = ipaddress.ip_network(wide), ipaddress.ip_network(narrow)
    return one.version == other.version and other.subnet_of(one)  # type: ignore[arg-type]  # versions agree


_COVERS: dict[str, Callable[[str, str], bool]] = {
    "host": _host_covers,
    "sni": _host_covers,
    "source": _network_covers,
    "starts_with": lambda wide, narrow: narrow.startswith(wide),
}
"""For keys of which one value may lie in another one."""


def _paths_cover(key: str, wide: Sequence[str], narrow: Match) -> bool:
    exact = narrow.path_exact
    if key == "path_exact":
        return bool(exact) and set(exact) <= set(wide)
    if exact and all(any(_below(path, prefix) for prefix in wide) for path in exact):
        return True
    prefixes = narrow.path
    return bool(prefixes) and all(any(_prefix_covers(one, other) for one in wide) for other in prefixes)


def _below(path: str, prefix: str) -> bool:
    return path == prefix or path.startswith(prefix.rstrip("/") + "/")


def _prefix_covers(wide: str, narrow: str) -> bool:
    """``/a`` covers ``/a`` and ``/a/b``; ``/a/`` is for what is below ``/a`` alone."""
    return narrow == wide or narrow.startswith(wide if wide.endswith("/") else wide + "/")


def _text_covers(wide: Text, narrow: Text) -> bool:
    if wide.present or wide == narrow:
        return True
    only_values = narrow == Text(equal=narrow.equal)
    return bool(narrow.equal) and only_values and set(narrow.equal) <= set(wide.equal)


# A match excludes itself


def contradiction(match: Match, frontend: Frontend) -> str:
    """Why no request of a frontend can be like this; empty where one may be."""
    parts = _conjuncts(match)
    for key in _DISJOINT:
        lists = [getattr(one, key) for one in parts if getattr(one, key)]
        for number, one in enumerate(lists):
            for other in lists[:number]:
                if not any(_overlap(key, a, b) for a in one for b in other):
                    return f"{key} can't be both {_listed(other)} and {_listed(one)}"
    paths = [(key, getattr(one, key)) for one in parts for key in ("path", "path_exact") if getattr(one, key)]
    for number, (key, some) in enumerate(paths):
        for other_key, others in paths[:number]:
            if not any(_paths_overlap(key, a, other_key, b) for a in some for b in others):
                return f"{other_key} {_listed(others)} and {key} {_listed(some)} exclude each other"
    for one in parts:
        if one.not_ is not None and covers(one.not_, match.model_copy(update={"not_": None})):
            return "not excludes all that the other keys want"
    return _never_here(parts, frontend)


_OF_TLS = ("client_subject", "sni", "tls_version")


def _never_here(parts: Sequence[Match], frontend: Frontend) -> str:
    tls = frontend.tls is not None
    ports = {bind.port for bind in frontend.bind if not bind.is_unix}
    for one in parts:
        if one.tls is not None and one.tls is not tls:
            return f"this frontend {'has' if tls else 'has no'} tls"
        needs = next((key for key in _OF_TLS if key in one.model_fields_set), None)
        if needs is not None and not tls and frontend.mode == "http":
            return f"{needs} needs tls, which this frontend hasn't"
        if one.port and 0 not in ports and not ports & set(one.port):
            return f"this frontend isn't bound to port {_listed(one.port)}"
    return ""


_DISJOINT = ("host", "sni", "method", "port", "protocol", "tls_version", "source")
"""Of which a request has one value, so that two lists without a common one exclude each other."""


def _overlap(key: str, one: Any, other: Any) -> bool:
    covers_ = _COVERS.get(key)
    return bool(one == other) if covers_ is None else covers_(one, other) or covers_(other, one)


def _paths_overlap(key: str, one: str, other_key: str, other: str) -> bool:
    if key == other_key == "path_exact":
        return one == other
    if key == "path_exact":
        return _below(one, other)
    if other_key == "path_exact":
        return _below(other, one)
    return _prefix_covers(one, other) or _prefix_covers(other, one)


def _listed(values: Sequence[Any]) -> str:
    return ", ".join(map(str, values))
