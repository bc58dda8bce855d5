"""Edits of fields: what is set, added, cut and replaced, and that no value ever makes a line of its own."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pylb.config.load import ConfigError, with_files
from pylb.http.errors import Refused
from pylb.http.request import HeadLimits, RequestHead
from pylb.http.response import read_response
from pylb.rules.plan import Plan
from tests.rules.requests import configuration, head_of, rules_of, seen

ALWAYS = "[[rule]]\n"
TOLD = ("X-Forwarded-Proto", "X-Forwarded-For", "X-Forwarded-Host", "Host")


def plan(text: str, head: RequestHead) -> Plan:
    """What rules do to a request."""
    rules = rules_of(text)
    view = seen(rules, head)
    return Plan(rules.decide(view).edits, view)


def request(text: str, head: RequestHead) -> list[str]:
    """The lines that the server gets."""
    return plan(text, head).request(head.printed()).decode("latin-1").split("\r\n")[:-2]


def response(text: str, *lines: str, status: int = 200, own: bool = False, target: str = "/") -> list[str]:
    """The lines that the client gets of a server's response."""
    raw = "\r\n".join([f"HTTP/1.1 {status} X", *lines, "Content-Length: 0", "", ""]).encode("latin-1")
    out = plan(text, head_of(target)).response(read_response(raw, False), own).out
    return out.decode("latin-1").split("\r\n")[1:-2]


BEFORE = ["A: 1", "X-A: 2", "x_a: 3", "X-A-B: 4", "B: 5"]
ALL = 'remove = "X-A", set = { X-A = "7" }, add = { X-A = "8" }, replace = { X-A = { regex = ".", to = "" } }'


@pytest.mark.parametrize(
    ("text", "after"),
    [
        ('remove = "X-A"', ["A: 1", "X-A-B: 4", "B: 5"]),
        ('remove = ["x_a-*", "B"]', ["A: 1", "X-A: 2", "x_a: 3"]),
        ('remove = "X-A*"', ["A: 1", "B: 5"]),
        ('set = { X-A = "{host}" }', ["A: 1", "X-A-B: 4", "B: 5", "X-A: example.org"]),
        ('set = { X-A = "" }', ["A: 1", "X-A-B: 4", "B: 5"]),
        ('set = { X-A = "{header.none}" }', ["A: 1", "X-A-B: 4", "B: 5"]),
        ('set = { N = "v", M = "{method}", L = "w" }', [*BEFORE, "N: v", "M: GET", "L: w"]),
        ('add = { X-A = ["6", "{path}"] }', [*BEFORE, "X-A: 6", "X-A: /p"]),
        (
            'replace = { X-A = { regex = "([0-9])", to = "<{re.1}{host}>" } }',
            ["A: 1", "X-A: <2example.org>", "x_a: <3example.org>", "X-A-B: 4", "B: 5"],
        ),
        ('replace = { X-A = { regex = "9", to = "" } }', BEFORE),
        (ALL, ["A: 1", "X-A-B: 4", "B: 5", "X-A: 7", "X-A: 8"]),
    ],
)
def test_edits(text: str, after: list[str]) -> None:
    lines = request(f"{ALWAYS}request_headers = {{ {text} }}", head_of("/p", *BEFORE))
    assert lines[0] == "GET /p HTTP/1.1"
    assert len([line for line in lines if line.startswith(TOLD)]) == len(TOLD)
    assert [line for line in lines[1:] if not line.startswith(TOLD)] == after
    got = response(
        f"{ALWAYS}response_headers = {{ {text} }}".replace("{method}", "GET"), *BEFORE, target="/p"
    )
    assert [line for line in got if line != "Content-Length: 0"] == after
    assert got.count("Content-Length: 0") == 1


def test_rules_edit_one_after_the_other() -> None:
    text = ALWAYS + 'request_headers.set.A = "1"\n'
    text += ALWAYS + 'request_headers.replace.A = { regex = "1", to = "2" }\n'
    text += ALWAYS + 'request_headers.add.A = "3"\nbackend = "api"\n' + ALWAYS + 'request_headers.add.A = "4"'
    assert [line for line in request(text, head_of("/")) if line.startswith("A:")] == ["A: 2", "A: 3"]


