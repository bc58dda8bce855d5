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
    {None, Reason.CLIENT_GONE, Reason.CLIENT_LATE, Reason.CUT, Reason.REFUSED, Reason.INTERNAL}
)
"""With these ends an answer that has begun is counted as what it is."""


def outcomes(backends: Iterable[Backend]) -> Callable[[Transaction], None] | None:
    """A phase of the account, if any backend has outliers taken out."""
    return _count if any(backend.judged for backend in backends) else None


def _count(tx: Transaction) -> None:
    server = tx.server
    if server is None or server.outcomes is None or tx.reason not in _NOT_THE_SERVERS:
        return
    response = tx.response
    if response is None or not tx.answered_ns or response.status == 101:  # a tunnel is counted as it begins
        return
    if response.status in server.outcomes.statuses:
        server.outcomes.bad += 1
    else:
        server.outcomes.good += 1
