"""Matchers: functions of a view that say whether one key of a rule's ``match`` holds.

Where a client has sent a field, cookie or parameter several times, a matcher holds if any of its values does:
a rule that denies must not be dodged by sending another value beside the first.

Floor: above `regex`, `maps` and `view`. A matcher sets `View.groups` to a new dictionary, and never changes
the one that is there, so that whoever tries a rule can go back to it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping, Sequence

from pylb.rules import glob
from pylb.rules.maps import Map
from pylb.rules.regex import Regex
from pylb.rules.template import did_you_mean, encoded
from pylb.rules.text import Text as Text
from pylb.rules.view import Network, View, address_of, field_name

Test = Callable[[View], bool]
TextTest = Callable[[bytes, View], bool]

_REMEMBERED = 4096
"""Addresses whose networks are remembered."""


def text(wanted: Text, unsafe: bool) -> TextTest:
    """Compares a value; raises ValueError for a bad expression."""
    if wanted.present:
        return lambda value, view: True
    equal = frozenset(one.encode() for one in wanted.equal)
    prefix = tuple(one.encode() for one in wanted.prefix)
    suffix = tuple(one.encode() for one in wanted.suffix)
    contains = [one.encode() for one in wanted.contains]
    regexes = [Regex(one, unsafe) for one in wanted.regex]

    def compare(value: bytes, view: View) -> bool:
        return (
            value in equal
            or value.startswith(prefix)
            or value.endswith(suffix)
            or any(one in value for one in contains)
            or any(_search(regex, value, view) for regex in regexes)
        )

    return compare


def _search(regex: Regex, subject: bytes, view: View, path: bool = False) -> bool:
    match = regex.search(subject)
    if match is None:
        return False
    if regex.groups:
        found = regex.found(match)
        if path:
            found = {name: encoded(value) for name, value in found.items()}
        view.groups = {**view.groups, **found}
    return True


def host(patterns: Sequence[str]) -> Test:
    """One of these hosts; ``*.name`` is every host below it, at any depth."""
    exact = frozenset(one.encode() for one in patterns if not one.startswith("*."))
    below = tuple(one[1:].encode() for one in patterns if one.startswith("*."))
    return lambda view: view.host in exact or (bool(below) and view.host.endswith(below))


def sni(patterns: Sequence[str]) -> Test:
    """One of these names asked for by TLS, as `host`."""
    exact = frozenset(one.encode() for one in patterns if not one.startswith("*."))
    below = tuple(one[1:].encode() for one in patterns if one.startswith("*."))

    def test(view: View) -> bool:
        name = view.sni
        return name in exact or (bool(below) and name.endswith(below))

    return test


def path(prefixes: Sequence[bytes]) -> Test:
    """The path is one of these, or below it; one that ends with a slash is for what is below it alone."""
    exact = frozenset(prefixes)
    below = tuple(one if one.endswith(b"/") else one + b"/" for one in prefixes)
    return lambda view: view.path in exact or view.path.startswith(below)


def path_exact(paths: Sequence[bytes]) -> Test:
    """The normalised path is one of these."""
    wanted = frozenset(paths)
    return lambda view: view.path in wanted


def starts_with(prefixes: Sequence[bytes]) -> Test:
    """The normalised path begins with one of these bytes, also within a segment."""
    wanted = tuple(prefixes)
    return lambda view: view.path.startswith(wanted)


def path_regex(expressions: Sequence[str], unsafe: bool) -> Test:
    """One of these is found in the normalised path."""
    regexes = [Regex(one, unsafe) for one in expressions]
    return lambda view: any(_search(regex, view.path, view, True) for regex in regexes)


def path_glob(patterns: Sequence[str]) -> Test:
    """The normalised path is like one of these (`glob`)."""
    globs = [glob.compile(one.encode()) for one in patterns]
    if len(globs) == 1:
        (like,) = globs
        return lambda view: like(view.path)
    return lambda view: any(like(view.path) for like in globs)


def method(methods: Sequence[str]) -> Test:
    """One of these methods."""
    wanted = frozenset(one.encode() for one in methods)
    return lambda view: view.method in wanted


def _values(get: Callable[[View, bytes], list[bytes]], tests: Sequence[tuple[bytes, TextTest]]) -> Test:
    """For each name, one of its values is as wanted."""

    def test(view: View) -> bool:
        for name, compare in tests:
            for value in get(view, name):
                if compare(value, view):
                    break
            else:
                return False
        return True

    return test


def header(wanted: Mapping[str, Text], unsafe: bool) -> Test:
    """Fields of the request."""
    tests = [(field_name(name), text(one, unsafe)) for name, one in wanted.items()]
    return _values(View.fields, tests)


def query(wanted: Mapping[str, Text], unsafe: bool) -> Test:
    """Parameters of the query."""
    return _values(View.arguments, [(name.encode(), text(one, unsafe)) for name, one in wanted.items()])


def cookie(wanted: Mapping[str, Text], unsafe: bool) -> Test:
    """Cookies."""
    return _values(View.cookies, [(name.encode(), text(one, unsafe)) for name, one in wanted.items()])


def source(networks: Sequence[str]) -> Test:
    """The client's address is in one of these networks."""
    parsed: list[Network] = [ipaddress.ip_network(one) for one in networks]
    known: dict[bytes, bool] = {}

    def test(view: View) -> bool:
        client = view.client
        within = known.get(client)
        if within is None:
            address = address_of(client)
            if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
                address = address.ipv4_mapped
            within = address is not None and any(address in network for network in parsed)
            if len(known) >= _REMEMBERED:
                known.clear()
            known[client] = within
        return within

    return test