@pytest.mark.parametrize(
    ("when", "status", "lines", "holds"),
    [
        ("status = 404", 404, [], True),
        ("status = [301, 404]", 200, [], False),
        ('status = "5xx"', 599, [], True),
        ('status = ["4xx", 200]', 200, [], True),
        ('header = { A = "1" }', 200, ["a: 1"], True),
        ('header = { A = "1" }', 200, ["a: 2", "A: 1"], True),
        ('header = { A = "1" }', 200, ["a: 2"], False),
        ("header = { A = true }", 200, [], False),
        ('header = { A = { regex = "^x" } }', 200, ["A: xy"], True),
        ('status = 200, header = { A = "1" }', 404, ["A: 1"], False),
    ],
)
def test_conditions_on_the_response(when: str, status: int, lines: list[str], holds: bool) -> None:
    text = f'{ALWAYS}response = [{{ when = {{ {when} }}, set = {{ B = "1" }} }}]'
    assert ("B: 1" in response(text, *lines, status=status)) is holds
    assert ("B: 1" in response(text, *lines, status=status, own=True)) is holds


LOCATION = """location = [
    { from = "http://in.example/", to = "https://{host}/" }, { regex = "^/v[0-9]", to = "/api" }
]"""
COOKIE = "set_cookie = [{ %s }]"


@pytest.mark.parametrize(
    ("text", "line", "becomes"),
    [
        (LOCATION, "Location: http://in.example/x?y", "Location: https://example.org/x?y"),
        (LOCATION, "Location: http://in.example.evil/", "Location: http://in.example.evil/"),
        (LOCATION, "location: /v2/x", "location: /api/x"),
        (LOCATION, "Location: /w2/x", "Location: /w2/x"),
        (LOCATION, "Content-Location: /v2/x", "Content-Location: /v2/x"),
        (COOKIE % 'path = "/a"', "Set-Cookie: s=1", "Set-Cookie: s=1; Path=/a"),
        (
            COOKIE % 'path = "/a"',
            "Set-Cookie: s=1; path=/b; Path=/c; Secure",
            "Set-Cookie: s=1; Secure; Path=/a",
        ),
        (
            COOKIE % 'path = { from = "/b", to = "/a" }',
            "Set-Cookie: s; Path=/b/c",
            "Set-Cookie: s; Path=/a/c",
        ),
        (COOKIE % 'path = { from = "/b", to = "/" }', "Set-Cookie: s; Path=/b", "Set-Cookie: s; Path=/"),
        (COOKIE % 'path = { from = "/", to = "/a" }', "Set-Cookie: s; Path=/", "Set-Cookie: s; Path=/a/"),
        (COOKIE % 'path = { from = "/b", to = "/a" }', "Set-Cookie: s; Path=/bc", "Set-Cookie: s; Path=/bc"),
        (COOKIE % 'path = { from = "/b", to = "/a" }', "Set-Cookie: s", "Set-Cookie: s"),
        (COOKIE % 'domain = ""', "Set-Cookie: s; Domain=.x; HttpOnly", "Set-Cookie: s; HttpOnly"),
        (COOKIE % 'domain = "{host}"', "Set-Cookie: s; domain = x", "Set-Cookie: s; Domain=example.org"),
        (
            COOKIE % 'domain = { from = "x.y", to = "z" }',
            "Set-Cookie: s; Domain=.X.y",
            "Set-Cookie: s; Domain=z",
        ),
        (
            COOKIE % 'domain = { from = "x.y", to = "z" }',
            "Set-Cookie: s; Domain=w",
            "Set-Cookie: s; Domain=w",
        ),
        (COOKIE % "secure = true", "Set-Cookie: s; secure; a", "Set-Cookie: s; a; Secure"),
        (COOKIE % "secure = false", "Set-Cookie: s; Secure", "Set-Cookie: s"),
        (COOKIE % "http_only = true", "Set-Cookie: s", "Set-Cookie: s; HttpOnly"),
        (COOKIE % 'same_site = "None"', "Set-Cookie: s; SameSite=Lax", "Set-Cookie: s; SameSite=None"),
        (COOKIE % 'same_site = ""', "Set-Cookie: s; SameSite=Lax", "Set-Cookie: s"),
        (COOKIE % 'cookie = "t", secure = true', "Set-Cookie: s=t", "Set-Cookie: s=t"),
        (COOKIE % 'cookie = ["s", "t"], secure = true', "Set-Cookie: t=s", "Set-Cookie: t=s; Secure"),
    ],
)
def test_names_that_only_servers_know(text: str, line: str, becomes: str) -> None:
    assert response(ALWAYS + text, line) == [becomes, "Content-Length: 0"]
    assert response(ALWAYS + text, line, own=True) == [line, "Content-Length: 0"]


