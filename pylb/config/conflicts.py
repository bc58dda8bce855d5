"""Addresses of one configuration that can't all be listened on at once.

Above `address`, below `links`. It looks host names up, and knows nothing of sections.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator

from pylb.config.address import Address, Place, place, resolve

Bound = tuple[str, str]
"""The key that has an address, and how it is spelled there."""


def conflicts(named: Iterable[tuple[str, Address]]) -> Iterator[tuple[str, str]]:
    """(key, sentence) for each address that is in the way of an earlier one.

    Args:
        named: the key's path in the file (``frontend[0].bind[1]``) and the address, in the file's order.

    ``*:80`` takes every address of its family, so ``127.0.0.1:80`` is one of them; a name is looked up as it
    is when it is listened on. Port 0 is a free port each time.
    """
    exact: dict[Place, Bound] = {}
    by_port: dict[tuple[int, int], dict[str, Bound]] = {}  # family and port: host and who has it
    for key, address in named:
        if address.is_unix:
            where = place(address)
            if where in exact:
                yield key, _sentence(address, exact[where])
            exact.setdefault(where, (key, str(address)))
            continue
        if address.port == 0:
            continue
        for host in _hosts(address):
            version = ipaddress.ip_address(host.partition("%")[0]).version
            used = by_port.setdefault((version, address.port), {})
            other = _in_the_way(host, used)
            if other is not None:
                yield key, _sentence(address, other)
                break
            used[host] = key, str(address)


def _sentence(address: Address, other: Bound) -> str:
    key, spelled = other
    where = key if spelled == str(address) else f"{key} ({spelled})"
    return f"{address} is bound by {where}, too"


def _hosts(address: Address) -> list[str]:
    """Numeric hosts of an address; none where its name is unknown, which listening will report."""
    try:
        ipaddress.IPv6Address(address.host)
    except ValueError:
        pass
    else:
        scope = address.host.partition("%")[1:]
        plain = str(ipaddress.IPv6Address(address.host.partition("%")[0]))
        return [plain + "".join(scope)]
    try:
        return list(dict.fromkeys(str(target[0]) for _, target in resolve(address)))
    except (OSError, ValueError):
        return []


def _in_the_way(host: str, used: dict[str, Bound]) -> Bound | None:
    """Who has an address of this family and port beside which this host can't be listened on."""
    if host in used:
        return used[host]
    any_address = "::" if ":" in host else "0.0.0.0"
    if any_address in used:
        return used[any_address]
    if host == any_address and used:
        return next(iter(used.values()))
    return None
