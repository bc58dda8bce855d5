"""What must hold for rules and requests of any kind."""

from __future__ import annotations

import ipaddress
import posixpath
import re
from unittest.mock import patch
from urllib.parse import unquote_to_bytes

from hypothesis import given, settings
from hypothesis import strategies as st

from pylb.config import routing
from pylb.config.load import ConfigError, from_document
from pylb.config.model import Match
from pylb.http.errors import Refused
from pylb.http.request import HeadLimits, RequestHead
from pylb.rules import glob, index, normal, template
from pylb.rules.decision import Rules, Step
from pylb.rules.maps import Map
from tests.rules.cases import SCENARIOS
from tests.rules.requests import BACKENDS, Facts, seen
from tests.rules.test_cases import rules

examples = settings(deadline=None, max_examples=150)

# Few of each, so that requests are like rules.
HOSTS = ["a.x", "b.x", "c.b.x", "x", "y"]
SEGMENTS = ["a", "b", "ab", "", ".", "..", "%61", "%2e%2e", "a;b", "%2f"]
paths = st.lists(st.sampled_from(SEGMENTS), max_size=4).map(lambda parts: "/" + "/".join(parts))
plain_paths = st.lists(st.sampled_from(["a", "b", "ab"]), max_size=3).map(lambda parts: "/" + "/".join(parts))
prefixes = st.one_of(plain_paths, plain_paths.map(lambda path: path.rstrip("/") + "/"))
matches = st.fixed_dictionaries(
    {},
    optional={
        "host": st.lists(st.sampled_from([*HOSTS, "*.x", "*.b.x"]), min_size=1, max_size=2),
        "path": st.lists(prefixes, min_size=1, max_size=2),
        "path_exact": plain_paths,
        "path_regex": st.sampled_from(["^/(a)", "b$", "(?P<x>a|b)/"]),
        "path_glob": st.sampled_from(["*", "/a/*", "/**/b", "a*"]),
        "method": st.sampled_from(["GET", "POST"]),
        "header": st.sampled_from([{"X-A": True}, {"X-A": "1"}, {"x_a": {"prefix": "1"}}]),
        "query": st.sampled_from([{"q": True}, {"q": ["1", "2"]}]),
    },
)  # fmt: skip
nested = st.one_of(
    matches,
    st.tuples(matches, matches.filter(bool)).map(lambda both: {**both[0], "not": both[1]}),
    st.tuples(matches, matches.filter(bool), matches.filter(bool)).map(
        lambda three: {**three[0], "any": [three[1], three[2]]}
    ),
)
backends = st.sampled_from([*BACKENDS[:4], "app-{re.x}", "app-{re.1}", "{path.1}"])
documents = st.lists(st.tuples(nested, backends), min_size=1, max_size=8)
requests = st.tuples(
    st.sampled_from(["GET", "POST"]),
    paths,
    st.sampled_from(["", "?q", "?q=2", "?q=3"]),
    st.sampled_from([*HOSTS, "A.X", "b.x.", "c.B.x:80"]),
    st.sampled_from(["", "X-A: 1\r\n", "x_a: 2\r\nX-A: 12\r\n"]),
)


def compiled(some: list[tuple[dict[str, object], str]]) -> Rules:
    document = {
        "frontend": {
            **{"name": "f", "bind": "127.0.0.1:80", "backend": "site"},
            "rule": [{"match": match, "backend": backend} for match, backend in some],
        },
        "backend": [{"name": name, "server": "127.0.0.1:9"} for name in BACKENDS],
    }
    config = from_document(document)
    made = routing.compiled(config, config.frontends[0], {})
    assert made is not None
    return made


def led(rules: Rules, head: RequestHead, trace: list[Step] | None) -> tuple[object, ...]:
    """The outcome, and what regexes have found."""
    view = seen(rules, head)
    try:
        decision = rules.decide(view, trace)
    except Refused as refused:
        return refused.status, refused.reason
    return decision.kind, decision.backend, decision.rule, view.groups


@examples
@given(documents, st.lists(requests, min_size=1, max_size=8), st.sampled_from([0, 2, 64]))
def test_the_index_finds_what_looking_at_every_rule_finds(
    some: list[tuple[dict[str, object], str]], asked: list[tuple[str, str, str, str, str]], few: int
) -> None:
    made = compiled(some)
    with patch.object(index, "_FEW", few):
        compare(made, asked)


