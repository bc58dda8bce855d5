"""Sticky: the cookie by which a client keeps to its server, read in its request and written in the response.

Frontends of which no backend is sticky have none of these phases. Floor: phases; what cookies say,
`pylb.sticky` knows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from pylb.http.response import ResponseHead
from pylb.worker.frontend import Result
from pylb.worker.transaction import Transaction


def request(edited: bool) -> Callable[[Transaction], Result]:
    """Note which server the client keeps to, and take from the request what servers aren't to see.

    Args:
        edited: whether rules edit requests, so that one may have edits already.
    """

    def phase(tx: Transaction) -> Result:
        head = tx.head
        assert head is not None  # it is HTTP's
        if not edited:
            head.changes = None  # the object is the connection's, and has served other requests
        sticky = tx.backend.sticky
        if sticky is None or sticky.cookie.sign not in head.raw:
            return None
        tx.token = sticky.wanted(head.raw, time.time() if sticky.dated else 0.0)
        if sticky.edits_requests:
            first, then = head.changes, sticky.request
            head.changes = then if first is None else _both(first, then)
        return None

    return phase


def _both(first: Callable[[bytes], bytes], then: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
    return lambda head: then(first(head))


def response(tx: Transaction, head: ResponseHead) -> ResponseHead:
    """Tell the client which server to keep to."""
    sticky = tx.backend.sticky
    server = tx.server
    if sticky is None or server is None or tx.own:
        return head
    out = sticky.response(head.out, server.name, tx.token, time.time() if sticky.dated else 0.0)
    return head if out is head.out else replace(head, out=out, changed=True)


def forget(tx: Transaction) -> None:
    """Of the account: the next request has another cookie."""
    tx.token = None
