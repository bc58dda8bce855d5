"""Phases that refuse a request by its head; what grows while its body comes, the exchange counts.

Floor: phases.
"""

from __future__ import annotations

from collections.abc import Callable

from pylb.http.errors import Refused
from pylb.worker.frontend import Result
from pylb.worker.transaction import Transaction


def body(limit: int) -> Callable[[Transaction], Result] | None:
    """Refuse a body that is known to be longer than ``limit`` bytes; 0: no limit."""
    if not limit:
        return None

    def check(tx: Transaction) -> Result:
        if tx.bytes_in > limit or (tx.head is not None and tx.head.content_length > limit):
            raise Refused(413, "body_bytes")
        return None

    return check
