"""In pieces: reads a connection for its codec in pieces of a bounded size, where much comes.

An event loop gives a codec up to 256 KB at a time. When the other side then takes nothing more, that is what
waits for it, for each client that is slow or doesn't read at all.

Floor: above core, below both sides, which use it. Knows a transport and a protocol, and neither requests nor
what is read.
"""

from __future__ import annotations

import asyncio
import sys
from fcntl import ioctl
from termios import TIOCOUTQ  # of a TTY, and the same number

PIECE = 64 * 1024
"""Bytes of a piece."""
MUCH = 512 * 1024
"""Bytes that the kernel keeps for one that lags. (A kernel that would take less makes it full before.)"""
_ROOM = memoryview(bytearray(PIECE))  # what is read leaves it at once, so all connections can have the same


class InPieces(asyncio.BufferedProtocol):
    """Stands in a protocol's place."""

    __slots__ = ("_to", "_came")

    def __init__(self, to: asyncio.Protocol) -> None:
        self._to = to
        self._came = to.data_received

    def get_buffer(self, sizehint: int) -> memoryview:
        return _ROOM

    def buffer_updated(self, nbytes: int) -> None:
        self._came(_ROOM[:nbytes].tobytes())

    def connection_lost(self, exc: Exception | None) -> None:
        self._to.connection_lost(exc)

    def eof_received(self) -> bool | None:
        return self._to.eof_received()

    def pause_writing(self) -> None:
        self._to.pause_writing()

    def resume_writing(self) -> None:
        self._to.resume_writing()


def switch(transport: asyncio.Transport, to: asyncio.BaseProtocol, reading: bool) -> None:
    """Have what is read given to another protocol, of the other kind, and read if it is to be."""
    transport.pause_reading()  # the loop looks at the kind when reading begins
    transport.set_protocol(to)
    if reading:
        transport.resume_reading()


def queued(transport: asyncio.Transport) -> int:
    """Bytes that the kernel keeps for the peer, which hasn't acknowledged them (man 7 tcp, ``SIOCOUTQ``)."""
    sock = transport.get_extra_info("socket")
    try:
        return int.from_bytes(ioctl(sock.fileno(), TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return 0  # no socket of TCP, or none any more
