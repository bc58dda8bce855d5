"""From the sections of rules and maps to `pylb.rules`: what workers, ``explain`` and ``check`` ask.

Above `model`, below `trials`. Whatever can't be made of them raises `Unusable` with the key.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pylb.config.files import read_regular
from pylb.config.model import Config, Frontend, Match
from pylb.config.model import Map as MapSection
from pylb.config.model import Rule as RuleSection
from pylb.rules import match, split, template
from pylb.rules.decision import Ending, Rule, Rules
from pylb.rules.maps import Map
from pylb.rules.match import Test
from pylb.rules.view import View

LARGEST_MAP = 64 * 1024 * 1024
"""Bytes of a map's file."""


class Unusable(ValueError):
    """A key's value can't be used; ``key`` is its path below the frontend or map."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f"{key}: {why}")
        self.key = key
        self.why = why


@contextmanager
def _named(key: str) -> Iterator[None]:
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

    def template(self, text: str) -> template.Template:
        """A text with variables; raises ValueError."""
        return template.compile(text, {name: one.text for name, one in self.maps.items()})


def empty_maps(config: Config) -> dict[str, Map]:
    """The maps by name, before their files are read; raises `Unusable`."""
    return {section.name: _map(number, section) for number, section in enumerate(config.maps)}


def _map(number: int, section: MapSection) -> Map:
    with _named(f"map[{number}].key"):
        key = template.compile(section.template, decoded=True)
    return Map(section.name, section.kind, key, hosts=section.template == "{host}")


def read_maps(config: Config) -> dict[str, Map]:
    """The maps by name, with what their files hold.

    Raises:
        OSError: a file can't be read.
        Unusable: a key or a line is no good.
    """
    maps = empty_maps(config)
    for number, section in enumerate(config.maps):
        one = maps[section.name]
        one.version, text = read_map(section.file)
        with _named(f"map[{number}].file: {section.file}"):
            one.read(text)
    return maps


def read_map(path: str, unless: object = None) -> tuple[object, bytes]:
    """A map's file and its version; empty where that is still ``unless``. Raises OSError."""
    about = os.stat(path)
    version = about.st_mtime_ns, about.st_size, about.st_ino
    return version, b"" if version == unless else read_regular(path, LARGEST_MAP)


def compiled(
    config: Config, frontend: Frontend, maps: Mapping[str, Map], places: Mapping[str, Any] | None = None
) -> Rules | None:
    """A frontend's rules; None where it has none.

    Args:
        maps: by name.
        places: by name, what stands for a backend in decisions.

    Raises:
        Unusable: with a key below the frontend.
    """
    if not frontend.rules:
        return None
    means = Means(frozenset(backend.name for backend in config.backends), maps, config.unsafe_regex)
    rules = []
    for number, section in enumerate(frontend.rules):
        with _named(f"rule[{number}]"):
            rules.append(_rule(number, section, means))
    return Rules(
        rules,
        frontend.backend,
        trusted=[ipaddress.ip_network(network) for network in frontend.trusted_proxies],
        tls=frontend.tls is not None,
        lenient=frontend.ambiguous_paths == "pass",
        by_path=any(_by_path(section.match, config) for section in frontend.rules),
        places=places,
    )


def _rule(number: int, section: RuleSection, means: Means) -> Rule:
    where = section.match
    with _named("match"):
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
        _edits(section, means),
        hosts=tuple(host.encode() for host in where.host),
        paths=tuple(_bytes(path) for path in paths),
        exact=exact,
        indexed=frozenset(indexed),
    )


# Actions


def _ending(section: RuleSection, means: Means) -> Ending | None:
    if section.backend is not None:
        with _named("backend"):
            return Ending("backend", _backend(section.backend, means))
    if section.split:
        return Ending("backend", split.splitter(section.split, section.split_by))
    return None


def _backend(text: str, means: Means) -> str | Callable[[View], str | None]:
    if not template.variables(text):
        return text
    fill = means.template(text)
    names = {name.encode(): name for name in means.backends}
    return lambda view: names.get(fill(view))


def _edits(section: RuleSection, means: Means) -> Any:
    """What a rule edits; None where it edits nothing."""
    return None


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
            with _named(key):
                yield key, make(getattr(where, name), means)


def _whole(where: Match, means: Means) -> Test:
    return match.every([test for _, test in _tests(where, means)])


_BY_PATH = frozenset({"path", "path_exact", "path_glob", "path_regex", "starts_with"})


def _by_path(where: Match, config: Config) -> bool:
    """Whether a match looks at the path."""
    if where.model_fields_set & _BY_PATH:
        return True
    maps = {section.name: section.template for section in config.maps}
    if any("path" in template.variables(maps.get(name, ""))[:1] for name in where.map):
        return True
    inner = (*where.all, *where.any, *([where.not_] if where.not_ is not None else []))
    return any(_by_path(one, config) for one in inner)
