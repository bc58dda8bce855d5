"""Route: what a frontend's rules say of a request, and of its response. Floor: phases.

One view serves all requests of a frontend. A request that is edited takes it along (``tx.plan``), since the
response may be edited by what the request was like.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from pylb.config.changes import with_waits
from pylb.config.model import Frontend as FrontendConfig
from pylb.http.response import ResponseHead
from pylb.rules.decision import Rules
from pylb.rules.plan import Plan
from pylb.worker.frontend import DROP, Result
from pylb.worker.transaction import Transaction


def route(config: FrontendConfig, rules: Rules | None) -> Callable[[Transaction], Result] | None:
    """Choose the backend, or answer; note the edits. The places of the rules' decisions are backends."""
    if rules is None:
        return None
    view = rules.view()
    decide = rules.decide
    edit = rules.edit
    tell_prefix = "X-Forwarded-Prefix" in config.client_fields

    def phase(tx: Transaction) -> Result:
        nonlocal view
        head = tx.head
        assert head is not None  # it is HTTP's
        seen = view
        seen.begin(head, tx.client)
        decision = decide(seen)
        if decision.place is not tx.backend:
            tx.go_to(decision.place)
        if edit:
            head.changes = None  # the object is the connection's, and has served other requests
            if decision.edits:
                view = rules.view()
                seen.backend = decision.backend.encode()
                plan = tx.plan = Plan(decision.edits, seen, tell_prefix)
                if plan.changes.edits_request:
                    head.changes = partial(_changed, tx, plan)
                waits, limit = plan.changes.timeouts, plan.changes.body_bytes
                if waits:
                    tx.timeouts = with_waits(tx.timeouts, waits)
                if limit is not None:
                    tx.body_bytes = limit
        if decision.kind == "backend":
            return None
        if decision.kind == "drop":
            return DROP
        answer: Result = decision.action(seen)
        return answer

    return phase


def _changed(tx: Transaction, plan: Plan, head: bytes) -> bytes:
    """A request's head for the server of this try."""
    if tx.server is not None:
        plan.view.server = tx.server.name.encode()
    return plan.request(head)


def edit_response(rules: Rules | None) -> Callable[[Transaction, ResponseHead], ResponseHead] | None:
    """Edit a response as the rules say that its request has matched."""
    if rules is None or not rules.edit:
        return None

    def phase(tx: Transaction, head: ResponseHead) -> ResponseHead:
        return head if tx.plan is None else tx.plan.response(head, tx.own)

    return phase
