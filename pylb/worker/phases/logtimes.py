"""When a transaction began, and how long its parts took, as the access log has them.

Timers are those of HAProxy's log (configuration manual, §8.4), in milliseconds; None where that moment has
not come.

Floor: phases; above `loginline`, below `logfields`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pylb.accesslog.dates import Dates
from pylb.worker.core import Core
from pylb.worker.phases.loginline import Inline
from pylb.worker.transaction import Transaction

DATES: dict[str, tuple[Callable[[Dates], Callable[[int], str]], int]] = {
    "date": (lambda dates: dates.haproxy, 1_000_000),
    "date.common": (lambda dates: dates.common, 1_000_000_000),
    "date.iso": (lambda dates: dates.iso, 1_000_000),
}
"""By name, what writes them, and for how many nanoseconds a date is the same."""


class _Moment:
    """When requests began, by the calendar's clock. The text of the last one is mostly the next one's."""

    __slots__ = ("offset", "known", "text", "_write", "_unit")

    def __init__(self, write: Callable[[int], str], unit: int) -> None:
        self._write = write
        self._unit = unit
        self.known = -1
        self.text = ""
        self.look()

    def look(self) -> None:
        """Compare the clocks: the calendar's may be set."""
        self.offset = time.time_ns() - time.monotonic_ns()

    def of(self, tx: Transaction) -> str:
        """The text for a transaction."""
        self.known = ((tx.first_byte_ns or tx.began_ns) + self.offset) // self._unit
        self.text = self._write(self.known)
        return self.text


def date(core: Core, name: str) -> Inline:
    write, unit = DATES[name]
    moment = _Moment(write(Dates()), unit)
    core.on_tick.append(moment.look)
    source = f"moment.text if (BEGAN + moment.offset) // {unit} == moment.known else moment.of(tx)"
    return Inline(
        source.replace("BEGAN", "(tx.first_byte_ns or tx.began_ns)"),
        source.replace("BEGAN", "tx.began_ns"),
        moment=moment,
    )


TOTAL = Inline(
    "(tx.ended_ns - (tx.first_byte_ns or tx.began_ns)) // 1000000", "(tx.ended_ns - tx.began_ns) // 1000000"
)


NUMBERS = {
    "status": "tx.response.status if tx.response is not None else NOTHING",
    "time.request": (
        "NOTHING if tx.head is None else "
        "(tx.began_ns - tx.first_byte_ns) // 1000000 if tx.first_byte_ns else 0"
    ),
    "time.queue": (
        "(tx.ended_ns - tx.began_ns) // 1000000 if tx.state == 'Q' else "
        "NOTHING if tx.server is None else (tx.asked_ns - tx.began_ns) // 1000000 if tx.asked_ns else 0"
    ),
    "time.connect": (
        "NOTHING if tx.server is None or tx.state in 'RQC' else "
        "(tx.connected_ns - tx.asked_ns) // 1000000 if tx.connected_ns else 0"
    ),
    "time.response": (
        "NOTHING if tx.own or not tx.answered_ns or tx.server is None else "
        "(tx.answered_ns - (tx.connected_ns or tx.asked_ns or tx.began_ns)) // 1000000"
    ),
}
"""Those that there may not be, as `Inline`. Timers are in milliseconds."""
_USUALLY = {
    "status": "tx.response.status",
    "time.request": "0",
    "time.queue": "0",
    "time.connect": "0",
    "time.response": "(tx.answered_ns - tx.began_ns) // 1000000",
}


def number(name: str, nothing: str) -> Inline:
    return Inline(f"({NUMBERS[name].replace('NOTHING', repr(nothing))})", _USUALLY[name])


_STEPS = tuple(number(f"time.{name}", "-1") for name in ("request", "queue", "connect", "response"))


def _unusual_timers(tx: Transaction) -> str:
    return "/".join([str(step(tx)) for step in (*_STEPS, TOTAL)])


TIMERS = Inline(
    "timers(tx)",
    "f'0/0/0/{(tx.answered_ns - tx.began_ns) // 1000000}/{(tx.ended_ns - tx.began_ns) // 1000000}'",
    timers=_unusual_timers,
)
"""TR/Tw/Tc/Tr/Ta as HAProxy joins them."""
