"""The TCP codecs around a real exchange, over transports that keep what is written."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest

from pylb.config import routing
from pylb.config.address import parse_address
from pylb.config.model import Backend as BackendConfig
from pylb.config.model import Config, Rule, Server, Timeouts
from pylb.config.model import Frontend as FrontendConfig
from pylb.scoreboard import Scoreboard
from pylb.worker import backend, phases
from pylb.worker.client.tcp import TcpConnection
from pylb.worker.frontend import Bind
from pylb.worker.reasons import Reason
from pylb.worker.server import connect
from pylb.worker.server.tcp import TcpServerConnection
from tests.http.wire import TestCore, Transport

TIMEOUTS = Timeouts(connect=2.0, request=5.0)
First = Callable[[Transport], object]


class Line:
    """A client of a frontend in TCP mode. Connections to servers are made when `connect` is called.

    Its tests are coroutines, as connecting has a timeout, and only in a task there is one.

    Args:
        sni: whether a.example has a backend of its own.
        rules: of the frontend; "ruled" is a backend for them.
    """

    def __init__(
        self, patch: pytest.MonkeyPatch, sni: bool = False, rules: Sequence[dict[str, Any]] = ()
    ) -> None:
        self.core = TestCore(TIMEOUTS)
        self.board = Scoreboard(1)
        self.backends: list[backend.Backend] = []
        self.configured: list[BackendConfig] = []
        named = {"a.example": self._backend("named")} if sni else {}
        config = FrontendConfig(
            name="f", bind=(parse_address("127.0.0.1:80"),), backend="usual", mode="tcp",
            sni={name: "named" for name in named}, rules=tuple(map(Rule.model_validate, rules)),
        )  # fmt: skip
        backends = {name: self._backend(name) for name in ("usual", "ruled")}
        whole = Config(frontends=(config,), backends=tuple(self.configured))
        compiled = routing.compiled(whole, config, {}, backends)
        frontend = phases.compiled(config, backends, self.core, compiled)
        self.accounts: list[tuple[Reason | None, str, int, int]] = []
        frontend.on_account = (
            lambda tx: self.accounts.append((tx.reason, tx.state, tx.bytes_in, tx.bytes_out)),
        )
        self.asked: list[str] = []
        """The servers that were connected to, or would have been."""
        self.plays: list[First | Exception] = []
        """What a server does before its connection is used, or why there is none; one for each try."""
        self.near, self.far = Transport(), Transport()
        self.lost: list[Transport] = []
        self.client = TcpConnection(
            self.core, Bind("127.0.0.1:80", config, frontend, named, self.core.head_limits)
        )
        self.near.protocol = self.client
        patch.setattr(connect, "_open", self._open)

    def _backend(self, name: str) -> backend.Backend:
        servers = tuple(Server(name=one, address=parse_address("127.0.0.1:9")) for one in "ab")
        config = BackendConfig(name=name, balance="roundrobin", servers=servers, retries=1)
        made = backend.Backend(config, self.board, servers.index, 0, None, self.core.timeouts)
        self.backends.append(made)
        self.configured.append(config)
        return made

    async def _open(
        self, core: object, server: backend.Server, tx: object, made: list[Any], upgrade: bool
    ) -> Any:
        self.asked.append(server.backend)
        play = self.plays.pop(0) if self.plays else None
        if isinstance(play, Exception):
            raise play
        self.far = Transport()
        codec = self.far.protocol = TcpServerConnection(self.core)
        made.append(codec)
        codec.connection_made(cast(asyncio.Transport, self.far))
        if play is not None:
            play(self.far)
        return codec

    def begin(self) -> Line:
        """The client has connected."""
        self.client.connection_made(cast(asyncio.Transport, self.near))
        return self

    def connect(self, *plays: First | Exception) -> None:
        """The server that is connected to has accepted, or not."""
        self.plays += plays
        self.core.stand_in.run_tasks()
        self.settle()

    def comes(self, transport: Transport, *pieces: bytes) -> None:
        """Bytes come from one end."""
        for piece in pieces:
            assert transport.reading and not transport.closed
            transport.protocol.data_received(piece)

    def ends(self, transport: Transport) -> None:
        """One end says that nothing more comes from it."""
        if not transport.protocol.eof_received():
            transport.close()

    def settle(self) -> None:
        """The ends of closed connections are told."""
        for transport in (self.near, self.far, self.near):
            if transport.closed and transport not in self.lost:
                self.lost.append(transport)
                transport.protocol.connection_lost(None)

    def over(self) -> tuple[Reason | None, str, int, int]:
        """Its one account; nothing is left of it."""
        self.settle()
        assert self.near.closed and (self.far.closed or not self.far.protocol)
        assert not self.core.clients and not self.core.tunnels and not self.core.stand_in.tasks
        assert not any(server.active[0] for one in self.backends for server in one.servers)
        (account,) = self.accounts
        return account
