"""From the sections of rules and maps to `pylb.rules`: what workers, ``explain`` and ``check`` ask.

Above `model`, below `trials`. Whatever can't be made of them raises `Unusable` with the key.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from typing import Any

from pylb.config import changes, connections
from pylb.config.files import read_regular
from pylb.config.means import Means, Unusable, named
from pylb.config.model import Config, Frontend, Match
from pylb.config.model import Map as MapSection
from pylb.config.model import Rule as RuleSection
from pylb.rules import match, split, template
from pylb.rules.decision import Ending, Rule, Rules
from pylb.rules.maps import BadMap, Map
from pylb.rules.match import Test
from pylb.rules.view import View

__all__ = ["Unusable", "compiled", "empty_maps", "read_map", "read_maps"]

LARGEST_MAP = 64 * 1024 * 1024
"""Bytes of a map's file."""


def empty_maps(config: Config) -> dict[str, Map]:
    """The maps by name, before their files are read; raises `Unusable`."""
    return {section.name: _map(number, section) for number, section in enumerate(config.maps)}


def _map(number: int, section: MapSection) -> Map:
    with named(f"map[{number}].key"):
        key = template.compile(section.template, decoded=True)
    return Map(section.name, section.kind, key, hosts=section.template == "{host}")


def read_maps(config: Config) -> dict[str, Map]:
    """The maps by name, with what their files hold.

    Raises:
        Unusable: a file can't be read, or a key or a line is no good.
    """
    maps = empty_maps(config)
    for number, section in enumerate(config.maps):
        one = maps[section.name]
        with named(f"map[{number}].file"):
            try:
                one.version, text = read_map(section.file)
                one.read(text)
            except OSError as error:
                raise ValueError(f"{section.file}: {error.strerror or error}") from None
            except BadMap as error:
                raise ValueError(f"{section.file}: {error}") from None
    return maps


def read_map(path: str, unless: object = None) -> tuple[object, bytes]:
    """A map's file and its version; empty where that is still ``unless``. Raises OSError."""
    about = os.stat(path)
    version = about.st_mtime_ns, about.st_size, about.st_ino
    return version, b"" if version == unless else read_regular(path, LARGEST_MAP)


def compiled(
    config: Config,
    frontend: Frontend,
    maps: Mapping[str, Map],
    places: Mapping[str, Any] | None = None,
    bodies: Mapping[str, bytes] | None = None,
) -> Rules | None:
    """A frontend's rules; None where it has none.

    Args:
        maps: by name.
        places: by name, what stands for a backend in decisions.
        bodies: what the files of answers hold, by their path.

    Raises:
        Unusable: with a key below the frontend.
    """
    if not frontend.rules:
        return None
    if frontend.mode == "tcp":
        for key, why in connections.others(frontend.rules):
            raise Unusable(key, why)
    backends = frozenset(backend.name for backend in config.backends)
    means = Means(backends, maps, config.unsafe_regex, bodies or {})
    rules = []
    for number, section in enumerate(frontend.rules):
        with named(f"rule[{number}]"):
            rules.append(_rule(number, section, means))
    return Rules(
        rules,
        frontend.backend,
        trusted=[ipaddress.ip_network(network) for network in frontend.trusted_proxies],
        tls=frontend.tls is not None,
        lenient=frontend.ambiguous_paths == "pass",
        by_path=any(_by_path(section, config) for section in frontend.rules)
        or _name_path(means.used, _path_maps(config)),
        places=places,
    )


def _rule(number: int, section: RuleSection, means: Means) -> Rule:
    where = section.match
    with named("match"):
        tests = list(_tests(where, means))
    indexed = {"host"} if where.host else set()
    paths, exact = where.path, False
    if where.path_exact:
        paths, exact = where.path_exact, True
        indexed.add("path_exact")
    elif all(path == "/" or not path.endswith("/") for path in paths):
        indexed.add("path")
    return Rule(
        number,
        tests,
        _ending(section, means),
        changes.changes(section, means),
        hosts=tuple(host.encode() for host in where.host),
        paths=tuple(_bytes(path) for path in paths),
        exact=exact,
        indexed=frozenset(indexed),
    )


