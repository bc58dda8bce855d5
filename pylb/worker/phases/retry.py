"""Retry: whether a request is given to a server once more, and what is noted of one that has failed.

Floor: phases. What a backend's policy says is `pylb.retry`'s; this module knows which reason is which of its
conditions, and what a request must be like.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from math import inf

from pylb.retry.policy import CONNECT, EMPTY, JUNK, LATE
from pylb.worker.backend import Backend
from pylb.worker.core import Core
from pylb.worker.reasons import Reason
from pylb.worker.transaction import Transaction

# What each way of a server to fail is called in its log line, and what the client is answered.
_FAILURES = {
    Reason.SERVER_STALE: ("lost", 502),
    Reason.SERVER_UNSEEN: ("lost", 502),
    Reason.SERVER_GONE: ("lost", 502),
    Reason.SERVER_DOWN: ("down", 503),
    Reason.SERVER_BAD: ("response", 502),
    Reason.SERVER_LATE: ("late", 504),
    Reason.CONNECT_FAILED: ("connect", 503),
    Reason.CONNECT_LATE: ("connect", 504),
}
_CONDITIONS = {
    Reason.SERVER_GONE: EMPTY,
    Reason.SERVER_BAD: JUNK,
    Reason.SERVER_LATE: LATE,
    Reason.CONNECT_FAILED: CONNECT,
    Reason.CONNECT_LATE: CONNECT,
}


def again(tx: Transaction, reason: Reason, whole: bool, now: float) -> bool:
    """Whether the request is given to a server once more after a try that has failed.

    Where the server has closed an idle connection while the request was on its way, it may have seen it, and
    the method decides, whatever the conditions are (RFC 9112 §9.3.1); where it has said that it has done
    nothing with it, nothing else does (RFC 9113 §8.7).

    Args:
        whole: all that has come of the request is kept.
    """
    policy = tx.backend.retry
    if tx.answered_ns or not whole or tx.retries >= policy.retries:
        return False
    method = tx.head.method if tx.head is not None else None
    if reason is Reason.SERVER_STALE:
        covered = method in policy.methods
    else:
        covered = reason is Reason.SERVER_UNSEEN or policy.covers(_CONDITIONS.get(reason, ""), method)
    return covered and tx.backend.may_retry(now)


def harmless(tx: Transaction, whole: bool) -> bool:
    """Whether a server could get the request twice without harm, and there is a ``whole`` to send again."""
    return whole and tx.head is not None and tx.head.method in tx.backend.retry.methods


def silent(tx: Transaction, reason: Reason) -> bool:
    """Whether a request of which a server has done nothing, most likely, is left to the client to repeat: it
    is told by the end of its connection (HTTP/2: of its stream) alone, and not by an error.

    So HAProxy does. Clients expect it of a connection that has served them before (RFC 9110 §9.2.2); on its
    first request they would take it for a failure.
    """
    return reason in (Reason.SERVER_STALE, Reason.SERVER_UNSEEN) and tx.client.requests > 1


def kept(tx: Transaction) -> int:
    """Bytes of the request's body that are kept to be sent again, in case that it may be."""
    policy = tx.backend.retry
    server = tx.server
    if tx.head is not None and (tx.head.method in policy.methods or server is not None and server.http2):
        return policy.body
    return 0


def statuses(backends: Iterable[Backend]) -> frozenset[int]:
    """All that the backends' policies name, for which `another` is to be asked."""
    return frozenset().union(*(backend.retry.statuses for backend in backends))


def another(core: Core) -> Callable[[Transaction, int, bool], bool]:
    """A function that says whether a response with a status gives way to another try's, given whether all of
    the request is kept."""

    def instead(tx: Transaction, status: int, whole: bool) -> bool:
        policy = tx.backend.retry
        method = tx.head.method if tx.head is not None else None
        if tx.retries >= policy.retries or not whole or not policy.covers_status(status, method):
            return False
        return tx.backend.may_retry(core.now)

    return instead


def failed(core: Core, tx: Transaction, reason: Reason, why: str) -> int:
    """Note what the server of this try did wrong; gives the status that the client is answered."""
    kind, status = _FAILURES[reason]
    server = tx.server
    if server is not None:
        server.errors += 1
        server.failed(core, kind, why)
    return status


def answer_by(tx: Transaction, now: float, until: float) -> float:
    """When a try's response must have begun, at the latest; ``until``: when that of all tries must have."""
    return min(now + tx.backend.retry.per_try, until)


def until(tx: Transaction, now: float) -> float:
    """When the response must have begun, over all tries that begin ``now``; inf: that isn't bounded."""
    timeout = tx.backend.retry.timeout
    return now + timeout if timeout < inf else inf
