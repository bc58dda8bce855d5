"""Backends as a worker sees them: servers, their pooled connections, and who gets the next request."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from array import array
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pylb import latency
from pylb.balance import ALGORITHMS
from pylb.config.model import Backend as BackendConfig
from pylb.config.model import Server as ServerConfig
from pylb.log import log
from pylb.net.proxyprotocol import TLVS, build_v1, build_v2
from pylb.scoreboard import OTHER_BACKENDS, Scoreboard, ServerField
from pylb.worker.http2server import Http2ServerStream, Http2Upstream
from pylb.worker.server import ServerConnection

if TYPE_CHECKING:
    from pylb.worker.exchange import Exchange
    from pylb.worker.main import Worker


class Upstream:
    """One server: its address, its idle connections (last used first), its cells of the scoreboard."""

    def __init__(
        self,
        config: ServerConfig,
        board: Scoreboard,
        index: int,
        row: int,
        context: ssl.SSLContext | None = None,
        server_name: str | None = None,
        send_proxy: str = "off",
        send_proxy_tlvs: Sequence[str] = (),
        http2: bool = False,
        backend: str = "",
    ) -> None:
        self.name = config.name
        self.backend = backend
        self.failing = 0  # connections that failed since the last one that did not
        self._failing_since = 0.0
        self.address = config.address
        self.pool: list[ServerConnection] = []
        # Columns over all rows; this worker writes its own row's cell only.
        self.active = board.server_column(ServerField.ACTIVE, index)
        self._requests = board.server_column(ServerField.REQUESTS, index)
        self._errors = board.server_column(ServerField.ERRORS, index)
        self.row = row
        # Counted here and written now and then: a cell of the scoreboard costs several times as much.
        self.requests = 0
        self.errors = 0
        self._context = context
        self._server_name = server_name or config.address.host
        self._send_proxy = send_proxy
        self._send_proxy_tlvs = send_proxy_tlvs
        self._http2 = http2
        self.multiplexed: list[Http2Upstream] = []

    def failed(self, worker: Worker, kind: str, why: str) -> None:
        """Say what the server did wrong, once; repetitions of the ``kind`` are counted."""
        if kind == "connect":
            if not self.failing:
                self._failing_since = worker.now
            self.failing += 1
        who = f"server {self.backend}/{self.name} at {self.address}"
        worker.say(logging.WARNING, ("server", self.backend, self.name, kind), f"{who}: {why}")

    def works(self, worker: Worker) -> None:
        """There is a connection again."""
        seconds, failures = worker.now - self._failing_since, self.failing
        self.failing = 0
        worker.repeats.over(("server", self.backend, self.name, "connect"))
        log.warning(
            "server %s/%s at %s: can be connected to again, after %d failures in %.0f s",
            *(self.backend, self.name, self.address, failures, seconds),
        )

    def flush(self) -> None:
        """Write the counters to the scoreboard."""
        self._requests[self.row] = self.requests
        self._errors[self.row] = self.errors

    async def connect(
        self, worker: Worker, timeout: float, exchange: Exchange
    ) -> ServerConnection | Http2ServerStream:
        """A new connection.

        Raises:
            OSError: refused, unreachable, no such host, or its certificate is not good.
            TimeoutError: not accepted within ``timeout`` seconds.
        """

        for multiplexed in self.multiplexed:
            if multiplexed.free:
                return Http2ServerStream(multiplexed)
        if len(worker.server_connections) >= worker.descriptors.bound:
            worker.close_an_idle_server_connection()
        made: list[ServerConnection | Http2Upstream] = []
        try:
            async with asyncio.timeout(timeout):
                connection = await self._open(worker, exchange, made)
        except BaseException:
            # Given up between its connection and here, uvloop's transport tells nobody of its end.
            for one in made:
                if one.transport is not None:
                    one.connection_lost(None)
            raise
        if connection.closed:  # before this task's turn; nobody would hear of it any more
            raise ConnectionResetError("closed at once")
        if isinstance(connection, Http2Upstream):
            tls_object = connection.transport.get_extra_info("ssl_object")
            if tls_object is not None and tls_object.selected_alpn_protocol() != "h2":
                connection.transport.close()
                raise OSError("the server does not speak HTTP/2")
            if self._send_proxy == "off":
                self.multiplexed.append(connection)
            else:
                connection.leaving = True  # announced as one client's: one stream
            return Http2ServerStream(connection)
        return connection

    async def _open(
        self, worker: Worker, exchange: Exchange, made: list[ServerConnection | Http2Upstream]
    ) -> ServerConnection | Http2Upstream:
        """Connect; what is made on the way is added to ``made``."""

        def protocol() -> ServerConnection | Http2Upstream:
            one: ServerConnection | Http2Upstream
            if self._http2:
                one = Http2Upstream(worker, self, b"http" if self._context is None else b"https")
            else:
                private, speaks_first = self._send_proxy != "off", exchange.server_may_speak_first
                one = ServerConnection(worker, self, private, speaks_first)
            made.append(one)
            return one

        loop = worker.loop
        address = self.address
        tls: dict[str, Any] = {}
        if self._context is not None:
            tls = {"ssl": self._context, "server_hostname": self._server_name}
        if self._send_proxy != "off":
            sock = await self._announce(loop, exchange)
            _, connection = await loop.create_connection(protocol, sock=sock, **tls)
        elif address.is_unix:
            _, connection = await loop.create_unix_connection(protocol, address.path, **tls)
        else:
            _, connection = await loop.create_connection(protocol, address.host, address.port, **tls)
        return connection

    async def _announce(self, loop: asyncio.AbstractEventLoop, exchange: Exchange) -> socket.socket:
        """A connected socket on which the PROXY header was sent."""
        address = self.address
        if address.is_unix:
            sock = socket.socket(socket.AF_UNIX)
            target: Any = address.path
        else:
            found = await loop.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM)
            sock = socket.socket(found[0][0])
            target = found[0][4]
        try:
            sock.setblocking(False)
            await loop.sock_connect(sock, target)
            source, destination = exchange.endpoints()
            if self._send_proxy == "v1":
                header = build_v1(source, destination)
            else:
                facts = exchange.client_tls() if self._send_proxy_tlvs else {}
                tlvs = tuple((TLVS[name], facts[name]) for name in self._send_proxy_tlvs if facts.get(name))
                header = build_v2(source, destination, tlvs)
            await loop.sock_sendall(sock, header)
        except BaseException:
            sock.close()
            raise
        return sock


class Backend:
    """A group of servers and its balancing algorithm."""

    def __init__(
        self,
        config: BackendConfig,
        board: Scoreboard,
        index_of: Callable[[ServerConfig], int],
        row: int,
        alone: Callable[[], bool],
        context: ssl.SSLContext | None = None,
    ) -> None:
        """``context`` is what its connections speak TLS with; required where the configuration says TLS."""
        if config.tls is not None and context is None:
            raise ValueError(f"backend {config.name}: no TLS context")
        self.name = config.name
        self.retries = config.retries
        # Counted here and written with each tick, as all is.
        self.times = [0] * latency.WIDTH
        self._times = board.times(board.backends.get(config.name, OTHER_BACKENDS), row)
        name = config.tls.name if config.tls is not None else None
        self.upstreams = [
            Upstream(
                *(server, board, index_of(server), row, context, name),
                *(config.send_proxy, config.send_proxy_tlvs, config.http2, config.name),
            )
            for server in config.servers
        ]
        columns = self._columns = [upstream.active for upstream in self.upstreams]

        def loads() -> Sequence[int]:
            # Live over all workers; with one worker its own cells say it all.
            if alone():
                return [column[row] for column in columns]
            return [sum(column) for column in columns]

        weights = [server.weight for server in config.servers]
        self.balancer = ALGORITHMS[config.balance](weights, loads)

    def look_at(self, rows: int) -> None:
        """Sum over the first rows only: those behind them are unused."""
        self._columns[:] = [upstream.active[:rows] for upstream in self.upstreams]

    def flush(self) -> None:
        """Write what was counted to the scoreboard."""
        self._times[:] = memoryview(array("q", self.times))
        for upstream in self.upstreams:
            upstream.flush()
