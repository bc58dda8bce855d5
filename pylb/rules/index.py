"""Which of many rules can match a request: found by its host and by the prefixes of its path.

A thousand routes cost about as much as one: hosts and paths are keys of dictionaries, and the rules of a key
come in the order of the file, among them those that ask for no host or no path. What else a rule asks for is
tested afterwards.

Floor: below `decision`, whose rules it is given (by what they have, see `Indexed`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, TypeVar

from pylb.rules.view import View


class Indexed(Protocol):
    """A rule."""

    number: int
    hosts: tuple[bytes, ...]
    paths: tuple[bytes, ...]
    exact: bool


R = TypeVar("R", bound=Any)


class _Site:
    """The rules of one host, of one ``*.`` pattern, or those of any host, by their paths."""

    __slots__ = ("exact", "prefix", "rest", "longest")

    def __init__(self, rules: Iterable[Any]) -> None:
        exact: dict[bytes, set[int]] = {}
        prefix: dict[bytes, set[int]] = {}
        rest: set[int] = set()
        by_number = {rule.number: rule for rule in rules}
        for number, rule in by_number.items():
            if not rule.paths:
                rest.add(number)
            for path in rule.paths:
                where = exact if rule.exact else prefix
                where.setdefault(path if rule.exact else path.rstrip(b"/"), set()).add(number)

        def ordered(numbers: set[int]) -> tuple[Any, ...]:
            return tuple(by_number[number] for number in sorted(numbers))

        def above(path: bytes) -> set[int]:
            found = set(rest)
            while path:
                found |= prefix.get(path, set())
                path = path[: path.rfind(b"/")] if b"/" in path else b""
            return found | prefix.get(b"", set())

        self.rest = ordered(rest)
        self.prefix = {path: ordered(above(path)) for path in prefix}
        self.exact = {path: ordered(numbers | above(path.rstrip(b"/"))) for path, numbers in exact.items()}
        self.longest = max(map(len, prefix), default=0)

    def candidates(self, path: bytes) -> tuple[Any, ...]:
        """The rules for a path, in their order."""
        found = self.exact.get(path)
        if found is not None:
            return found
        prefix = self.prefix
        if not prefix or path[:1] != b"/":
            return self.rest
        longest = self.longest
        if len(path) > longest:
            # Cut where a key can end: at the last slash that isn't behind the longest one's end.
            path = path[: max(path.rfind(b"/", 0, longest + 1), 0)]
        while True:
            found = prefix.get(path)
            if found is not None:
                return found
            if not path:
                return self.rest
            path = path[: path.rfind(b"/")]


class Index:
    """Rules by host and path."""

    def __init__(self, rules: Sequence[Any]) -> None:
        by_host: dict[bytes, list[Any]] = {}
        anywhere: list[Any] = []
        for rule in rules:
            if not rule.hosts:
                anywhere.append(rule)
            for host in rule.hosts:
                by_host.setdefault(host, []).append(rule)
        self._by_path = any(rule.paths for rule in rules)
        self._any = _Site(anywhere)
        sites = {host: _Site(some) for host, some in by_host.items()}
        self._hosts = {host: site for host, site in sites.items() if not host.startswith(b"*.")}
        self._below = {host[2:]: site for host, site in sites.items() if host.startswith(b"*.")}
        self._labels = max((host.count(b".") for host in self._below), default=-1) + 1
        self._merged: dict[tuple[tuple[Any, ...], ...], tuple[Any, ...]] = {}

    def candidates(self, view: View) -> tuple[Any, ...]:
        """The rules whose hosts and paths a request's are among, in their order."""
        path = view.path if self._by_path else b""
        found = self._any.candidates(path)
        if self._hosts:
            site = self._hosts.get(view.host)
            if site is not None:
                found = _merged(found, site.candidates(path))
        if self._below:
            name = view.host
            for _ in range(name.count(b".")):
                name = name.partition(b".")[2]
                site = self._below.get(name)
                if site is not None:
                    found = _merged(found, site.candidates(path))
        return found


def _merged(one: tuple[Any, ...], other: tuple[Any, ...]) -> tuple[Any, ...]:
    """Both in the order of the file, each rule once."""
    if not one or not other:
        return one or other
    by_number = {rule.number: rule for rule in one + other}
    return tuple(by_number[number] for number in sorted(by_number))
