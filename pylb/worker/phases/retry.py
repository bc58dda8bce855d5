"""Retry: whether a request is sent again when a server has not answered, and what is noted of that server.

Floor: phases.
"""

from __future__ import annotations

from pylb.http.requestline import IDEMPOTENT
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


def same_again(tx: Transaction, reason: Reason, whole: bool) -> bool:
    """Whether the request may be sent again though a server may have seen it.

    That is safe where the server has closed an idle connection while the request was on its way, the request
    is kept as a ``whole``, and its method is idempotent (RFC 9112 §9.3.1); or where it says that it has not
    looked at it.
    """
    if tx.answered_ns or tx.retries > tx.backend.retries:
        return False
    if reason is Reason.SERVER_UNSEEN:
        return whole
    return reason is Reason.SERVER_STALE and harmless(tx, whole)


def harmless(tx: Transaction, whole: bool) -> bool:
    """Whether a server could get the request twice without harm, and there is a ``whole`` to send again."""
    return whole and tx.head is not None and tx.head.method in IDEMPOTENT


def silent(tx: Transaction, reason: Reason) -> bool:
    """Whether a request of which a server has done nothing, most likely, is left to the client to repeat: it
    is told by the end of its connection (HTTP/2: of its stream) alone, and not by an error.

    So HAProxy does. Clients expect it of a connection that has served them before (RFC 9110 §9.2.2); on its
    first request they would take it for a failure.
    """
    return reason in (Reason.SERVER_STALE, Reason.SERVER_UNSEEN) and tx.client.requests > 1


def another(tx: Transaction) -> bool:
    """Whether one more server is tried, of those that could be connected to."""
    return len(tx.tried) <= tx.backend.retries and len(tx.tried) < len(tx.backend.servers)


def failed(core: Core, tx: Transaction, reason: Reason, why: str) -> int:
    """Note what the server of this try did wrong; gives the status that the client is answered."""
    kind, status = _FAILURES[reason]
    server = tx.server
    if server is not None:
        server.errors += 1
        server.failed(core, kind, why)
    return status
