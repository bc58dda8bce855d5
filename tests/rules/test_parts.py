"""Templates, regular expressions, maps, shares and clients' addresses, each by itself."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from pylb.config.load import ConfigError, with_files
from pylb.rules import regex, template
from pylb.rules.decision import Step
from pylb.rules.maps import BadMap, Map
from pylb.rules.split import splitter
from pylb.rules.view import View
from tests.rules.requests import Facts, configuration, head_of, rules_of, seen

ALWAYS = '[[rule]]\nbackend = "api"'


def view_of(target: str = "/", *fields: str, facts: Facts | None = None, **head: str) -> View:
    return seen(rules_of(ALWAYS), head_of(target, *fields, **head), facts)  # type: ignore[arg-type]


FACTS = Facts(("192.0.2.9", 5), "127.0.0.1:443", "HTTP/1", {"authority": b"A.Example"}, "TLSv1.3", b"CN=x")


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("plain", b"plain"),
        ("{{{method}}}", b"{GET}"),
        ("{scheme}://{host}:{port}{uri}", b"http://shop.example:443/A%20b/c?x=1&y=%0d"),
        ("{path}|{path.1}|{path.2}|{path.3}", b"/A%20b/c|A%20b|c|"),
        ("{raw_path}|{query}", b"/A%20b/c|x=1&y=%0d"),
        ("{host.1}.{host.2}.{host.3}", b"shop.example."),
        ("{header.X-Tag}|{header.x_tag}|{header.None}", b"one|one|"),
        ("{cookie.a}|{cookie.b}|{cookie.c}", b"1|2|"),
        ("{argument.x}|{argument.y}", b"1|"),
        ("{client.ip}|{client.peer}", b"192.0.2.9|192.0.2.9"),
        ("{protocol}|{tls.sni}|{tls.version}|{tls.subject}", b"http/1.1|a.example|1.3|CN=x"),
        ("{request.id}", b"r-1"),
    ],
)
def test_a_text_is_filled_in(text: str, filled: bytes) -> None:
    fields = ("X-Tag: one", "X-Tag: two", 'Cookie: a=1; b="2"', "X-Request-ID: r-1")
    view = view_of("/A%20b//x/../c?x=1&y=%0d", *fields, host="SHOP.example:8080", facts=FACTS)
    if "raw_path" in text or "uri" in text:
        view = view_of("/A%20b/c?x=1&y=%0d", host="SHOP.example:8080", facts=FACTS)
    assert template.compile(text)(view) == filled


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{clientip}", "no variable {clientip}; did you mean {client.ip}?"),
        ("{x}", "no variable {x}; known: method,"),
        ("a{b", "a single {; write {{ for a brace"),
        ("a}b", "a single }; write }} for a brace"),
        ("{path.0}", "{path.0}: expected a number from 1"),
        ("{map.tenant}", "{map.tenant}: no map 'tenant'; did you mean 'tenants'?"),
    ],
)
def test_a_text_that_cannot_be_filled_in(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        template.compile(text, {"tenants": lambda view: b""})


def test_an_ambiguous_path_in_a_text_is_read_leniently() -> None:
    assert template.compile("{path}")(view_of("/x%2f..;a/b")) == b"/b"


# Regular expressions


def test_without_a_linear_engine_they_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regex, "re2", None)
    config = configuration('[[rule]]\nmatch = { path_regex = "(.*)*b" }\nbackend = "api"')
    with pytest.raises(
        ConfigError, match=r"frontend\[0\].rule\[0\].match.path_regex: regular expressions need"
    ):
        with_files(config)
    rules = rules_of('unsafe_regex = true\n[[rule]]\nmatch = { path_regex = "a(?=b)" }\nbackend = "api"')
    assert rules.decide(seen(rules, head_of("/xab"))).backend == "api"


def test_an_expression_that_takes_for_ever_elsewhere_takes_no_time() -> None:
    pytest.importorskip("re2")
    assert regex.Regex(r"^(.*)*\.php$").search(b"/" + b"a" * 4000) is None


@pytest.mark.parametrize("text", ["a(", r"(a)\1", "(?=a)"])
def test_what_is_no_expression_is_said(text: str) -> None:
    pytest.importorskip("re2")
    with pytest.raises(ValueError, match="no regular expression that RE2 knows: "):
        regex.Regex(text)


def test_an_input_that_is_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(regex, "re2", None)
    one = regex.Regex("^/x", unsafe=True)
    with pytest.raises(regex.TooLong):
        one.search(b"/" * (regex.LONGEST_UNSAFE + 1))


def test_what_a_regex_has_found_is_forgotten_with_its_rule() -> None:
    rules = rules_of(
        '[[rule]]\nmatch = { path_regex = "^/(?P<a>.)", not.path_regex = "(?P<b>x)" }\nbackend = "api"\n'
        '[[rule]]\nmatch = { any = [{ path_regex = "(?P<c>x).*", method = "POST", not = { path = "/x" } }, '
        '{ header = { X-A = { regex = "(?P<d>.)" } } }] }\nbackend = "shop"\n'
    )
    for trace in (None, list[Step]()):
        view = seen(rules, head_of("/x", "X-A: 7"))
        assert rules.decide(view, trace).backend == "shop"
        assert view.groups == {"1": b"7", "d": b"7"}


# Maps


def filled(kind: str, text: bytes) -> Map:
    one = Map("m", kind, template.compile("{host}"))  # type: ignore[arg-type]
    one.read(text)
    return one


@pytest.mark.parametrize(
    ("kind", "text", "says"),
    [
        ("prefix", b"/a x\nb y\n", "line 2: a path begins with /"),
        ("prefix", b"/a%2fb x\n", "line 1: servers read this path in different ways"),
        (
            "network",
            b"\n10.0.0.256 x\n",
            "line 2: '10.0.0.256' does not appear to be an IPv4 or IPv6 network",
        ),
        ("network", b"10.0.0.1/8 x\n", "line 1: 10.0.0.1/8 has host bits set"),
    ],
)
def test_a_maps_mistake_is_told_by_its_line(kind: str, text: bytes, says: str) -> None:
    with pytest.raises(BadMap, match=re.escape(says)):
        filled(kind, text)


def test_a_maps_lines() -> None:
    one = filled("exact", b"a 1\r\n# b 2\n\n  c   3 4 \nd\na 5")
    assert [one.find(key) for key in (b"a", b"b", b"#", b"c", b"d")] == [b"1", None, None, b"3 4", b""]
    assert one.entries == 3


def test_a_map_of_any_number_of_pieces() -> None:
    one = filled("exact", b"")
    reading = one.reading(b"a 1\nb 2\nc 3\n")
    assert [reading.step(1) for _ in range(4)] == [False, False, False, True]
    one.take(reading)
    assert one.find(b"c") == b"3"


def test_a_map_whose_file_is_no_good_is_said(tmp_path: Path) -> None:
    config = configuration(f'[[map]]\nname = "m"\nfile = "{tmp_path}/m"\nkind = "network"\n{ALWAYS}')
    with pytest.raises(ConfigError, match=r"map\[0\].file: .*/m: No such file"):
        with_files(config)
    (tmp_path / "m").write_text("x\n")
    with pytest.raises(ConfigError, match=r"map\[0\].file: .*/m: line 1: 'x' does not appear"):
        with_files(config)
    with pytest.raises(ConfigError, match=r"rule\[0\].match.map: no map 'n'; none is defined"):
        with_files(configuration('[[rule]]\nmatch = { map = "n" }\nbackend = "api"'))


# Shares


def test_shares_are_as_large_as_they_should_be_and_stay() -> None:
    views = [view_of("/", f"X-Id: {number}") for number in range(2000)]
    before, after = (splitter({"stable": 100 - part, "canary": part}, "header:X-Id") for part in (5, 20))
    first, then = [before(view) for view in views], [after(view) for view in views]
    assert 60 < Counter(first)["canary"] < 140
    assert 320 < Counter(then)["canary"] < 480
    assert all(later == "canary" for sooner, later in zip(first, then, strict=True) if sooner == "canary")


def test_two_splits_dont_part_the_same_clients() -> None:
    views = [view_of(facts=Facts((f"198.51.{n >> 8}.{n & 255}", 5))) for n in range(1000)]
    one, other = splitter({"a": 1, "b": 1}, "source"), splitter({"c": 1, "d": 1}, "source")
    assert min(Counter((one(view), other(view)) for view in views).values()) > 150


def test_by_chance_where_nothing_stays_the_same() -> None:
    view = view_of()
    for by in (None, "cookie:id"):
        split = splitter({"a": 3, "b": 1, "c": 0}, by)
        found = Counter(split(view) for _ in range(800))
        assert found.keys() == {"a", "b"} and found["a"] > found["b"]


# Clients


@pytest.mark.parametrize(
    ("peer", "fields", "client"),
    [
        ("192.0.2.9", ["X-Forwarded-For: 198.51.100.7"], b"192.0.2.9"),
        ("10.0.0.1", ["X-Forwarded-For: 198.51.100.7"], b"198.51.100.7"),
        ("10.0.0.1", [], b"10.0.0.1"),
        ("10.0.0.1", ["X-Forwarded-For: 1.1.1.1, 198.51.100.7, 10.0.0.2"], b"198.51.100.7"),
        ("10.0.0.1", ["X-Forwarded-For: 1.1.1.1", "X-Forwarded-For: 198.51.100.7"], b"198.51.100.7"),
        ("10.0.0.1", ["X-Forwarded-For: 10.0.0.3, 10.0.0.2"], b"10.0.0.3"),
        ("10.0.0.1", ["X-Forwarded-For: junk, 10.0.0.2"], b"10.0.0.2"),
        ("10.0.0.1", ["X-Forwarded-For: 198.51.100.7:80"], b"198.51.100.7"),
        ("10.0.0.1", ["X-Forwarded-For: [2001:DB8::7]:80"], b"2001:db8::7"),
        ("10.0.0.1", ["X-Forwarded-For: ::ffff:198.51.100.7"], b"::ffff:198.51.100.7"),
        ("10.0.0.1", ["X-Forwarded-For: 198.51.100.7" + ", 10.0.0.3" * 31], b"198.51.100.7"),
        ("10.0.0.1", ["X-Forwarded-For: 198.51.100.7" + ", 10.0.0.3" * 32], b"10.0.0.3"),
        ("::ffff:10.0.0.1", ["X-Forwarded-For: 198.51.100.7"], b"198.51.100.7"),
    ],
)
def test_the_client_is_the_rightmost_that_is_no_trusted_proxy(
    peer: str, fields: list[str], client: bytes
) -> None:
    rules = rules_of(ALWAYS, trusted_proxies=["10.0.0.0/8"])
    head = head_of("/", *fields, trusted=peer != "192.0.2.9")
    assert seen(rules, head, Facts((peer, 5))).client == client


def test_a_client_on_a_unix_socket_has_no_address() -> None:
    rules = rules_of('[[rule]]\nmatch = { source = "0.0.0.0/0" }\nbackend = "api"')
    view = seen(rules, head_of(), Facts(None, "unix:/run/x"))
    assert (rules.decide(view).backend, view.client, view.port) == ("site", b"", 0)


@pytest.mark.parametrize(
    ("facts", "version", "backend"),
    [
        (Facts(bind="[::1]:8080"), "HTTP/1.1", "api"),
        (Facts(protocol="HTTP/2"), "HTTP/1.1", "shop"),
        (Facts(), "HTTP/1.0", "admin"),
        (Facts(), "HTTP/1.1", "site"),
    ],
)
def test_ports_and_protocols(facts: Facts, version: str, backend: str) -> None:
    rules = rules_of(
        '[[rule]]\nmatch = { port = [8080, 8081] }\nbackend = "api"\n'
        '[[rule]]\nmatch = { protocol = "h2" }\nbackend = "shop"\n'
        '[[rule]]\nmatch = { protocol = "http/1.0", tls = false }\nbackend = "admin"\n'
    )
    assert rules.decide(seen(rules, head_of(version=version), facts)).backend == backend