FRAMING = ["Content-Length", "transfer_encoding", "Connection", "TE", "Upgrade", "Keep-Alive", "Trailer"]


@pytest.mark.parametrize("table", ["request_headers", "response_headers"])
@pytest.mark.parametrize("name", [*FRAMING, "a b", "", "*"])
def test_what_frames_a_message_is_out_of_reach(table: str, name: str) -> None:
    for key in (
        'set."%s" = "1"',
        'add."%s" = "1"',
        'remove = "%s"',
        'replace."%s" = { regex = "a", to = "" }',
    ):
        with pytest.raises(ConfigError) as error:
            with_files(configuration(f"{ALWAYS}{table}.{key % name}"))
        assert error.value.problems[0].startswith(f"frontend[0].rule[0].{table}: ")


def test_a_star_leaves_alone_what_frames_a_message() -> None:
    lines = response(ALWAYS + 'response_headers.remove = ["C*", "T*"]', "Cache-Control: no-store", "Tag: 1")
    assert lines == ["Content-Length: 0"]
    lines = request(ALWAYS + 'request_headers.remove = ["H*", "C*"]', head_of("/", "Cookie: a=b", "Hint: 1"))
    assert lines[:2] == ["GET / HTTP/1.1", "Host: example.org"]
    assert all(line.startswith(TOLD) for line in lines[1:])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('request_headers.set.Host = "a"', "rule[0].request_headers: Host can't be edited; use rewrite.host"),
        ('request_headers.set.A = "{nothing}"', "rule[0].request_headers: no variable {nothing}"),
        ('request_headers.set.A = "a\\nb"', "control characters have no place in a field"),
        (
            'request_headers.replace.A = { regex = "(", to = "" }',
            "rule[0].request_headers: no regular expression",
        ),
        ('rewrite.path = "/a?b"', "rule[0].rewrite.path: a path has no question mark; use rewrite.query"),
        ('rewrite.path = "a"', "rule[0].rewrite.path: a path begins with /"),
        ('rewrite.path = { prefix = "/a", regex = "b", to = "/" }', "prefix and regex both say"),
        ('rewrite.host = "a b"', "rule[0].rewrite.host: 'a b' is no host"),
        ('location = { to = "/" }', "rule[0].location[0]: either from or regex"),
        ('redirect = { to = "https", keep_path = true }', "leave keep_path and keep_query out"),
        ('redirect = { to = "/", status = 300 }', "rule[0].redirect.status: input should be 301, 302, 303"),
        ('answer = { body = "a", file = "b" }', "rule[0].answer: body and file both say"),
        ('answer.headers.Content-Length = "1"', "rule[0].answer.headers: Content-Length can't be edited"),
        ('answer = { file = "/nowhere/page" }', "rule[0].answer.file: /nowhere/page: No such file"),
        ("deny = 200", "rule[0].deny: input should be greater than or equal to 400"),
        ("deny = 403\ndrop = true", "rule[0]: deny and drop both say where a request ends"),
        ('error_page = { status = 200, body = "" }', "rule[0].error_page[0]: a page is for errors"),
        (
            'error_page = { status = "6xx", body = "" }',
            'expected a status from 200 to 599, one such as "5xx"',
        ),
        ("error_page = { status = 500 }", "rule[0].error_page[0]: set file or body"),
    ],
)
def test_mistakes_are_found_at_load(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        with_files(configuration(ALWAYS + text))
    assert any(says in problem for problem in error.value.problems), error.value.problems


WILD = """
[[rule]]
match = { path_regex = "/(.*)" }
[rule.request_headers.set]
A = "{header.x}{cookie.c}{argument.q}"
B = "{query}"
C = "{re.1} {uri} {path}"
D = "{host}"
[rule.request_headers.replace]
X = { regex = "(.*)b(.*)", to = "{re.2}{header.y}{re.1}" }
[rule.response_headers.set]
A = "{header.x} {cookie.c}"
B = "{argument.q}{re.1}{path}"
[rule.rewrite]
path = { regex = "a(.*)", to = "{header.y}{re.1}{argument.q}" }
query = { set = { a = "{header.x}", b = "{argument.q}{re.1}" } }
[[rule.location]]
from = "/"
to = "/{header.x}/{re.1}/"
[[rule.set_cookie]]
path = "/{header.y}/{argument.q}"
domain = "{header.x}"
"""
_RULES = rules_of(WILD)
_LINE = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*")
_FORWARDED = {b"X-Forwarded-" + name for name in (b"For", b"Host", b"Proto", b"Prefix")}
values = st.text(st.characters(min_codepoint=9, max_codepoint=255), max_size=12).map(
    lambda text: re.sub(r"[\x0a-\x1f\x7f]", "", text)
)
targets = st.lists(
    st.sampled_from(
        [*"ab/?=&+;", "%0d%0a", "%0A", "%20", "%25", "%3f", "%23", "%ff", "..", ".", "%00", "%2e", "%2f"]
    ),
    max_size=8,
).map("".join)


def lines_of(head: bytes) -> list[bytes]:
    """The names of a head's lines, all of which are found good."""
    lines = head.split(b"\r\n")
    assert lines[-2:] == [b"", b""]
    assert all(_LINE.fullmatch(line) for line in lines[1:-2]), head
    return [line.partition(b":")[0] for line in lines[1:-2]]


@given(targets, values, values, values)
def test_no_input_adds_a_line_and_heads_stay_readable(target: str, x: str, y: str, cookie: str) -> None:
    head = head_of("/" + target, f"X: {x}", f"Y: {y}", f"Cookie: c={cookie}")
    view = seen(_RULES, head)
    try:
        one = Plan(_RULES.decide(view).edits, view, True)
    except Refused as refused:
        assert refused.status == 400
        return
    out = one.request(head.printed())
    again = RequestHead(b"192.0.2.1", b"h", b"http", HeadLimits(1 << 20, 1 << 20, 1000))
    again.read(out)
    names = lines_of(out)
    assert len(names) == len(set(names))
    assert set(names) <= {b"Host", b"X", b"Y", b"Cookie", b"A", b"B", b"C", b"D"} | _FORWARDED
    if one.target is not None and one.target.path != view.raw_path:
        path = again.target.partition(b"?")[0]
        assert re.search(rb"//|/\.\.?(/|$)", path) is None
    raw = b"HTTP/1.1 200 OK\r\nLocation: /a\r\nSet-Cookie: a=b; Domain=c; Path=/\r\nContent-Length: 5\r\n\r\n"
    edited = one.response(read_response(raw, False), False).out
    assert read_response(edited, False).content_length == 5
    assert set(lines_of(edited)) <= {b"A", b"B", b"Location", b"Set-Cookie", b"Content-Length"}
    (cookies,) = [line for line in edited.split(b"\r\n") if line.startswith(b"Set-Cookie")]
    assert cookies.count(b";") <= 2
