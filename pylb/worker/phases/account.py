"""Account: counts a transaction that is over, once, however it has ended. Floor: phases."""

from __future__ import annotations

from pylb.latency import LAST, SUM
from pylb.scoreboard import Field
from pylb.worker.core import Core
from pylb.worker.reasons import Reason
from pylb.worker.transaction import Transaction

# Plain integers: an enum member costs a lookup and an __index__ call each time.
_REQUESTS = int(Field.REQUESTS)
_CLASS = [int(Field.STATUS_1XX) + hundreds for hundreds in (0, 0, 1, 2, 3, 4, 4, 4, 4, 4)]
"""The counter of a status, by its hundreds; above 5 it counts as 5xx (RFC 9110 §15)."""

CUT_SHORT = frozenset(
    {Reason.CLIENT_GONE, Reason.CLIENT_LATE, Reason.SERVER_GONE, Reason.SERVER_LATE, Reason.SERVER_BAD}
    | {Reason.INTERNAL, Reason.SERVER_STALE, Reason.SERVER_UNSEEN, Reason.SERVER_DOWN}
)
"""The ends that count as aborted, where no whole response was sent."""


def account(core: Core, tx: Transaction, status: int, ended_ns: int) -> None:
    """Count a transaction and its response time.

    Args:
        status: of the whole response that the client was sent; 0 where there was none.
        ended_ns: when it was over.
    """
    counters = core.counters
    counters[_REQUESTS] += 1
    if status:
        counters[_CLASS[status // 100]] += 1
    elif tx.reason in CUT_SHORT:
        counters[Field.ABORTED] += 1
    times = core.times if tx.local else tx.backend.times
    tx.ended_ns = ended_ns
    spent = (ended_ns - tx.began_ns) // 1000
    times[SUM] += spent
    bits = spent.bit_length()  # as in `latency.bucket`
    if bits < 7:
        times[0] += 1
    else:
        index = 4 * bits + (spent >> bits - 3) - 31
        times[index if index < LAST else LAST] += 1
