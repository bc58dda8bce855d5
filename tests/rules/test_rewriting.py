"""Rewriting, redirects, answers and error pages, as tables."""

from __future__ import annotations

import pytest

from pylb.config import changes
from pylb.http.errors import Answer, Refused
from pylb.rules.answers import Page, Pages
from pylb.rules.plan import Plan
from tests.rules.requests import head_of, rules_of, seen
from tests.rules.test_edits import ALWAYS


def asked(rewrite: str, target: str, *fields: str) -> tuple[str, str]:
    """The request line's target and the host that a server gets; or a refusal."""
    rules = rules_of(f"{ALWAYS}rewrite = {{ {rewrite} }}", ambiguous_paths="refuse")
    head = head_of(target, *fields)
    view = seen(rules, head)
    try:
        plan = Plan(rules.decide(view).edits, view)
    except Refused as refused:
        return f"{refused.status} {refused.reason}", ""
    lines = plan.request(head.printed()).decode("latin-1").split("\r\n")
    (host,) = [line for line in lines if line.startswith("Host:")]
    return lines[0].split(" ")[1], host[6:]


PREFIX = 'path = { prefix = "/api", to = "/v2" }'
OFF = 'path = { prefix = "/api/", to = "/" }'
BEFORE = 'path = { prefix = "/", to = "/app" }'
REGEX = 'path = { regex = "^/(?P<a>[^/]*)/(.*)$", to = "/{re.2}/{re.a}" }'
QUERY = 'query = { set = { a = "{header.X-A}" }, remove = ["b", "c d"] }'


@pytest.mark.parametrize(
    ("rewrite", "target", "becomes"),
    [
        (PREFIX, "/api", "/v2"),
        (PREFIX, "/api/", "/v2/"),
        (PREFIX, "/api/x?y", "/v2/x?y"),
        (PREFIX, "/apis", "/apis"),
        (PREFIX, "/x/api", "/x/api"),
        (PREFIX, "/API/x", "/API/x"),
        (PREFIX, "/%61pi/x", "/v2/x"),
        (PREFIX, "/api/%78%20y", "/v2/%78%20y"),  # what follows stays as the client wrote it
        (PREFIX, "//api//x", "/v2/x"),
        (PREFIX, "/x/../api/y", "/v2/y"),
        (PREFIX, "/api/../x", "/api/../x"),
        (PREFIX, "/api/x/../y", "/v2/y"),
        (PREFIX, "/api/x%2fy", "400 path"),
        (PREFIX, "/api/..;/x", "400 path"),
        (OFF, "/api", "/"),
        (OFF, "/api/x", "/x"),
        (BEFORE, "/", "/app/"),
        (BEFORE, "/x", "/app/x"),
        (REGEX, "/x/y/z?q", "/y/z/x?q"),
        (REGEX, "/x", "/x"),
        (REGEX, "/a%20b/%c3%a9", "/%C3%A9/a%20b"),
        (REGEX, "/a%3fb/c%23", "/c%23/a%3Fb"),
        (REGEX, "/a/b?c=%0d", "/b/a?c=%0d"),
        ('path = "/fixed x"', "/a?b", "/fixed%20x?b"),
        ('path = "/{path.1}"', "/a%20b/c", "/a%20b"),
        ('path = "/{header.X-A}"', "/a", "/1%20&"),
        ('path = "/{argument.q}"', "/?q=..%2f..%2fetc", "400 path"),
        ('path = "/{argument.q}"', "/?q=a%252fb", "400 path"),
        ('path = "/{argument.q}"', "/?q=a%3fb%23c", "/a%3Fb%23c?q=a%3fb%23c"),
        ('path = "{argument.q}"', "/?q=//evil.example", "/evil.example?q=//evil.example"),
        ('query = ""', "/a?b", "/a"),
        ('query = "x={query}"', "/a?b=1", "/a?x=b=1"),
        ('query = "{header.X-A}#"', "/a", "/a?1%20&%23"),
        (QUERY, "/?b=1&x=2&%62=3&c+d=4&a=5&y", "/?x=2&y&a=1%20%26"),
        (QUERY, "/", "/?a=1%20%26"),
        ('query = { remove = "b" }', "/?b=1", "/"),
        (PREFIX + ", " + QUERY, "/api?b", "/v2?a=1%20%26"),
    ],
)
def test_paths_and_queries(rewrite: str, target: str, becomes: str) -> None:
    assert asked(rewrite, target, "X-A: 1 &")[0] == becomes


@pytest.mark.parametrize(
    ("rewrite", "field", "becomes"),
    [
        ('host = "app.internal:8080"', "X-A: 1", "app.internal:8080"),
        ('host = "{header.X-A}.internal"', "X-A: a", "a.internal"),
        ('host = "{header.X-A}"', "X-A: a b", ""),
        ('host = "{header.X-A}"', "X-A: a/b", ""),
        ('host = "{header.X-B}"', "X-A: a", ""),
    ],
)
def test_hosts(rewrite: str, field: str, becomes: str) -> None:
    said, host = asked(rewrite, "/", field)
    assert (said, host) == (("/", becomes) if becomes else ("400 host", ""))


