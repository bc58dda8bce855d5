"""Which of many rules can match a request: found by its host and by the prefixes of its path.

A thousand routes cost about as much as one: hosts and paths are keys of dictionaries, and the rules of a key
come in the order of the file, among them those that ask for no host or no path. What else a rule asks for is
tested afterwards.

Floor: below `decision`, whose rules it is given (by what they have, see `Indexed`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Generic, Protocol, TypeVar

from pylb.rules.view import View

_REMEMBERED = 4096
"""Spellings of hosts, and pairs of nodes, that are remembered; strangers choose the former."""
_LONGEST_HOST = 253
"""Bytes of a host that is remembered; DNS has no longer ones."""
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

    @property
    def constant(self) -> Any:
        """What it leads to if no rule before has matched; None where that depends on the request."""


R = TypeVar("R", bound=Indexed)


class Node(Generic[R]):
    """Rules in the order of the file, up to the first after which there is no other."""

    __slots__ = ("rules", "constant")

    def __init__(self, rules: Iterable[R]) -> None:
        by_number = {rule.number: rule for rule in rules}
        ordered = [by_number[number] for number in sorted(by_number)]
        end = next((at + 1 for at, rule in enumerate(ordered) if rule.final), len(ordered))
        self.rules = tuple(ordered[:end])
        self.constant: Any = ordered[0].constant if end == 1 and ordered[0].final else None
        """What all requests lead to, where that is known; for each, one object less to look at."""


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
        self._exact: dict[bytes, Node[R]] | None = None
        if exact:
            self._exact = {path: Node([*some, *above(path.rstrip(b"/"))]) for path, some in exact.items()}
        self._longest = max(map(len, prefix), default=0)

    def node(self, path: bytes) -> Node[R]:
        """The rules for a path."""
        if self._exact is not None:
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


class _Sites(Generic[R]):
    """Several sites in one, whose rules are too many to be put together beforehand."""

    __slots__ = ("_sites", "_merged")

    def __init__(self, sites: Sequence[_Site[R]]) -> None:
        self._sites = sites
        self._merged: dict[tuple[Node[R], ...], Node[R]] = {}

    def node(self, path: bytes) -> Node[R]:
        """The rules of all of them for a path."""
        nodes = tuple([site.node(path) for site in self._sites])
        node = self._merged.get(nodes)
        if node is None:
            if len(self._merged) >= _REMEMBERED:
                self._merged.clear()
            node = self._merged[nodes] = Node([rule for some in nodes for rule in some.rules])
        return node


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
        self._any = _Site(anywhere)
        self._hosts = {host: _Site(some) for host, some in by_host.items()}
        self._labels = max((host.count(b".") for host in by_host if host.startswith(b"*.")), default=0)
        self._known: dict[bytes | None, _Site[R] | _Sites[R]] = {}
        self._joined: dict[tuple[_Site[R], ...], _Site[R] | _Sites[R]] = {}

    def node(self, view: View, path: bytes) -> Node[R]:
        """The rules whose hosts and paths a request's are among."""
        site = self._known.get(view.head.host)
        if site is None:
            site = self._site(view)
        return site.node(path)

    def _site(self, view: View) -> _Site[R] | _Sites[R]:
        """That of a host: its own, those of patterns that it is like, and that of any host, as one."""
        host = view.host
        sites = [self._any] if self._any.rules else []
        if host in self._hosts:
            sites.append(self._hosts[host])
        parts = host.split(b".")
        for first in range(max(1, len(parts) - self._labels), len(parts)):
            pattern = b"*." + b".".join(parts[first:])
            if pattern in self._hosts:
                sites.append(self._hosts[pattern])
        site = self._together(tuple(sites)) if sites else self._any
        if len(host) <= _LONGEST_HOST:
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[view.head.host] = site
        return site

    def _together(self, sites: tuple[_Site[R], ...]) -> _Site[R] | _Sites[R]:
        """One site in place of several; with a node for each path only where that repeats few rules."""
        if len(sites) == 1:
            return sites[0]
        joined = self._joined.get(sites)
        if joined is None:
            few = sum(sorted(len(site.rules) for site in sites)[:-1]) <= _FEW
            joined = _Site([rule for site in sites for rule in site.rules]) if few else _Sites(sites)
            self._joined[sites] = joined
        return joined
