"""Options of TCP sockets: what the kernel does about peers that are gone (``man 7 tcp``).

Floor: the bottom of the network. Sockets get them when they are made; those that a listening socket accepts
inherit its options.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Protocol

from pylb.config.model import Tcp

Option = tuple[int, int, int]
"""Level, name and value, as ``setsockopt`` takes them."""

_LONGEST = 32767
"""Seconds: the kernel's bound of the times between questions (``MAX_TCP_KEEPIDLE``)."""


class Settable(Protocol):
    """A socket, or what the event loop shows of one."""

    def setsockopt(self, level: int, name: int, value: int, /) -> None:
        """As a socket's."""


def options(config: Tcp) -> tuple[Option, ...]:
    """Those that the configuration asks for; what it doesn't say is as in a new socket."""
    return tuple(_options(config))


def _options(config: Tcp) -> Iterator[Option]:
    yield socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(config.keep_alive > 0)
    if config.keep_alive:
        yield socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _seconds(config.keep_alive)
        if config.keep_alive_interval:
            yield socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _seconds(config.keep_alive_interval)
        if config.keep_alive_probes:
            yield socket.IPPROTO_TCP, socket.TCP_KEEPCNT, config.keep_alive_probes
    yield socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, min(int(config.user_timeout * 1000), (1 << 31) - 1)


def _seconds(seconds: float) -> int:
    return max(1, min(round(seconds), _LONGEST))


def apply(sock: Settable, wanted: tuple[Option, ...]) -> None:
    """Set them on a TCP socket; what the kernel doesn't know is left as it is."""
    for level, name, value in wanted:
        try:
            sock.setsockopt(level, name, value)
        except OSError:
            continue