def compare(made: Rules, asked: list[tuple[str, str, str, str, str]]) -> None:
    for method, path, query, host, fields in asked:
        head = RequestHead(b"192.0.2.9", b"127.0.0.1:80", b"http", HeadLimits())
        head.read(f"{method} {path}{query} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n".encode())
        assert led(made, head, None) == led(made, head, [])


anything = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(-1, 70000),
        st.text("/*.a(?P<x>)[]{}\\%\0é ", max_size=8),
        st.sampled_from(["10.0.0.0/8", "/a", "a.x", "GET", "h2", "{path.1}", "{re.x}", "m"]),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=2),
        st.dictionaries(
            st.sampled_from([*Match.model_fields, "not", "prefix", "regex", "m", "X"]), inner, max_size=2
        ),
    ),
    max_leaves=5,
)
tests = st.one_of(
    st.just(True),
    st.text("ax", max_size=2),
    st.dictionaries(st.sampled_from(["prefix", "regex"]), st.text("a.*+(|)", max_size=6), min_size=1),
)
named = st.dictionaries(st.sampled_from(["x", "X", "a-b"]), tests, min_size=1, max_size=2)
plausible = {
    **dict.fromkeys(["header", "query", "cookie"], named),
    **dict.fromkeys(["path", "path_exact", "starts_with"], st.text("a/.%5é", max_size=6).map("/".__add__)),
    "path_regex": st.text("ab.*+?(|)^$[]/", max_size=12),
    "path_glob": st.text("a*/", max_size=6),
    "map": st.one_of(st.just("m"), tests.map(lambda test: {"m": test})),
    "source": st.sampled_from(["192.0.2.0/24", "::/0", "::1"]),
    "client_subject": tests,
    "host": st.sampled_from(["a.x", "*.x", "[::1]", "A.X."]),
}
keys = st.sampled_from([*plausible, "not", "any", "tls", "port"])
sensible = st.one_of(*(value.map(lambda one, key=key: {key: one}) for key, value in plausible.items()))  # type: ignore[misc]
nesting = st.one_of(
    sensible, sensible, sensible.map(lambda one: {"not": one}), st.dictionaries(keys, anything, max_size=1)
)
written = st.one_of(
    st.sampled_from(["site", "app-{re.x}", "{path.1}", "{map.m}", "{host.1}{{"]), st.text("{}a.1", max_size=9)
)


@examples
@given(st.lists(nesting, max_size=3), written, st.one_of(st.none(), st.none(), anything))
def test_any_rule_works_or_is_refused_with_its_key(
    parts: list[dict[str, object]], backend: str, split: object
) -> None:
    match = {key: value for part in parts for key, value in part.items()}
    rule = {"match": match, **({"backend": backend} if split is None else {"split": split})}
    document = {
        "frontend": {"name": "f", "bind": "127.0.0.1:80", "backend": "site", "rule": [rule]},
        "backend": [{"name": name, "server": "127.0.0.1:9"} for name in BACKENDS],
        "map": {"name": "m", "file": "/f"},
    }
    try:
        config = from_document(document)
        made = routing.compiled(config, config.frontends[0], routing.empty_maps(config))
    except ConfigError as error:
        assert all("rule[0]" in problem for problem in error.problems)
    except routing.Unusable as error:
        assert error.key.startswith("rule[0].")
    else:
        assert made is not None
        head = RequestHead(b"192.0.2.9", b"127.0.0.1:80", b"http", HeadLimits())
        head.read(b"GET /a/b?x HTTP/1.1\r\nHost: a.x\r\nX: a\r\nCookie: x=a\r\n\r\n")
        assert led(made, head, None) == led(made, head, [])


visible = st.text(st.characters(min_codepoint=33, max_codepoint=126), max_size=40)
values = st.text(st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=40)
names = st.sampled_from(["Cookie", "X-Forwarded-For", "X-Debug", "x_version", "Accept", "User-Agent", "X-Id"])