def test_rewrites_follow_each_other_and_a_star_is_none() -> None:
    two = PREFIX + " }\n" + ALWAYS + 'rewrite = { path = { prefix = "/v2/x", to = "/y" }'
    assert asked(two, "/api/x/z")[0] == "/y/z"
    rules = rules_of(ALWAYS + f"rewrite = {{ {BEFORE} }}")
    head = head_of("*", method="OPTIONS")
    view = seen(rules, head)
    assert Plan(rules.decide(view).edits, view).request(head.printed()).startswith(b"OPTIONS * HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("trusted", "field", "told"),
    [
        (False, "X-A: 1", "X-Forwarded-Prefix: /api"),
        (False, "X-Forwarded-Prefix: /forged", "X-Forwarded-Prefix: /api"),
        (True, "X-Forwarded-Prefix: /outer/", "X-Forwarded-Prefix: /outer/api"),
    ],
)
def test_the_server_is_told_what_was_taken_off(trusted: bool, field: str, told: str) -> None:
    rules = rules_of(f"{ALWAYS}rewrite = {{ {OFF} }}")
    for target in ("/api/x", "/x"):
        head = head_of(target, field, trusted=trusted)
        view = seen(rules, head)
        out = Plan(rules.decide(view).edits, view, True).request(head.printed()).decode()
        lines = [line for line in out.split("\r\n") if line.startswith("X-Forwarded-Prefix")]
        assert lines == ([told] if target == "/api/x" else [field] if trusted else [])


def answer_of(text: str, target: str = "/", *fields: str, host: str = "shop.example") -> Answer:
    """What a rule answers."""
    rules = rules_of(ALWAYS + text)
    view = seen(rules, head_of(target, *fields, host=host))
    answer = rules.decide(view).action(view)
    assert isinstance(answer, Answer)
    assert answer.head.out.endswith(b"\r\n\r\n")
    return answer


@pytest.mark.parametrize(
    ("redirect", "target", "status", "location"),
    [
        ('"https"', "/a?b", 308, "https://shop.example/a?b"),
        ('{ to = "https", status = 301 }', "/", 301, "https://shop.example/"),
        ('"https://{host}{uri}"', "/a?b", 302, "https://shop.example/a?b"),
        ('"/new"', "/a?b", 302, "/new"),
        ('{ to = "/new/", keep_path = true }', "/a?b", 302, "/new/a"),
        ('{ to = "/new", keep_query = true, status = 303 }', "/a?b", 303, "/new?b"),
        ('{ to = "/new?x", keep_query = true }', "/a?b", 302, "/new?x&b"),
        ('{ to = "/new", keep_query = true }', "/a", 302, "/new"),
        ('{ to = "https://new.example", keep_path = true, keep_query = true, status = 307 }', "/a/?b", 307,
         "https://new.example/a/?b"),
        ('"{uri}"', "//evil.example/", 302, "/evil.example/"),
        ('"{uri}"', "/\\evil.example/", 302, "/evil.example/"),
        ('{ to = "", keep_path = true }', "//evil.example/", 302, "/evil.example/"),
        ('"//cdn.example{path}"', "/a%20b", 302, "//cdn.example/a%20b"),
        ('"/{argument.q}"', "/?q=a%0d%0aSet-Cookie:%20b%c3", 302, "/aSet-Cookie:%20b%C3"),
    ],
)  # fmt: skip
def test_redirects(redirect: str, target: str, status: int, location: str) -> None:
    answer = answer_of(f"redirect = {redirect}", target)
    assert answer.head.status == status
    lines = answer.head.out.decode().split("\r\n")
    assert lines[1:] == [f"Location: {location}", "Content-Length: 0", "", ""]


def test_a_redirect_to_https_needs_a_host() -> None:
    with pytest.raises(Refused):
        answer_of('redirect = "https"', host="")
    assert b"https://a/" in answer_of('redirect = "https"', host="a:8080").head.out


def test_answers() -> None:
    one = answer_of('answer = { body = "{a}", headers = { A = "{host}", B = "{header.none}" } }')
    assert (one.head.status, one.body) == (200, b"{a}")
    assert b"Content-Type: text/plain; charset=utf-8\r\nA: shop.example\r\nContent-Length: 3" in one.head.out
    assert b"B:" not in one.head.out
    one = answer_of('answer = { body = "<p>", headers = { content-type = "text/html" } }')
    assert one.head.out.lower().count(b"content-type") == 1
    for status in (204, 304):
        one = answer_of(f'answer = {{ status = {status}, body = "x" }}')
        assert (one.body, b"Content-Length" in one.head.out) == (b"", False)
    assert answer_of("answer = { status = 599 }").head.out.startswith(b"HTTP/1.1 599 \r\n")
    one = answer_of("deny = 429")
    assert (one.error, one.head.status, one.body) == (True, 429, b"429 Too Many Requests\n")


def test_pages() -> None:
    pages = Pages(
        [
            Page((404,), b"first", "text/html", False),
            Page((404, 500), b"second", "text/plain", True),
            Page((503,), b"third", "text/plain", True),
        ]
    )
    for status, own, servers in (
        (404, b"first", None),
        (500, b"second", b"second"),
        (503, b"third", b"third"),
    ):
        page = pages.own(status)
        assert page is not None
        assert (page.body, page.head.status) == (own, status)
        page = pages.servers(status)
        assert (page.body if page is not None else None) == servers
    assert pages.own(400) is None
    assert changes.pages([], {}) is None