def alpn(protocols: Sequence[str]) -> Test:
    """One of the protocols that TLS agreed on; of TLS that passes through, those that the client offers."""
    wanted = frozenset(one.encode() for one in protocols)
    return lambda view: not wanted.isdisjoint(view.alpn)


def client_subject(wanted: Text, unsafe: bool) -> Test:
    """The subject of the client's certificate; without one there is none to compare."""
    compare = text(wanted, unsafe)

    def test(view: View) -> bool:
        subject = view.subject
        return bool(subject) and compare(subject, view)

    return test


def tls(wanted: bool) -> Test:
    """Whether TLS ended here."""
    return lambda view: view.tls is wanted


def tls_version(versions: Sequence[str]) -> Test:
    """The version of TLS."""
    return lambda view: view.tls_version in versions


def protocol(protocols: Sequence[str]) -> Test:
    """What the client speaks."""
    return lambda view: view.protocol in protocols


def port(ports: Sequence[int]) -> Test:
    """The port that the client connected to."""
    return lambda view: view.port in ports


def in_map(wanted: Mapping[str, Text], maps: Mapping[str, Map], unsafe: bool) -> Test:
    """For each map, the key is there, with a value as wanted; raises ValueError for a map that isn't."""
    for name in wanted:
        if name not in maps:
            raise ValueError(f"no map {name!r}; {did_you_mean(name, maps)}")
    tests = [(maps[name], text(one, unsafe)) for name, one in wanted.items()]

    def test(view: View) -> bool:
        for one, compare in tests:
            value = one.value(view)
            if value is None or not compare(value, view):
                return False
        return True

    return test


def every(tests: Sequence[Test]) -> Test:
    """All of them hold; if not, what their regexes have found is forgotten."""
    if len(tests) == 1:
        return tests[0]  # it has found nothing where it doesn't hold

    def test(view: View) -> bool:
        groups = view.groups
        for one in tests:
            if not one(view):
                view.groups = groups
                return False
        return True

    return test


def either(tests: Sequence[Test]) -> Test:
    """One of them holds."""

    def test(view: View) -> bool:
        groups = view.groups
        for one in tests:
            if one(view):
                return True
            view.groups = groups
        return False

    return test


def neither(unwanted: Test) -> Test:
    """It doesn't hold; what its regexes have found is forgotten."""

    def test(view: View) -> bool:
        groups = view.groups
        held = unwanted(view)
        view.groups = groups
        return not held

    return test