@examples
@given(st.sampled_from(list(SCENARIOS)), visible, visible, st.lists(st.tuples(names, values), max_size=4))
def test_no_request_raises_anything_but_a_refusal(
    scenario: str, path: str, host: str, fields: list[tuple[str, str]]
) -> None:
    trusts = (lambda address: False) if "trusted_proxies" in SCENARIOS[scenario].keys else None
    head = RequestHead(b"127.0.0.1", b"127.0.0.1:80", b"http", HeadLimits(), trusts=trusts)
    lines = [f"GET /{path} HTTP/1.1", f"Host: {host}", *(f"{name}: {value}" for name, value in fields)]
    try:
        head.read("\r\n".join([*lines, "", ""]).encode("latin-1"))
    except Refused:
        return
    made = rules(scenario)
    for facts in (Facts(source=("127.0.0.1", 5)), Facts(source=None, protocol="HTTP/2")):
        view = seen(made, head, facts)
        try:
            decision = made.decide(view)
        except Refused as refused:
            assert (refused.status, refused.reason) in {(400, "path"), (400, "regex")}
        else:
            assert decision.backend in BACKENDS


@examples
@given(st.text(st.characters(min_codepoint=0, max_codepoint=255), max_size=60), st.text("{}a.b", max_size=12))
def test_no_value_adds_a_line(value: str, text: str) -> None:
    head = RequestHead(b"192.0.2.9", b"127.0.0.1:80", b"http", HeadLimits())
    quoted = "".join(f"%{ord(byte):02x}" for byte in value)
    head.read(f"GET /{quoted}?a={quoted} HTTP/1.1\r\nHost: x\r\nCookie: a={quoted}\r\n\r\n".encode())
    view = seen(rules("ambiguous and passed"), head)
    for variable in ("path", "path.1", "argument.a", "uri", "query", "cookie.a"):
        assert not re.search(rb"[\x00-\x1f\x7f]", template.compile(f"<{{{variable}}}>")(view))
    try:
        template.compile(text)(view)
    except ValueError as error:
        assert "{" in str(error) or "}" in str(error)


@examples
@given(st.text("/.ab%2eEfF5cC;\\0", max_size=24).map(lambda text: b"/" + text.encode()))
def test_a_path_is_one_that_no_server_can_read_otherwise(raw: bytes) -> None:
    try:
        path = normal.path(raw)
    except normal.Ambiguous:
        return
    assert path == normal.path(path.replace(b"%", b"%25"))
    assert not {b"", b".", b".."} & set(path[1:].split(b"/")[:-1])
    assert posixpath.normpath(path) == b"/" + posixpath.normpath(unquote_to_bytes(raw)).lstrip(b"/")
    assert normal.lenient(raw) == path


@examples
@given(st.text("/*a", min_size=1, max_size=8), st.text("/ab", max_size=10))
def test_globs_are_like_the_expressions_that_they_stand_for(pattern: str, rest: str) -> None:
    if re.search(r"\*\*", pattern) and any("**" in part and part != "**" for part in pattern.split("/")):
        return
    path = "/" + rest
    if "/" not in pattern:
        expression = r"/(?:.*/)?" + pattern.replace("**", "*").replace("*", "[^/]*")
    else:
        parts = pattern.removeprefix("/").split("/")
        spelled = "".join("(?:/[^/]*)*" if one == "**" else "/" + one.replace("*", "[^/]*") for one in parts)
        expression = spelled
    assert glob.compile(pattern.encode())(path.encode()) == bool(re.fullmatch(expression, path))


@examples
@given(
    st.lists(st.tuples(st.integers(0, 7), st.integers(0, 8)), max_size=8),
    st.integers(0, 7),
    st.sampled_from(["10.0.0.", "2001:db8::"]),
)
def test_the_longest_network_is_found(networks: list[tuple[int, int]], last: int, base: str) -> None:
    most = ipaddress.ip_address(base + "0").max_prefixlen
    made = [ipaddress.ip_network(f"{base}{number}/{most - bits}", strict=False) for number, bits in networks]
    one = Map("m", "network", template.compile(""))
    one.read("".join(f"{network} {network.prefixlen}\n" for network in made).encode())
    address = ipaddress.ip_address(f"{base}{last}")
    expected = max((network.prefixlen for network in made if address in network), default=None)
    assert one.find(str(address).encode()) == (None if expected is None else b"%d" % expected)
