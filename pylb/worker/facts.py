"""What is known of a client: one object per connection, made when it is accepted.

Most requests ask for none of it, so it is read from the transport when it is asked for.

Floor: the bottom of the worker; knows the transport and nothing else of pylb's connections.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

from pylb.net.tls import asked_name, subject

Endpoint = tuple[str, int]
"""An address and a port."""


class Client:
    """The facts of one client connection; all requests on it share them.

    Args:
        bind: the key of the bound address that it came by.
        told: the client's address and port, where a trusted PROXY header has given them.
    """

    __slots__ = (
        *("bind", "told", "name", "offered", "protocol", "accepted_ns", "requests", "label", "_transport"),
        *("own", "_source"),
    )

    def __init__(
        self, transport: asyncio.BaseTransport, bind: str, told: Endpoint | None = None, name: str = ""
    ) -> None:
        self.bind = bind
        self.told = told
        self.name = name
        """The server name of a ClientHello that was read without ending its TLS here."""
        self.offered: Sequence[bytes] = ()
        """The protocols that it offers by ALPN, likewise."""
        self.protocol = "HTTP/1"
        """What it speaks, for logs; the version of HTTP/1 is each request's own."""
        self.accepted_ns = time.monotonic_ns()
        self.requests = 0
        """How many requests have begun on this connection."""
        self.label = ""
        """Address and port as the access log writes them, once it has."""
        self.own: dict[Any, Any] | None = None
        """Connections that serve nobody else, by their server (`pool`); None where there are none."""
        self._transport = transport
        self._source: Endpoint | None = told

    def end(self) -> None:
        """The connection has ended, and with it those to servers that were its own."""
        own, self.own = self.own, None
        for side in list((own or {}).values()):
            side.abort()

    def moved(self, transport: asyncio.BaseTransport) -> None:
        """The connection has come from another process; it has this transport here."""
        self._transport = transport

    @property
    def source(self) -> Endpoint | None:
        """The client's address and port; None for a unix socket.

        A socket that was reset has forgotten it, so it is kept once it was asked for."""
        source = self._source
        if source is None:
            source = self._source = _endpoint(self._transport, "peername")
        return source

    def address(self) -> Endpoint | None:
        """`source`, which isn't kept for it, as that is a tenth of an idle connection. Not with TLS, whose
        transport has forgotten it when it is closed."""
        return self._source or _endpoint(self._transport, "peername")

    @property
    def destination(self) -> Endpoint | None:
        """The address and port that it connected to; None for a unix socket."""
        return _endpoint(self._transport, "sockname")

    @property
    def tls(self) -> dict[str, bytes]:
        """What its TLS handshake has led to: ``alpn``, and ``authority``, the server name that it asked for.

        Empty without TLS; of TLS that passes through only the name is known."""
        tls = self._transport.get_extra_info("ssl_object")
        if tls is None:
            return {"authority": self.name.encode()} if self.name else {}
        return {"alpn": (tls.selected_alpn_protocol() or "").encode(), "authority": asked_name(tls).encode()}

    @property
    def alpn(self) -> Sequence[bytes]:
        """The protocol that its TLS agreed on; of TLS that passes through, those that it offers."""
        agreed = self.tls.get("alpn", b"")
        return (agreed,) if agreed else self.offered

    @property
    def tls_version(self) -> str:
        """``TLSv1.3``; empty where no TLS ends here."""
        tls = self._transport.get_extra_info("ssl_object")
        return "" if tls is None else tls.version() or ""

    @property
    def tls_cipher(self) -> str:
        """``TLS_AES_256_GCM_SHA384``; empty where no TLS ends here."""
        tls = self._transport.get_extra_info("ssl_object")
        cipher = tls.cipher() if tls is not None else None
        return "" if cipher is None else cipher[0]

    @property
    def subject(self) -> bytes:
        """The subject of its certificate; empty where it has shown none."""
        return subject(self._transport.get_extra_info("ssl_object"))


def _endpoint(transport: asyncio.BaseTransport, which: str) -> Endpoint | None:
    name = transport.get_extra_info(which)
    return (name[0], name[1]) if isinstance(name, tuple) else None
