"""What ``explain`` tells is what a worker does, and what `check` calls unreachable is never reached."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings

from pylb.config import routing
from pylb.config.model import Config
from pylb.config.unreachable import unreachable
from pylb.explain.dryrun import DryRun, Outcome
from pylb.explain.request import Request
from pylb.http.errors import Answer, Refused, error
from pylb.http.request import HeadLimits
from pylb.worker.facts import Client
from pylb.worker.frontend import Bind, Frontend
from pylb.worker.phases.route import edit_response, route
from pylb.worker.transaction import Transaction
from tests.explain.generated import HOSTS, PATTERNS, REQUESTS, RULES, configuration_of
from tests.rules.requests import Facts, head_of


class Socket(asyncio.BaseTransport):
    """A client's connection, as far as anybody asks it."""

    def __init__(self, peer: str) -> None:
        super().__init__({"peername": (peer, 50_000)})


Said = tuple[str, int, list[tuple[str, str]]]
"""The backend, or else the status of pylb's own answer; the fields that the server or the client gets."""


def worker(config: Config, request: Request) -> Said:
    """What the worker's phase says of a request."""
    frontend = config.frontends[0]
    backends: Any = {
        backend.name: SimpleNamespace(name=backend.name, timeouts=None, body_bytes=None)
        for backend in config.backends
    }
    rules = routing.compiled(config, frontend, {}, backends)
    phase, edit = route(frontend, rules), edit_response(rules)
    assert phase is not None
    key = f"127.0.0.1:{request.port}"
    made: Frontend[Transaction] = Frontend(frontend, backends[frontend.backend], 0, 0)
    bind = Bind(key, frontend, made, {}, HeadLimits())
    tx = Transaction()
    tx.frontend = made
    tx.client = Client(Socket(request.source), key)
    tx.backend = backends[frontend.backend]
    head = bind.reader(tx.client)
    try:
        head.read(request.head())
        tx.head = head
        result = phase(tx)
    except Refused as refused:
        result = error(refused.status)
    if result is None:
        return tx.backend.name, 0, fields(head.printed())
    if not isinstance(result, Answer):
        return "", 0, []
    tx.own = True
    out = result.head if edit is None else edit(tx, result.head)
    return "", out.status, fields(out.out)


def fields(head: bytes) -> list[tuple[str, str]]:
    lines = head.decode("utf-8", "backslashreplace").split("\r\n")[1:-2]
    return [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]


def told(outcome: Outcome) -> Said:
    return outcome.backend, outcome.status, outcome.request_headers or outcome.response_headers


@given(RULES, REQUESTS)
@settings(max_examples=150)
def test_explain_and_the_worker_agree(rules: list[dict[str, Any]], asked: dict[str, Any]) -> None:
    config = configuration_of(rules)
    request = Request(**asked)
    outcome = DryRun(config).ask(request)
    if outcome.shares:  # by chance: both have thrown a die
        assert worker(config, request)[0] in outcome.shares
    else:
        assert told(outcome) == worker(config, request)
    # What it tells of the rules is that, too: the last one that was looked at has matched, and leads there.
    ends = [
        step.rule for step in outcome.steps if not step.failed and config.frontends[0].rules[step.rule].ends
    ]
    assert ends == ([outcome.rule] if outcome.rule >= 0 else [])
    if outcome.rule < 0:
        assert outcome.backend in ("site", "")
        return
    if outcome.refused:
        assert not outcome.backend
        return
    section = config.frontends[0].rules[outcome.rule]
    assert outcome.steps[-1].rule == outcome.rule
    if section.backend is not None and "{" not in section.backend:
        assert outcome.backend == section.backend
    elif section.split:
        assert outcome.backend in (
            outcome.shares or {name for name, weight in section.split.items() if weight}
        )


GRID = [
    (head_of(path, *more, host=host, method=method), Facts((source, 5), "127.0.0.1:80"))
    for path in ["/", "/a", "/a/", "/a/b", "/admin", "/%61b", "//a", "/a%20b", "/b"]
    for host in HOSTS
    for source in ("10.1.2.3", "10.2.0.1", "192.0.2.1", "::1")
    for method, more in (("GET", []), ("POST", ["X-A: 1", "X-B: 1x2", "Cookie: c=1; d=2"]))
]


def reached(rules: list[dict[str, Any]]) -> tuple[set[int], set[int]]:
    """The rules that `check` calls unreachable, and those that end the evaluation for some request."""
    config = configuration_of(rules)
    said = {int(line.split("[")[2].partition("]")[0]) for line in unreachable(config, str)}
    if not said:
        return said, set()
    compiled = routing.compiled(config, config.frontends[0], {})
    assert compiled is not None
    view = compiled.view()
    found = set()
    for head, facts in GRID:
        view.begin(head, facts)
        with contextlib.suppress(Refused):
            found.add(compiled.decide(view).rule)
    return said, found


@given(RULES)
@settings(max_examples=100)
def test_rules_that_check_calls_unreachable_are_never_reached(rules: list[dict[str, Any]]) -> None:
    said, found = reached(rules)
    assert not said & found


@pytest.mark.parametrize(
    "matches",
    [
        [{"host": one} for one in PATTERNS],
        [{"source": one} for one in ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "192.0.2.0/24", "::/0")],
        [
            {key: one}
            for key in ("path", "path_exact", "starts_with")
            for one in ("/a", "/a/", "/a/b", "/admin")
        ],
        [{"header": {"X-A": one}} for one in (True, "1", "2", {"prefix": "1"})],
        [{"method": "GET"}, {"method": ["GET", "POST"]}, {"not": {"method": "GET"}}, {"path": "/"}, {}],
    ],
    ids=["host", "source", "path", "header", "method"],
)
def test_of_two_rules_the_second_is_reached_unless_check_says_that_it_is_not(
    matches: list[dict[str, Any]],
) -> None:
    covered = 0
    for one in matches:
        for other in matches:
            said, found = reached([{"match": match, "backend": "api"} for match in (one, other)])
            assert not said & found, (one, other)
            covered += len(said)
    assert covered >= len(matches)  # each covers itself
