"""Rules are looked at in the order of the file, until one ends the evaluation."""

from __future__ import annotations

import pytest

from pylb.config.load import ConfigError
from pylb.rules.decision import Step
from tests.rules.requests import configuration, head_of, rules_of, seen

THREE = """
[[rule]]
match = { path = "/api" }
backend = "api"
[[rule]]
match = { host = "shop.example" }
backend = "shop"
[[rule]]
match = { path = "/" }
backend = "other"
"""


@pytest.mark.parametrize(
    ("target", "host", "backend", "rule"),
    [
        ("/api/x", "shop.example", "api", 0),
        ("/x", "shop.example", "shop", 1),
        ("/x", "example.org", "other", 2),
        ("/apis", "example.org", "other", 2),
    ],
)
def test_the_first_that_matches(target: str, host: str, backend: str, rule: int) -> None:
    rules = rules_of(THREE)
    decision = rules.decide(seen(rules, head_of(target, host=host)))
    assert (decision.kind, decision.backend, decision.rule) == ("backend", backend, rule)


def test_where_no_rule_matches_the_frontends_backend_answers() -> None:
    rules = rules_of('[[rule]]\nmatch = { path = "/api" }\nbackend = "api"')
    decision = rules.decide(seen(rules, head_of("/")))
    assert (decision.backend, decision.rule, decision.edits) == ("site", -1, ())


def test_a_trace_says_what_became_of_each_rule() -> None:
    rules = rules_of(THREE)
    trace: list[Step] = []
    rules.decide(seen(rules, head_of("/x", host="shop.example")), trace)
    assert trace == [Step(0, "path"), Step(1)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[[rule]]\nbackend = "apis"', "frontend[0].rule[0].backend: no backend 'apis'; did you mean 'api'?"),
        ('[[rule]]\nsplit = { api = 1, cannary = 2 }', "frontend[0].rule[0].split.cannary: no backend"),
        ("[[rule]]", "frontend[0].rule[0]: a rule without an action"),
        ('[[rule]]\nbackend = "api"\nsplit = { api = 1 }', "frontend[0].rule[0]: backend and split both say"),
        ('[[rule]]\nbackend = "api"\nmatch = { path = "api" }', "match.path[0]: a path begins with /"),
        ('[[rule]]\nbackend = "api"\nmatch = { path = [] }', "rule[0].match.path: "),
        ('[[rule]]\nbackend = "api"\nmatch = { pth = "/" }', "match.pth: unknown key; allowed: all, alpn"),
    ],
)  # fmt: skip
def test_mistakes_name_the_key(text: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        configuration(text)
    assert any(says in problem for problem in error.value.problems), error.value.problems


def test_hosts_of_strangers_take_no_room() -> None:
    rules = rules_of('[[rule]]\nmatch = { host = ["*.example", "shop.example"] }\nbackend = "shop"')
    remembered = rules._node.__self__._known  # type: ignore[attr-defined]
    for number in range(5000):
        rules.decide(seen(rules, head_of(host=f"{number}.example")))
    assert 0 < len(remembered) <= 4096
    before = len(remembered)
    assert rules.decide(seen(rules, head_of(host="a." * 2000 + "example"))).backend == "shop"
    assert len(remembered) == before
