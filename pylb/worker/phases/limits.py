"""Phases that refuse a request by its head; what grows while its body comes, the exchange counts.

Floor: phases.
"""

from __future__ import annotations

from pylb.http.errors import Refused
from pylb.worker.frontend import Result
from pylb.worker.transaction import Transaction


def body(tx: Transaction) -> Result:
    """Refuse a body that is known to be too long."""
    limit = tx.body_bytes
    if limit and (tx.bytes_in > limit or (tx.head is not None and tx.head.content_length > limit)):
        raise Refused(413, "body_bytes")
    return None
