"""Whether the sections of a configuration fit together: names that lead nowhere, addresses used twice.

Above `values`, below `load`; it doesn't know the model. It reads the parsed document, so that a mistake in
one key doesn't hide those between sections: any key may hold anything here, and what the model refuses is
passed over.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator
from typing import Any

from pylb.config.address import Address, each_port, parse_address
from pylb.config.conflicts import conflicts
from pylb.config.runtime import default_admin_path
from pylb.config.values import one_or_more

_MOST_BINDS = 1024
"""So that their names fit into one message to a worker (`pylb.net.channel.MAX_PACKET`)."""

_OF_REQUESTS = {"uri", "path", "header", "cookie", "query"}
"""What can't be hashed where only connections are seen."""


def broken_links(document: dict[str, Any]) -> list[str]:
    """One line for each mistake between sections, with the key's path."""
    frontends, backends = _tables(document, "frontend"), _tables(document, "backend")
    problems = [*_repeated("backend", backends), *_unknown_backends(frontends, backends)]
    problems += _repeated("map", _tables(document, "map"))
    bound: list[tuple[str, Address]] = []
    for number, frontend in enumerate(frontends):
        for position, bind in enumerate(one_or_more(frontend.get("bind", []))):
            with contextlib.suppress(ValueError, AttributeError):
                for one in each_port(bind):
                    bound.append((f"frontend[{number}].bind[{position}]", parse_address(one)))
    if len(bound) > _MOST_BINDS:
        return [*problems, f"frontend: {len(bound)} addresses to bind, at most {_MOST_BINDS}"]
    with contextlib.suppress(ValueError, AttributeError):
        bound.append(("admin", parse_address(document.get("admin", f"unix:{default_admin_path()}"))))
    return problems + [f"{key}: {sentence}" for key, sentence in conflicts(bound)]


def _tables(document: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """A list of tables; an empty table for what is none, so that positions stay."""
    return [table if isinstance(table, dict) else {} for table in one_or_more(document.get(name, []))]


def _repeated(kind: str, tables: list[dict[str, Any]]) -> Iterator[str]:
    names = [table.get("name") for table in tables]
    for number, name in enumerate(names):
        if name is not None and name in names[:number]:
            yield f"{kind}[{number}].name: another {kind} is named {name!r}"


def _unknown_backends(frontends: list[dict[str, Any]], backends: list[dict[str, Any]]) -> Iterator[str]:
    """Backends that a frontend names and that don't exist, or don't fit its mode."""
    names = [backend.get("name") for backend in backends]
    for number, frontend in enumerate(frontends):
        sni = frontend.get("sni")
        used = {"backend": frontend.get("backend")}
        if isinstance(sni, dict):
            used |= {f"sni.{name}": backend for name, backend in sni.items()}
        for position, rule in enumerate(_tables(frontend, "rule")):
            used |= _named_by_rule(f"rule[{position}]", rule)
        for key, name in used.items():
            path = f"frontend[{number}].{key}"
            if not isinstance(name, str):
                continue  # the model says what is wrong with it
            if name not in names:
                defined = ", ".join(str(one) for one in names)
                close = difflib.get_close_matches(name, [str(one) for one in names], 1)
                hint = f"did you mean {close[0]!r}? " if close else ""
                yield f"{path}: no backend {name!r}; {hint}defined: {defined}"
            elif frontend.get("mode") == "tcp" and backends[names.index(name)].get("http2") is True:
                yield f'{path}: {name!r} has http2, which mode "tcp" can\'t speak'
            elif frontend.get("mode") == "tcp" and backends[names.index(name)].get("sticky") is not None:
                yield f'{path}: {name!r} has sticky, but mode "tcp" reads no cookies'
            elif frontend.get("mode") == "tcp":
                balance = str(backends[names.index(name)].get("balance", ""))
                if balance.partition(":")[0] in _OF_REQUESTS:
                    yield f'{path}: {name!r} has balance {balance!r}, but mode "tcp" reads no requests'


def _named_by_rule(key: str, rule: dict[str, Any]) -> dict[str, Any]:
    """Backends that a rule names as they are; a name with variables isn't known yet."""
    backend = rule.get("backend")
    computed = isinstance(backend, str) and "{" in backend
    used = {} if computed else {f"{key}.backend": backend}
    split = rule.get("split")
    if isinstance(split, dict):
        used |= {f"{key}.split.{name}": name for name in split}
    return used
