"""The controller's listening sockets, of all kinds of addresses. Knows nothing of who connects."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket

from controller.address import Address, vsock_pair
from controller.socketfile import listen_unix, remove_own

BACKLOG = 1024  # when a controller starts anew, all balancers connect at once


class Listening:
    """Sockets that are listened on, each with its address."""

    def __init__(self) -> None:
        self.sockets: dict[socket.socket, Address] = {}
        self._made: list[tuple[str, tuple[int, int]]] = []

    async def add(self, address: Address, mode: int) -> Address:
        """Listen; gives the address as it is then (a TCP port of 0 takes a free one).

        Args:
            mode: of a unix socket's file.

        Raises:
            OSError: the address can't be listened on.
        """
        if address.kind == "serial":
            raise OSError(errno.EOPNOTSUPP, "a serial port is the balancer's end; listen on unix:PATH")
        if address.path:
            sock, made = listen_unix(address.path, mode, BACKLOG)
            self._made.append((address.path, made))
            socks = [sock]
        elif address.kind == "tcp":
            socks = await _listen_tcp(address)
            address = Address("tcp", address.host, socks[0].getsockname()[1])
        else:
            socks = [_bound(socket.AF_VSOCK, vsock_pair(address))]
        self.sockets.update(dict.fromkeys(socks, address))
        return address

    def close(self) -> None:
        """Close them all, and remove the files that were made."""
        for path, made in self._made:
            remove_own(path, made)
        for sock in self.sockets:
            sock.close()
        self._made.clear()
        self.sockets.clear()


def _bound(family: int, where: tuple[str, int] | tuple[int, int]) -> socket.socket:
    """A listening socket.

    Raises:
        OSError: it can't be bound.
    """
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        if family != socket.AF_VSOCK:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(where)
        sock.listen(BACKLOG)
    except OSError:
        sock.close()
        raise
    return sock


async def _listen_tcp(address: Address) -> list[socket.socket]:
    """A socket for each address of the host."""
    found = await asyncio.get_running_loop().getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    with contextlib.ExitStack() as stack:
        socks = []
        for family, _, _, _, where in dict.fromkeys(found):
            sock = _bound(family, where)  # type: ignore[arg-type]  # with IPv6 two more numbers
            stack.callback(sock.close)
            socks.append(sock)
        stack.pop_all()
        return socks
