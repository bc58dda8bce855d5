"""Outcomes: whether a server's answer was a good one, where its backend judges servers by that.

What never became an answer is counted where it fails (`retry.failed`), since another server may be tried
then. Floor: phases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from pylb.worker.backend import Backend
from pylb.worker.reasons import Reason
from pylb.worker.transaction import Transaction

_NOT_THE_SERVERS = frozenset(
    {Reason.CLIENT_GONE, Reason.CLIENT_LATE, Reason.CUT, Reason.REFUSED, Reason.INTERNAL}
)
"""With these ends an answer that has begun is counted as what it is."""


def outcomes(backends: Iterable[Backend]) -> Callable[[Transaction], None] | None:
    """A phase of the account, if any backend has outliers taken out."""
    return _count if any(backend.judged for backend in backends) else None


def _count(tx: Transaction) -> None:
    server = tx.server
    if server is None:
        return
    outcomes = server.outcomes
    reason = tx.reason
    response = tx.response
    if outcomes is None or response is None or (reason is not None and reason not in _NOT_THE_SERVERS):
        return
    status = response.status
    if status in outcomes.statuses:
        outcomes.bad += 1
    elif status != 101 and tx.answered_ns:  # a tunnel is counted as it begins
        outcomes.good += 1
