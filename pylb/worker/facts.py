"""What is known of a client: one object per connection, made when it is accepted.

The bottom floor of the worker. Most requests ask for none of it, so it is read from the transport when it is
asked for.
"""

from __future__ import annotations

import asyncio
import time

from pylb.net.tls import asked_name, subject

Endpoint = tuple[str, int]
"""An address and a port."""


class Client:
    """The facts of one client connection; all requests on it share them.

    Args:
        bind: the key of the bound address that it came by.
        told: the client, where a trusted PROXY header has told it.
    """

    __slots__ = ("bind", "told", "name", "accepted_ns", "requests", "_transport")

    def __init__(
        self, transport: asyncio.BaseTransport, bind: str, told: Endpoint | None = None, name: str = ""
    ) -> None:
        self.bind = bind
        self.told = told
        self.name = name
        """The server name of a ClientHello that was read without ending its TLS here."""
        self.accepted_ns = time.monotonic_ns()
        self.requests = 0
        """How many requests have begun on this connection."""
        self._transport = transport

    @property
    def source(self) -> Endpoint | None:
        """The client's address and port; None for a unix socket."""
        return self.told or _endpoint(self._transport, "peername")

    @property
    def destination(self) -> Endpoint | None:
        """The address and port that it connected to; None for a unix socket."""
        return _endpoint(self._transport, "sockname")

    @property
    def tls(self) -> dict[str, bytes]:
        """What it said in its TLS handshake: ``alpn`` and ``authority`` (the server name)."""
        tls = self._transport.get_extra_info("ssl_object")
        if tls is None:
            return {"authority": self.name.encode()} if self.name else {}
        return {"alpn": (tls.selected_alpn_protocol() or "").encode(), "authority": asked_name(tls).encode()}

    @property
    def subject(self) -> bytes:
        """Whom its certificate names; empty where it has shown none."""
        return subject(self._transport.get_extra_info("ssl_object"))


def _endpoint(transport: asyncio.BaseTransport, which: str) -> Endpoint | None:
    name = transport.get_extra_info(which)
    return (name[0], name[1]) if isinstance(name, tuple) else None
