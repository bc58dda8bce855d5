"""Which of many rules can match a request: found by its host and by the prefixes of its path.

A thousand routes cost about as much as one: hosts and paths are keys of dictionaries, and the rules of a key
come in the order of the file, among them those that ask for no host or no path. What else a rule asks for is
tested afterwards.

Floor: below `decision`, whose rules it is given (by what they have, see `Indexed`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Generic, Protocol, TypeVar

from pylb.rules.view import View

_REMEMBERED = 4096
"""Spellings of hosts, and pairs of nodes, that are remembered; strangers choose the former."""
_FEW = 64
"""Up to so many rules of any host, or of a pattern, are put into each host's site, where they cost no look-up
of their own."""


class Indexed(Protocol):
    """A rule."""

    @property
    def number(self) -> int:
        """Its position in the file."""

    @property
    def hosts(self) -> tuple[bytes, ...]:
        """Hosts and ``*.`` patterns; none: any host."""

    @property
    def paths(self) -> tuple[bytes, ...]:
        """Prefixes, or whole paths; none: any path."""

    @property
    def exact(self) -> bool:
        """Whether they are whole paths."""

    @property
    def final(self) -> bool:
        """Whether no rule after it can be asked, once the index has given it."""


R = TypeVar("R", bound=Indexed)


class Node(Generic[R]):
    """Rules in the order of the file, up to the first after which there is no other."""

    __slots__ = ("rules", "only")

    def __init__(self, rules: Iterable[R]) -> None:
        by_number = {rule.number: rule for rule in rules}
        ordered = [by_number[number] for number in sorted(by_number)]
        end = next((at + 1 for at, rule in enumerate(ordered) if rule.final), len(ordered))
        self.rules = tuple(ordered[:end])
        self.only: R | None = ordered[0] if end == 1 and ordered[0].final else None
        """The first rule, where nothing else can be asked."""


class _Site(Generic[R]):
    """The rules of one host, of one ``*.`` pattern, or those of any host, by their paths."""

    __slots__ = ("rules", "_exact", "_prefix", "_rest", "_longest")

    def __init__(self, rules: Sequence[R]) -> None:
        self.rules = rules
        exact: dict[bytes, list[R]] = {}
        prefix: dict[bytes, list[R]] = {}
        rest: list[R] = []
        for rule in rules:
            if not rule.paths:
                rest.append(rule)
            for path in rule.paths:
                if rule.exact:
                    exact.setdefault(path, []).append(rule)
                else:
                    prefix.setdefault(path.rstrip(b"/"), []).append(rule)

        def above(path: bytes) -> list[R]:
            """What is for a path because it is for one that contains it."""
            found = rest + prefix.get(b"", [])
            while path:
                found += prefix.get(path, [])
                path = path[: path.rfind(b"/")]
            return found

        self._rest = Node(rest)
        self._prefix = {path: Node(above(path)) for path in prefix}
        self._exact = {path: Node([*some, *above(path.rstrip(b"/"))]) for path, some in exact.items()}
        self._longest = max(map(len, prefix), default=0)

    def node(self, path: bytes) -> Node[R]:
        """The rules for a path."""
        if self._exact:
            found = self._exact.get(path)
            if found is not None:
                return found
        prefix = self._prefix
        if not prefix or path[:1] != b"/":
            return self._rest
        longest = self._longest
        if len(path) > longest:
            # Cut where a key can end: at the last slash that isn't behind the longest one's end.
            path = path[: path.rfind(b"/", 0, longest + 1)]
        while True:
            found = prefix.get(path)
            if found is not None:
                return found
            if not path:
                return self._rest
            path = path[: path.rfind(b"/")]


class Index(Generic[R]):
    """Rules by host and path."""

    def __init__(self, rules: Sequence[R]) -> None:
        by_host: dict[bytes, list[R]] = {}
        anywhere: list[R] = []
        for rule in rules:
            if not rule.hosts:
                anywhere.append(rule)
            for host in rule.hosts:
                by_host.setdefault(host, []).append(rule)
        self._none: _Site[R] = _Site(())
        self._any = _Site(anywhere) if anywhere else None
        self._hosts = {host: _Site(some) for host, some in by_host.items()}
        self._labels = max((host.count(b".") for host in by_host if host.startswith(b"*.")), default=0)
        self._sites: dict[bytes | None, list[_Site[R]]] = {}
        self._joined: dict[tuple[_Site[R], ...], _Site[R]] = {}
        self._merged: dict[tuple[Node[R], Node[R]], Node[R]] = {}

    def node(self, view: View, path: bytes) -> Node[R]:
        """The rules whose hosts and paths a request's are among."""
        sites = self._sites.get(view.head.host)
        if sites is None:
            sites = self._sites_of(view)
        node = sites[0].node(path)
        if len(sites) > 1:
            for site in sites[1:]:
                node = self._both(node, site.node(path))
        return node

    def _sites_of(self, view: View) -> list[_Site[R]]:
        """Those of the host as it is spelled, of each pattern that it is like, and of any host."""
        host = view.host
        sites = [] if self._any is None else [self._any]
        if host in self._hosts:
            sites.append(self._hosts[host])
        parts = host.split(b".")
        for first in range(max(1, len(parts) - self._labels), len(parts)):
            pattern = b"*." + b".".join(parts[first:])
            if pattern in self._hosts:
                sites.append(self._hosts[pattern])
        if len(self._sites) >= _REMEMBERED:
            self._sites.clear()
        if len(sites) > 1:
            sites = self._together(sites)
        self._sites[view.head.host] = sites or [self._none]
        return sites or [self._none]

    def _together(self, sites: list[_Site[R]]) -> list[_Site[R]]:
        """One site in place of several, unless that would repeat many rules for many hosts."""
        sizes = sorted(len(site.rules) for site in sites)
        if sum(sizes[:-1]) > _FEW:
            return sites
        key = tuple(sites)
        if key not in self._joined:
            self._joined[key] = _Site([rule for site in sites for rule in site.rules])
        return [self._joined[key]]

    def _both(self, one: Node[R], other: Node[R]) -> Node[R]:
        if not one.rules or not other.rules:
            return one if one.rules else other
        pair = (one, other)
        node = self._merged.get(pair)
        if node is None:
            if len(self._merged) >= _REMEMBERED:
                self._merged.clear()
            node = self._merged[pair] = Node(one.rules + other.rules)
        return node
