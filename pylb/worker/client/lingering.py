"""The end of a connection whose client may still be sending (RFC 9112 §9.6), as nginx's ``lingering_close``.

Floor: client side. Knows no exchange.
"""

from __future__ import annotations

import asyncio

from pylb.worker.core import Core
from pylb.worker.guard import guarded
from pylb.worker.pipe import Owner


class Lingering(asyncio.Protocol):
    """Takes over a connection that closes while its client may still be sending: shuts pylb's side, and
    drops what comes, until the client closes too, sends nothing for a while, or has sent for too long.

    Args:
        reading: whether the transport is being read.
        owner: told when the connection has ended.
    """

    QUIET = 5.0
    """Seconds without a byte after which nothing more is expected."""
    SECONDS = 30.0
    """How long a client may go on sending."""
    BYTES = 1 << 28
    """How much it may send."""

    def __init__(
        self,
        core: Core,
        transport: asyncio.Transport,
        reading: bool,
        owner: Owner,
    ) -> None:
        self._core = core
        self._until = core.loop.time() + self.SECONDS
        self._came = 0
        self._seen = -1
        self._transport = transport
        self._owner = owner
        transport.set_protocol(self)
        transport.write_eof()
        if not reading:
            transport.resume_reading()
        self._later()

    def _later(self) -> None:
        self._seen = self._came
        self._core.loop.call_later(self.QUIET, self._look)

    @guarded
    def _look(self) -> None:
        if self._transport.get_write_buffer_size():
            self._later()  # the response is still on its way; the connection's deadline bounds that
        elif self._came == self._seen or self._core.loop.time() >= self._until:
            self._transport.abort()
        else:
            self._later()

    @guarded
    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.connection_lost(exc)

    @guarded
    def data_received(self, data: bytes) -> None:
        self._came += len(data)
        if self._came > self.BYTES:
            self._transport.abort()

    def crashed(self, error: Exception) -> None:
        """An error of pylb's own: the connection ends now."""
        self._core.internal(error)
        self._owner.cut_off()
