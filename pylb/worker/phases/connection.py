"""Connection: what a frontend's rules say of a connection in TCP mode, which has no head. Floor: phases."""

from __future__ import annotations

from collections.abc import Callable

from pylb.http.request import HeadLimits, RequestHead
from pylb.rules.decision import Rules
from pylb.worker.frontend import DROP, Result
from pylb.worker.transaction import Transaction

NO_HEAD = RequestHead(b"", b"", b"", HeadLimits())


def connection(rules: Rules | None) -> Callable[[Transaction], Result] | None:
    """Choose the backend, or drop it. The places of the rules' decisions are backends.

    Where no rule ends the evaluation, it goes where the server name has led it (``sni``).
    """
    if rules is None:
        return None
    view = rules.view()

    def phase(tx: Transaction) -> Result:
        view.begin(NO_HEAD, tx.client)
        decision = rules.decide(view)
        if decision.rule >= 0:
            tx.go_to(decision.place)
        return DROP if decision.kind == "drop" else None

    return phase
