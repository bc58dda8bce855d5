"""Panic: when so few servers are healthy that those few would break down, all of them are used.

Pure. As Envoy's panic threshold: below a share of healthy servers, what checks and responses have said of the
others is passed over, since it is likelier that the checks are wrong, or that part of the requests succeed,
than that the few can bear all of the load. What an operator has said (maintenance, drain) holds on.

Floor: pure, beside the checks.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple


class Member(NamedTuple):
    """What is known of one server."""

    wanted: bool
    """Whether it would get requests if it were healthy: the operator lets it, and it has a weight."""
    healthy: bool
    backup: bool = False


def panics(members: Iterable[Member], share: float) -> bool:
    """Whether all servers that are ``wanted`` are to be used, healthy or not.

    Args:
        share: of healthy servers, below which that is so; 0 never. Backup servers don't count; but while
            a healthy one can take the load there is no panic.
    """
    if not share:
        return False
    wanted = healthy = 0
    for member in members:
        if not member.wanted:
            continue
        if member.backup:
            if member.healthy:
                return False
        else:
            wanted += 1
            healthy += member.healthy
    return healthy < share * wanted


def usable(members: Iterable[Member]) -> int:
    """How many take new clients by their own health."""
    return sum(member.wanted and member.healthy for member in members)