# Actions


def _ending(section: RuleSection, means: Means) -> Ending | None:
    if section.backend is not None:
        with named("backend"):
            return Ending("backend", _backend(section.backend, means))
    if section.split:
        return Ending("backend", split.splitter(section.split, section.split_by))
    return changes.reply(section, means)


def _backend(text: str, means: Means) -> str | Callable[[View], str | None]:
    if not template.variables(text):
        return text
    fill = means.template(text)
    names = {name.encode(): name for name in means.backends}
    return lambda view: names.get(fill(view))


# Matchers


def _bytes(path: str) -> bytes:
    return path.encode("utf-8", "surrogateescape")


def _paths(values: tuple[str, ...]) -> list[bytes]:
    return [_bytes(value) for value in values]


_MATCHERS: dict[str, Callable[[Any, Means], Test]] = {
    "host": lambda value, means: match.host(value),
    "path_exact": lambda value, means: match.path_exact(_paths(value)),
    "path": lambda value, means: match.path(_paths(value)),
    "starts_with": lambda value, means: match.starts_with(_paths(value)),
    "method": lambda value, means: match.method(value),
    "tls": lambda value, means: match.tls(value),
    "port": lambda value, means: match.port(value),
    "protocol": lambda value, means: match.protocol(value),
    "tls_version": lambda value, means: match.tls_version(value),
    "sni": lambda value, means: match.sni(value),
    "alpn": lambda value, means: match.alpn(value),
    "client_subject": lambda value, means: match.client_subject(value, means.unsafe_regex),
    "source": lambda value, means: match.source(value),
    "header": lambda value, means: match.header(value, means.unsafe_regex),
    "query": lambda value, means: match.query(value, means.unsafe_regex),
    "cookie": lambda value, means: match.cookie(value, means.unsafe_regex),
    "map": lambda value, means: match.in_map(value, means.maps, means.unsafe_regex),
    "path_glob": lambda value, means: match.path_glob(value),
    "path_regex": lambda value, means: match.path_regex(value, means.unsafe_regex),
    "all": lambda value, means: match.every([_whole(one, means) for one in value]),
    "any": lambda value, means: match.either([_whole(one, means) for one in value]),
    "not_": lambda value, means: match.neither(_whole(value, means)),
}
"""In the order in which they are tried: the cheap ones first."""


def _tests(where: Match, means: Means) -> Iterator[tuple[str, Test]]:
    for name, make in _MATCHERS.items():
        if name in where.model_fields_set and getattr(where, name) is not None:
            key = name.rstrip("_")
            with named(key):
                yield key, make(getattr(where, name), means)


def _whole(where: Match, means: Means) -> Test:
    return match.every([test for _, test in _tests(where, means)])


_BY_PATH = frozenset({"path", "path_exact", "path_glob", "path_regex", "starts_with"})


def _by_path(section: RuleSection, config: Config) -> bool:
    """Whether a rule decides by the path."""
    maps = _path_maps(config)
    return _matches_path(section.match, maps) or _name_path(template.variables(section.backend or ""), maps)


def _path_maps(config: Config) -> frozenset[str]:
    """Maps whose keys depend on the path."""
    names = [one.name for one in config.maps if _name_path(template.variables(one.template), frozenset())]
    return frozenset(names)


def _name_path(variables: Iterable[str], maps: Set[str]) -> bool:
    """Whether one of these is a variable of the path, or one of these maps."""
    families = [name.partition(".") for name in variables]
    return any(family == "path" or (family == "map" and name in maps) for family, _, name in families)


def _matches_path(where: Match, maps: Set[str]) -> bool:
    if where.model_fields_set & _BY_PATH or maps & where.map.keys():
        return True
    inner = (*where.all, *where.any, *([where.not_] if where.not_ is not None else []))
    return any(_matches_path(one, maps) for one in inner)
