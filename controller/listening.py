"""The sockets that the controller listens on: bound, and a unix socket's file removed at the end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket

from controller.address import Address, vsock_pair
from controller.socketfile import listen_unix, remove_own

BACKLOG = 1024  # when a controller starts anew, all balancers connect at once


class Listening:
    """One address, with a socket for each of what its name stands for."""

    def __init__(self, address: Address, socks: list[socket.socket], made: tuple[int, int] | None) -> None:
        self.address = address
        """With the port that was taken, where any would do."""
        self.socks = socks
        self._made = made

    @classmethod
    async def on(cls, address: Address, mode: int) -> Listening:
        """Listen; ``mode`` is that of a unix socket's file.

        Raises:
            OSError: the address can't be listened on.
        """
        if address.kind == "serial":
            raise OSError(errno.EOPNOTSUPP, "a serial port is the balancer's end; listen on unix:PATH")
        if address.kind == "unix":
            sock, made = listen_unix(address.host, mode, BACKLOG)
            return cls(address, [sock], made)
        if address.kind == "tcp":
            socks = await _listen_tcp(address)
            return cls(Address("tcp", address.host, socks[0].getsockname()[1]), socks, None)
        return cls(address, [_bound(socket.AF_VSOCK, vsock_pair(address))], None)

    def close(self) -> None:
        """Listen no more."""
        if self._made is not None:
            remove_own(self.address.host, self._made)
        for sock in self.socks:
            sock.close()


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
