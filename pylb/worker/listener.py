"""A bound address as a worker sees it: how its connections speak, and where their requests go."""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from typing import TYPE_CHECKING, Any

from pylb.config.model import Frontend
from pylb.http.errors import Refused, error_response, health_response
from pylb.http.request import RequestHead
from pylb.net.tls import subject
from pylb.scoreboard import Field, SupervisorField
from pylb.worker.client import ClientConnection
from pylb.worker.tcp import TcpConnection

if TYPE_CHECKING:
    from pylb.worker.main import Worker
    from pylb.worker.pool import Backend


class Overflow(asyncio.Protocol):
    """A connection above ``limits.connections``: told so, where that is cheap, and closed."""

    def __init__(self, speak: bool) -> None:
        self._speak = speak

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._speak:
            transport.write(error_response(503, True))  # type: ignore[attr-defined]
        transport.close()


Peer = tuple[str, int]


class Listener:
    """One ``bind`` of a frontend."""

    def __init__(self, worker: Worker, bind: str, frontend: Frontend, backends: dict[str, Backend]) -> None:
        self.bind = bind
        self.backend = backends[frontend.backend]
        self.accept_proxy = frontend.accept_proxy
        self.redirect = frontend.redirect_to_https
        self._health = frontend.health.path.partition("?")[0].encode() if frontend.health is not None else b""
        self.answers = self.redirect or bool(self._health)
        """Some requests are answered here and reach no server."""
        limit = frontend.body_bytes
        self.body_bytes = worker.limits.body_bytes if limit is None else limit
        self.context: ssl.SSLContext | None = None
        self.response_fields = b""
        """Added to each response; the last field's CRLF and the empty line included."""
        if frontend.tls is not None:
            self.context = worker.tls[bind]
            if frontend.tls.hsts:
                age = int(frontend.tls.hsts)
                self.response_fields = b"Strict-Transport-Security: max-age=%d\r\n\r\n" % age
        self.tls = self.context is not None
        self.by_hand = self.accept_proxy or self.tls
        """Something comes before a connection is a client's: `proxied` accepts it."""
        self.sni = {name: backends[backend] for name, backend in frontend.sni.items()}
        self._worker = worker
        self._frontend = frontend
        self._trusted = [ipaddress.ip_network(network) for network in frontend.trusted_proxies]

    def accepted(self) -> asyncio.Protocol:
        """The protocol of a connection that the event loop has accepted."""
        worker = self._worker
        worker.counters[Field.ACCEPTED] += 1
        try:
            if worker.descriptors.full(worker.held() + 1):
                worker.loop.call_soon(worker.pause)  # this one is accepted; libuv accepts one in a turn
            return self.protocol()
        except Exception as error:
            # Raised, it would reach libuv, which would wait for ever for somebody to take this connection.
            worker.internal(error)
            return Overflow(False)

    def protocol(self, peer: Peer | None = None) -> ClientConnection | TcpConnection | Overflow:
        """The protocol of a new connection; ``peer`` is the client that a PROXY header has told."""
        if self._worker.full():
            self._worker.count_refusal(Refused(503, "connections"))
            return Overflow(self._frontend.mode == "http" and not self.tls)
        if self._frontend.mode == "tcp":
            return TcpConnection(self._worker, self, peer)
        return ClientConnection(self._worker, self, peer)

    def error(self, status: int, close: bool, head_only: bool = False) -> bytes:
        """A response of pylb's own, with what is added to each."""
        return self._with_fields(error_response(status, close, head_only))

    def health(self, outgoing: bytes) -> int:
        """The status for a request that asks how this balancer is; 0 when it asks for something else.

        Whatever its method and query are, as with HAProxy's ``monitor-uri``.
        """
        if not self._health or outgoing.split(b" ", 2)[1].partition(b"?")[0] != self._health:
            return 0
        worker = self._worker
        return 503 if worker.stopping or worker.board.supervisor[SupervisorField.ANNOUNCING] else 200

    def health_response(self, status: int, close: bool, head_only: bool) -> bytes:
        """The answer to it."""
        return self._with_fields(health_response(status, close, head_only))

    def _with_fields(self, response: bytes) -> bytes:
        if self.response_fields:
            head, _, body = response.partition(b"\r\n\r\n")
            response = b"".join((head, b"\r\n", self.response_fields, body))
        return response

    def tls_options(self) -> dict[str, Any]:
        """What asyncio is told of TLS when a connection is accepted."""
        if self.context is None:
            return {}
        return {"ssl": self.context, "ssl_handshake_timeout": self._worker.timeouts.request}

    def trusts(self, host: str) -> bool:
        """Whether a peer is one whose word about clients is believed."""
        if not self._trusted:
            return False
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._trusted)

    def request_head(self, transport: asyncio.BaseTransport, peer: Peer | None) -> RequestHead:
        """The reader of a connection's request heads."""
        if peer is None:
            name = transport.get_extra_info("peername")
            peer = (name[0], name[1]) if isinstance(name, tuple) else None
        client = b"unix" if peer is None else peer[0].encode()
        host = b"localhost" if self.bind.startswith("unix:") else self.bind.encode()
        extra = b""
        if self.tls:
            who = subject(transport.get_extra_info("ssl_object"))
            if who:
                extra = b"X-Client-Cert-Subject: " + who + b"\r\n"
        frontend = self._frontend
        return RequestHead(
            client,
            host,
            b"https" if self.tls else b"http",
            self._worker.head_limits,
            extra=extra,
            trusted=peer is not None and self.trusts(peer[0]),
            forwarded=frontend.forwarded,
            request_id=frontend.request_id,
        )

    def sni_backend(self, name: str) -> Backend:
        """Where a TLS connection for ``name`` passes through to."""
        _, _, parent = name.partition(".")
        return self.sni.get(name) or self.sni.get("*." + parent) or self.backend
