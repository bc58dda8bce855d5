"""What ``explain`` tells is what a worker does, and what `check` calls unreachable is never reached."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

from hypothesis import given, settings

from pylb.config import routing
from pylb.config.model import Config
from pylb.config.unreachable import unreachable
from pylb.explain.dryrun import DryRun, Outcome
from pylb.explain.request import Request
from pylb.http.errors import Refused
from pylb.http.request import HeadLimits
from pylb.worker.facts import Client
from pylb.worker.frontend import Bind, Frontend
from pylb.worker.phases.route import route
from pylb.worker.transaction import Transaction
from tests.explain.generated import REQUESTS, RULES, configuration_of


class Socket(asyncio.BaseTransport):
    """A client's connection, as far as anybody asks it."""

    def __init__(self, peer: str) -> None:
        super().__init__({"peername": (peer, 50_000)})


def worker(config: Config, request: Request) -> str:
    """The backend that the worker's phase sends a request to, or the status with which it is refused."""
    frontend = config.frontends[0]
    backends: Any = {
        backend.name: SimpleNamespace(name=backend.name, timeouts=None, body_bytes=None)
        for backend in config.backends
    }
    phase = route(frontend, routing.compiled(config, frontend, {}, backends))
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
        assert phase(tx) is None
    except Refused as refused:
        return str(refused.status)
    return tx.backend.name


def ended(outcome: Outcome) -> str:
    return outcome.backend or str(outcome.status)


@given(RULES, REQUESTS)
@settings(max_examples=150)
def test_explain_and_the_worker_agree(rules: list[dict[str, Any]], asked: dict[str, Any]) -> None:
    config = configuration_of(rules)
    request = Request(**asked)
    outcome = DryRun(config).ask(request)
    assert ended(outcome) == worker(config, request)
    # What it tells of the rules is that, too: the last one that was looked at has matched, and leads there.
    matched = [step.rule for step in outcome.steps if not step.failed]
    assert matched == ([outcome.rule] if outcome.rule >= 0 else [])
    if outcome.rule < 0:
        assert outcome.backend in ("site", "")
        return
    section = config.frontends[0].rules[outcome.rule]
    assert outcome.steps[-1].rule == outcome.rule
    if section.backend is not None and "{" not in section.backend:
        assert outcome.backend == section.backend
    elif section.split:
        assert outcome.backend in (
            outcome.shares or {name for name, weight in section.split.items() if weight}
        )


@given(RULES, REQUESTS)
@settings(max_examples=150)
def test_rules_that_check_calls_unreachable_are_never_reached(
    rules: list[dict[str, Any]], asked: dict[str, Any]
) -> None:
    config = configuration_of(rules)
    said = [line.partition(":")[0] for line in unreachable(config, str)]
    outcome = DryRun(config).ask(Request(**asked))
    assert f"frontend[0].rule[{outcome.rule}]" not in said
