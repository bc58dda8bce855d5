"""A socket connected to a server by its name: of several addresses the first that answers (RFC 8305).

The addresses are tried in the order in which the system gives them, families in turn, each `HEAD_START` after
the one before it or as soon as that has failed. Those that have lost a race are tried last for a while, so
that a dead one costs nothing but the first connection.

Floor: server side. Knows a server's address, and neither codecs nor requests.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable
from functools import lru_cache
from itertools import chain, zip_longest
from typing import Any

from aiohappyeyeballs import start_connection

from pylb.net import tcpoptions
from pylb.worker.backend import Server
from pylb.worker.core import Core

HEAD_START = 0.25
"""Seconds that an address has before the next one is tried, too (RFC 8305 §8: Connection Attempt Delay)."""
AVOIDED = 60.0
"""Seconds for which an address that did not answer in time is tried after the others."""

Found = tuple[Any, Any, int, str, Any]
"""What ``getaddrinfo`` gives: family, type, protocol, name, address."""


@lru_cache(1024)
def is_literal(host: str) -> bool:
    """Whether this is an IP address and no name."""
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host.partition("%")[0])
        except (OSError, ValueError):
            continue
        return True
    return False


async def dial(core: Core, server: Server, port: int) -> socket.socket:
    """A socket that is connected to one of the server's addresses.

    Raises:
        OSError: no such name, or none of its addresses can be connected to.
    """
    found = await core.loop.getaddrinfo(server.address.host, port, type=socket.SOCK_STREAM)
    now = core.loop.time()
    avoided = server.avoided
    for address in [address for address, until in avoided.items() if until < now]:
        del avoided[address]
    places = sorted(in_turn(found), key=lambda one: one[4] in avoided)  # stable
    begun: dict[socket.socket, Any] = {}

    def make(place: Found) -> socket.socket:
        sock = socket.socket(place[0], place[1], place[2])
        tcpoptions.apply(sock, core.tcp_options)
        begun[sock] = place[4]
        return sock

    sock = await start_connection(
        places, happy_eyeballs_delay=HEAD_START, interleave=0, loop=core.loop, socket_factory=make
    )
    avoided.pop(begun.pop(sock), None)
    for address in begun.values():
        avoided[address] = core.loop.time() + AVOIDED
    return sock


def in_turn(found: Iterable[Found]) -> list[Found]:
    """The families in turn, in the order in which each has its first address (RFC 8305 §4); each once."""
    families: dict[Any, dict[Any, Found]] = {}
    for one in found:
        families.setdefault(one[0], {}).setdefault(one[4], one)
    rows = zip_longest(*(addresses.values() for addresses in families.values()))
    return [one for one in chain.from_iterable(rows) if one is not None]
