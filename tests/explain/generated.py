"""Frontends with rules, and requests, made by hypothesis of few words so that they meet each other."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from pylb.config.load import from_document
from pylb.config.model import Config
from tests.rules.requests import BACKENDS

HOSTS = ["shop.example", "a.shop.example", "b.a.shop.example", "example.org"]
PATTERNS = [*HOSTS, "*.shop.example", "*.example"]
PATHS = ["/", "/a", "/a/", "/a/b", "/admin", "/a b", "/ä"]
TEXTS: st.SearchStrategy[Any] = st.sampled_from(
    [True, "1", ["1", "2"], {"prefix": "1"}, {"suffix": "2"}, {"contains": "x"}]
)


def some(values: list[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(st.sampled_from(values), min_size=1, max_size=2)


SIMPLE = {
    "host": some(PATTERNS),
    "path": some(PATHS),
    "path_exact": some(PATHS),
    "starts_with": some(["/a", "/%61", "//"]),
    "path_glob": some(["*.b", "/a/*", "/**/b"]),
    "method": some(["GET", "POST", "PUT"]),
    "header": st.dictionaries(st.sampled_from(["X-A", "x_b"]), TEXTS, min_size=1, max_size=2),
    "query": st.dictionaries(st.sampled_from(["q", "r"]), TEXTS, min_size=1, max_size=1),
    "cookie": st.dictionaries(st.sampled_from(["c", "d"]), TEXTS, min_size=1, max_size=1),
    "source": some(["10.0.0.0/8", "10.1.0.0/16", "192.0.2.1", "::1"]),
    "port": some([80, 81]),
    "protocol": some(["http/1.1", "h2"]),
    "tls": st.booleans(),
}


def of_up_to(keys: dict[str, st.SearchStrategy[Any]], most: int) -> st.SearchStrategy[dict[str, Any]]:
    """Tables with one to ``most`` of these keys."""
    names = st.lists(st.sampled_from(sorted(keys)), min_size=1, max_size=most, unique=True)
    return names.flatmap(lambda chosen: st.fixed_dictionaries({name: keys[name] for name in chosen}))


MATCHES = of_up_to(SIMPLE, 2)
NESTED = of_up_to(
    SIMPLE
    | {
        "not": MATCHES,
        "any": st.lists(MATCHES, min_size=1, max_size=2),
        "all": st.lists(MATCHES, min_size=1, max_size=2),
    },
    3,
)
ENDINGS: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        *({"backend": name} for name in ("api", "shop", "admin", "app-{host.1}", "{cookie.c}", "{path.1}")),
        {"split": {"api": 1, "canary": 0, "other": 3}, "split_by": "header:X-A"},
        {"split": {"api": 1, "other": 3}, "split_by": "source"},
        {"redirect": {"to": "https://{host}/new", "status": 301, "keep_path": True, "keep_query": True}},
        {"redirect": "https"},
        {"answer": {"status": 503, "body": "later", "headers": {"X-Path": "{path}"}}},
        {"deny": 403},
        {"drop": True},
    ]
)
EDITS: st.SearchStrategy[dict[str, Any]] = st.sampled_from(
    [
        {"rewrite": {"path": {"prefix": "/a", "to": "/new"}}},
        {
            "rewrite": {
                "path": "/{host.1}{path}",
                "query": {"set": {"q": "{header.X-A}"}},
                "host": "in.example",
            }
        },
        {"request_headers": {"set": {"X-A": "{path.1}"}, "remove": "x-b", "add": {"X-New": "{client.ip}"}}},
        {"response_headers": {"set": {"X-New": "{cookie.c}"}}, "body_bytes": 10},
    ]
)
NOTHING: st.SearchStrategy[dict[str, Any]] = st.just({})
RULES = st.lists(
    st.tuples(
        st.fixed_dictionaries({}, optional={"match": NESTED}),
        st.tuples(ENDINGS, EDITS | NOTHING) | st.tuples(EDITS, NOTHING),
    ).map(lambda two: two[0] | two[1][0] | two[1][1]),
    min_size=1,
    max_size=6,
)


def configuration_of(rules: list[dict[str, Any]], **frontend: Any) -> Config:
    """A configuration with one frontend, at two ports."""
    front = {"name": "web", "bind": ["127.0.0.1:80", "127.0.0.1:81"], "backend": "site", "rule": rules}
    backends = [{"name": name, "server": ["10.0.0.1:1", "10.0.0.2:1"]} for name in BACKENDS]
    return from_document({"frontend": front | frontend, "backend": backends})


TARGETS = st.sampled_from(
    [
        "/",
        "/a",
        "/a/",
        "/a/b",
        "/%61/b",
        "/x/../a",
        "//a",
        "/a%2fb",
        "/a;x",
        "/admin",
        "/admin/b",
        "/%c3%a4",
        "/a%20b",
    ]
) | st.text("/a.b%;\\ä~", max_size=8).map(lambda text: "/" + text)
QUERIES = st.sampled_from(["", "?q=1", "?q=2&q=1&r", "?%71=1x", "?"])
FIELDS = st.lists(
    st.tuples(
        st.sampled_from(["X-A", "x-b", "X_B", "Cookie", "X-Forwarded-For", "Host"]),
        st.sampled_from(["1", "2", "12", "1x2", "c=1", "c=app-a; d=2", "10.1.2.3", "shop.example.:80", ""]),
    ),
    max_size=3,
)
REQUESTS = st.fixed_dictionaries(
    {
        "url": st.builds(
            "http://{}:{}{}{}".format, st.sampled_from(HOSTS), st.sampled_from([80, 81]), TARGETS, QUERIES
        ),
        "method": st.sampled_from(["GET", "POST", "PUT"]),
        "headers": FIELDS,
        "source": st.sampled_from(["10.1.2.3", "10.2.0.1", "192.0.2.1", "::1", "::ffff:10.1.2.3"]),
    }
)
