"""Frontends, compiled: what all binds of a frontend share, and what is special about one bind.

Floor: below the transaction, which names `Frontend`; phases take a transaction, so `Frontend` is generic in
what its phases take. Knows the configuration and backends; knows no connection.
"""

from __future__ import annotations

import ipaddress
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Generic, TypeAlias, TypeVar

from pylb.config.connections import needs_hello
from pylb.config.model import Frontend as FrontendConfig
from pylb.http.added import Added, Sends
from pylb.http.errors import Answer
from pylb.http.request import HeadLimits, RequestHead
from pylb.http.response import ResponseHead
from pylb.worker.backend import Backend
from pylb.worker.facts import Client


class Wait(ABC):
    """What a phase gives that can't decide yet: the request waits, and goes on at the next phase.

    After ``timeouts.server`` the exchange cancels it and answers 503.
    """

    @abstractmethod
    def start(self, go_on: Callable[[Answer | None], None]) -> None:
        """Begin to wait; ``go_on`` is to be called once, later than this call, with an answer or None."""

    @abstractmethod
    def cancel(self) -> None:
        """The client has left, or it takes too long: ``go_on`` must not be called from now on."""


class Drop:
    """What a phase gives for a request that isn't answered at all: its connection ends."""


DROP = Drop()

Result: TypeAlias = Answer | Wait | Drop | None
"""What a phase gives: None (go on), an answer (send it, and ask no server), a wait, or `DROP`."""

# Clients of which readers of heads are kept, and how many of each.
_CLIENTS, _READERS = 256, 16

T = TypeVar("T")


class Frontend(Generic[T]):
    """A frontend, compiled: the phases that its requests go through.

    A phase is a function of the transaction. What nothing needs isn't in the lists, and costs nothing.
    """

    __slots__ = (
        *("name", "backend", "raw", "body_bytes", "most_bytes", "body_rate"),
        *("on_request", "on_response", "on_account", "tells_all", "page", "again", "instead", "sends"),
    )

    def __init__(self, config: FrontendConfig, backend: Backend, body_bytes: int, body_rate: int) -> None:
        self.name = config.name
        self.backend = backend
        """Where a request goes that no rule has sent elsewhere."""
        self.raw = config.mode == "tcp"
        """Whether connections are relayed as they are."""
        self.body_bytes = body_bytes
        """The most bytes of a request's body, where its backend doesn't say otherwise; 0 for no limit."""
        self.most_bytes = body_bytes if backend.body_bytes is None else backend.body_bytes
        """The same for `backend`."""
        self.body_rate = body_rate
        """The fewest bytes per second of a request's body; 0 for any."""
        self.on_request: tuple[Callable[[T], Result], ...] = ()
        """What a whole head goes through before a server is picked."""
        self.on_response: tuple[Callable[[T, ResponseHead], ResponseHead], ...] | None = None
        """What each final response's head goes through, pylb's own included. None where servers' responses
        aren't looked at, neither for that nor for `page` and `again`."""
        self.on_account: tuple[Callable[[T], None], ...] = ()
        """What is done with a transaction that is over, beside counting it."""
        self.tells_all = False
        """Whether that is done for connections, too, that end without a byte of a request."""
        self.page: Callable[[T, int, bool], Answer | None] | None = None
        """The user's page for a status, of an error of pylb's own (True) or of a server's response."""
        self.again: frozenset[int] = frozenset()
        """Statuses for which `instead` is asked."""
        self.instead: Callable[[T, int, bool], bool] = lambda tx, status, whole: False
        """Whether another try's response is asked for in place of one with this status, given whether the
        request can be sent again."""
        self.sends = _sends(config)
        """Which fields requests get on their way to a server."""


def _sends(config: FrontendConfig) -> Sends:
    names = {name.lower().encode() for name in config.client_fields}
    if config.forwarded:
        names.add(b"forwarded")
    return Sends(frozenset(names), config.via, config.request_id, config.traceparent)


class _Spare:
    """What the readers of one client's connections have in common, and those that serve none."""

    __slots__ = ("added", "readers")

    def __init__(self, added: Added) -> None:
        self.added = added
        self.readers: list[RequestHead] = []


class Bind:
    """A bound address: how its clients are known, and what is added to the requests that come by it."""

    __slots__ = (
        *("key", "frontend", "tls", "sni", "hello"),
        *("_limits", "_trusted", "_asks", "_alike", "_spare"),
    )

    def __init__(
        self,
        key: str,
        config: FrontendConfig,
        frontend: Frontend[Any],
        sni: dict[str, Backend],
        limits: HeadLimits,
    ) -> None:
        self.key = key
        self.frontend = frontend
        self.tls = config.tls is not None
        """Whether TLS ends here."""
        self.sni = sni
        """Server names to backends, of a frontend that relays TLS as it is."""
        self.hello = bool(sni) or (not self.tls and config.mode == "tcp" and needs_hello(config.rules))
        """Whether what the client's TLS asks for is to be read before anything is decided."""
        self._limits = limits
        self._asks = config.tls is not None and config.tls.client_certificate != "none"
        # Whether a reader depends on nothing but the client's address; and by that, what is kept of it.
        self._alike = not (
            self._asks or b"x-forwarded-port" in frontend.sends.names or key.startswith("unix:")
        )
        self._spare: dict[bytes, _Spare] = {}
        self._trusted = [ipaddress.ip_network(network) for network in config.trusted_proxies]

    def trusts(self, host: str) -> bool:
        """Whether a peer's PROXY header and forwarding fields are believed (``trusted_proxies``)."""
        if not self._trusted:
            return False
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._trusted)

    def _trusts(self, address: bytes) -> bool:
        return self.trusts(address.decode("latin-1"))

    def reader(self, client: Client) -> RequestHead:
        """The reader of a client's request heads."""
        source = client.source if self.tls else client.address()
        address = b"unix" if source is None else source[0].encode()
        alike = self._alike and client.protocol == "HTTP/1"
        added = None
        if alike:
            spare = self._spare.get(address)
            if spare is not None:
                if spare.readers:
                    return spare.readers.pop()
                added = spare.added
        extra = port = b""
        if self._asks:
            who = client.subject
            if who:
                extra = b"X-Client-Cert-Subject: " + who + b"\r\n"
        frontend = self.frontend
        if b"x-forwarded-port" in frontend.sends.names:
            destination = client.destination
            port = b"" if destination is None else b"%d" % destination[1]
        made = RequestHead(
            address,
            b"localhost" if self.key.startswith("unix:") else self.key.encode(),
            b"https" if self.tls else b"http",
            self._limits,
            frontend.sends,
            port,
            extra,
            self._trusts if source is not None and self.trusts(source[0]) else None,
            b"2.0" if client.protocol == "HTTP/2" else b"1.1",
            added,
        )
        if alike and added is None:
            if len(self._spare) >= _CLIENTS:
                self._spare.clear()
            self._spare[address] = _Spare(made.added)
        return made

    def keep(self, reader: RequestHead) -> None:
        """Take a reader back whose HTTP/1 connection has ended, for the next one of the same client."""
        spare = self._spare.get(reader.added.client)
        if spare is not None and len(spare.readers) < _READERS and spare.added is reader.added:
            reader.forget()
            spare.readers.append(reader)

    def backend_for(self, name: str) -> Backend:
        """Where a TLS connection for a server name passes through to."""
        _, _, parent = name.partition(".")
        return self.sni.get(name) or self.sni.get("*." + parent) or self.frontend.backend
