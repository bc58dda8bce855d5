"""The phase that asks a frontend's rules: there only where there are rules, and it chooses the backend."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from pylb.config import routing
from pylb.config.model import Config, Timeouts
from pylb.worker import phases
from pylb.worker.backend import Backend
from pylb.worker.frontend import Frontend
from pylb.worker.transaction import Transaction
from tests.http.wire import TestCore
from tests.rules.requests import BACKENDS, Facts, configuration, head_of


def compiled(config: Config) -> tuple[Frontend[Transaction], dict[str, Backend]]:
    backends = {
        name: cast(
            Backend,
            SimpleNamespace(
                timeouts=Timeouts(), body_bytes=None, observes=False, sticky=None, judged=False, counted=False
            ),
        )
        for name in BACKENDS
    }
    (frontend,) = config.frontends
    rules = routing.compiled(config, frontend, {}, backends)
    return phases.compiled(frontend, backends, TestCore(), rules), backends


def test_a_frontend_without_rules_has_no_such_phase() -> None:
    frontend, _ = compiled(configuration(""))
    assert frontend.on_request == ()


def test_the_first_rule_that_matches_says_which_backend() -> None:
    frontend, backends = compiled(configuration('[[rule]]\nmatch = { path = "/api" }\nbackend = "api"\n'))
    (phase,) = frontend.on_request
    tx = Transaction()
    tx.client = cast(Any, Facts())
    tx.frontend = frontend
    for target, name in (("/api/x", "api"), ("/x", "site"), ("/x/../api", "api")):
        tx.head = head_of(target)
        assert phase(tx) is None
        assert tx.backend is backends[name]
        assert tx.timeouts is backends[name].timeouts
        assert tx.plan is None
