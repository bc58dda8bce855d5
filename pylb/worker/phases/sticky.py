"""Sticky: the cookie by which a client keeps to its server, read in its request and written in the response.

Frontends of which no backend is sticky have none of these phases. Floor: phases; what cookies say,
`pylb.sticky` knows.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pylb.http.response import ResponseHead
from pylb.sticky.sticky import Visit
from pylb.worker.frontend import Result
from pylb.worker.transaction import Transaction


def request(edited: bool) -> Callable[[Transaction], Result]:
    """Note which server the client keeps to, and take from the request what servers aren't to see.

    Args:
        edited: whether rules edit requests, so that one may have edits already.
    """

    def phase(tx: Transaction) -> Result:
        head = tx.head
        sticky = tx.backend.sticky
        raw = head.raw  # type: ignore[union-attr]  # it is HTTP's
        visit = head.changes  # type: ignore[union-attr]
        # What rules don't edit is as the last request of this connection has left it.
        if type(visit) is Visit and visit.raw is raw and visit.sticky is sticky and visit.holds():
            tx.visit = visit
            return None
        _look(tx, edited)
        return None

    return phase


def _look(tx: Transaction, edited: bool) -> None:
    """Read the cookie of a request whose head isn't the connection's last one again."""
    head = tx.head
    assert head is not None
    sticky = tx.backend.sticky
    tx.visit = None
    changes = head.changes if edited else None
    if sticky is not None and sticky.cookie.sign in head.raw:
        visit = tx.visit = sticky.visit(head.raw, time.time() if sticky.dated else 0.0)
        changes = visit if changes is None else _both(changes, visit)
    head.changes = changes


def _both(first: Callable[[bytes], bytes], then: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda head: then(first(head))


def response(tx: Transaction, head: ResponseHead) -> ResponseHead:
    """Tell the client which server to keep to."""
    sticky = tx.backend.sticky
    server = tx.server
    if sticky is None or server is None or tx.own:
        return head
    visit = tx.visit
    token = None if visit is None else visit.token
    if head is sticky.quiet and sticky.keeps(token, server.name):
        return head  # the usual
    out = sticky.response(head.out, server.name, token, time.time() if sticky.dated else 0.0)
    if out is head.out:
        sticky.quiet = head
        return head
    return head.with_out(out)
