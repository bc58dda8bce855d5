"""The end of a connection whose client may still be sending (RFC 9112 §9.6)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pylb.worker.guard import guarded

if TYPE_CHECKING:
    from pylb.worker.client import ClientConnection


class Lingering(asyncio.Protocol):
    """Takes over a connection that closes while its client may still be sending."""

    SECONDS = 1.0

    def __init__(self, client: ClientConnection) -> None:
        self._client = client
        transport = client.transport
        transport.set_protocol(self)
        transport.write_eof()
        if not client.reading:
            transport.resume_reading()
        self._later()

    def _later(self) -> None:
        self._client.worker.loop.call_later(self.SECONDS, self._end)

    @guarded
    def _end(self) -> None:
        if self._client.transport.get_write_buffer_size():
            self._later()  # the response is still on its way; the client's deadline bounds that
        else:
            self._client.transport.abort()

    @guarded
    def connection_lost(self, exc: Exception | None) -> None:
        self._client.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Dropped."""

    def crashed(self, error: Exception) -> None:
        self._client.crashed(error)
