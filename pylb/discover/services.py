"""SRV records as servers: priorities, weights, ports (RFC 2782). Above `fitness`.

Servers of the lowest priority are the backend's; all others are backups, as there are no more than two ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pylb.discover.fitness import address_of
from pylb.discover.found import LARGEST_WEIGHT, Found


class Service(NamedTuple):
    """One SRV record."""

    priority: int
    weight: int
    port: int
    target: str


def targets(records: Sequence[Service], most: int) -> list[str]:
    """The names to look up, the most important first, no more than ``most``; none of a service that isn't
    offered (target ``.``)."""
    ordered = sorted(records, key=lambda one: (one.priority, -one.weight, one.target))
    return list(dict.fromkeys(one.target for one in ordered if one.target.rstrip(".")))[:most]


def servers(records: Sequence[Service], addresses: Mapping[str, Sequence[str]]) -> list[Found]:
    """The servers, those of the lowest priority first.

    Args:
        addresses: by target; one without any isn't there.
    """
    there = [one for one in records if addresses.get(one.target) and one.port]
    if not there:
        return []
    lowest = min(one.priority for one in there)
    heaviest = {one.priority: 0 for one in there}
    for one in there:
        heaviest[one.priority] = max(heaviest[one.priority], one.weight)
    found: dict[str, Found] = {}
    for one in sorted(there, key=lambda one: (one.priority, -one.weight, one.target, one.port)):
        share = weight(one.weight, heaviest[one.priority])
        for host in addresses[one.target]:
            address = address_of(host, one.port)
            found.setdefault(address, Found(address, share, one.priority > lowest))
    return list(found.values())


def weight(given: int, heaviest: int) -> int:
    """A record's weight (0 to 65535) as a server's.

    Zero is a small chance and not none, and where all are zero they are equal. Larger numbers than a server's
    weight can be are made smaller, with their ratios as far as whole numbers have them.
    """
    if heaviest <= LARGEST_WEIGHT:
        return max(1, given)
    return max(1, round(given * LARGEST_WEIGHT / heaviest))
