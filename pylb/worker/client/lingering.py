"""The end of a connection whose client may still be sending (RFC 9112 §9.6).

Floor: client side. Knows no exchange.
"""

from __future__ import annotations

import asyncio

from pylb.worker.core import Core
from pylb.worker.guard import guarded
from pylb.worker.pipe import Owner


class Lingering(asyncio.Protocol):
    """Takes over a connection that closes while its client may still be sending: shuts pylb's side, and
    drops what comes for a moment.

    Args:
        reading: whether the transport is being read.
        owner: told when the connection has ended.
    """

    SECONDS = 1.0

    def __init__(
        self,
        core: Core,
        transport: asyncio.Transport,
        reading: bool,
        owner: Owner,
    ) -> None:
        self._core = core
        self._transport = transport
        self._owner = owner
        transport.set_protocol(self)
        transport.write_eof()
        if not reading:
            transport.resume_reading()
        self._later()

    def _later(self) -> None:
        self._core.loop.call_later(self.SECONDS, self._end)

    @guarded
    def _end(self) -> None:
        if self._transport.get_write_buffer_size():
            self._later()  # the response is still on its way; the connection's deadline bounds that
        else:
            self._transport.abort()

    @guarded
    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Dropped."""

    def crashed(self, error: Exception) -> None:
        """An error of pylb's own: the connection ends now."""
        self._core.internal(error)
        self._owner.cut_off()
