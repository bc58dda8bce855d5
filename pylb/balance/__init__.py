"""Balancing algorithms: which server of a backend takes the next request.

Each is a plain class that knows weights and loads and nothing of sockets. To add one, write a class with
`Balancer`'s methods and name it in `ALGORITHMS`. What a pick costs may not grow with the number of servers,
nor of workers: an algorithm looks at a few servers, or at a block of them (`loads`).
"""

from __future__ import annotations

from collections.abc import Callable

from pylb.balance.first import First
from pylb.balance.leastconn import LeastConn
from pylb.balance.members import Balancer, Members
from pylb.balance.ring import Ring
from pylb.balance.roundrobin import RoundRobin
from pylb.balance.twochoices import LeastLatency, Random

ALGORITHMS: dict[str, Callable[[Members], Balancer]] = {
    "roundrobin": RoundRobin,
    "leastconn": LeastConn,
    "random": Random,
    "first": First,
    "leastlatency": LeastLatency,
    "source": Ring,
    "uri": Ring,
    "path": Ring,
    "header:NAME": Ring,
    "cookie:NAME": Ring,
    "query:NAME": Ring,
}
"""By what is written in the configuration; NAME stands for the name of a field, cookie or argument."""


def known(text: str) -> str | None:
    """The name in `ALGORITHMS` of what is written in the configuration; None if there is none."""
    kind, colon, name = text.partition(":")
    found = f"{kind}:NAME" if colon else kind
    return found if found in ALGORITHMS and (name or not colon) else None
