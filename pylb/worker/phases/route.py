"""Route: what a frontend's rules say of a request. Floor: phases.

One view serves all requests of a frontend. A decision that edits takes it along (``tx.plan``), since the
response may be edited by what the request was like.
"""

from __future__ import annotations

from collections.abc import Callable

from pylb.rules.decision import Rules
from pylb.worker.frontend import Result
from pylb.worker.transaction import Plan, Transaction


def route(rules: Rules | None) -> Callable[[Transaction], Result] | None:
    """Choose the backend; note the edits. The places of the rules' decisions are backends."""
    if rules is None:
        return None
    view = rules.view()
    decide = rules.decide

    def phase(tx: Transaction) -> Result:
        nonlocal view
        assert tx.head is not None  # it is HTTP's
        view.begin(tx.head, tx.client)
        decision = decide(view)
        tx.backend = decision.place
        if decision.edits:
            tx.plan = Plan(decision, view)
            view = rules.view()
        return None

    return phase
