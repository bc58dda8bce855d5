"""A scene: a real exchange between a fake client and fake servers, and what a test does with it.

The exchange is called through `Scene.tell`, which catches what it raises and hands it back by ``crashed``, as
every codec does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest

from pylb.config import stickiness
from pylb.config.address import parse_address
from pylb.config.model import Backend as BackendConfig
from pylb.config.model import Frontend as FrontendConfig
from pylb.config.model import Limits, Pool, Server, Sticky, Timeouts
from pylb.http.errors import Answer
from pylb.http.request import RequestHead
from pylb.scoreboard import Field, Scoreboard, ServerField
from pylb.worker import backend, phases, way
from pylb.worker.ends import Ends
from pylb.worker.exchange import Exchange, begin
from pylb.worker.facts import Client
from pylb.worker.frontend import Wait
from pylb.worker.phases import choose
from pylb.worker.phases.gates import Gates
from pylb.worker.phases.queue import Gate
from pylb.worker.sides import ServerSide
from pylb.worker.transaction import Transaction
from tests.http.wire import TestCore, Transport
from tests.worker.stand_ins import GET, FakeClient, FakeServer

TIMEOUTS = Timeouts(connect=2.0, client=10.0, server=30.0, tunnel=100.0)
SERVERS = 3
_BOARD = Scoreboard(1)


class Waits(Wait):
    """A wait that ends when the test says so."""

    def __init__(self) -> None:
        self.go_on: Callable[[Answer | None], None] = lambda answer: None
        self.cancelled = 0

    def start(self, go_on: Callable[[Answer | None], None]) -> None:
        self.go_on = go_on

    def cancel(self) -> None:
        self.cancelled += 1


class _InOrder:
    """A balancer that picks the first server that was not tried."""

    def pick(self, tried: frozenset[int], key: bytes | None = None) -> int | None:
        return min(set(range(SERVERS)) - tried, default=None)


Account = dict[str, Any]


class Scene:
    """An exchange between a fake client and fake servers.

    Each connection to a server is what stands first in ``connections``: a side, or the error of a connection
    that fails. Connecting takes until `connect` is called.

    Args:
        pooled: whether the servers have an idle connection each.
        more: the backend's configuration, beside the usual.
        frontend: the frontend's.
    """

    def __init__(
        self,
        patch: pytest.MonkeyPatch,
        pooled: bool = True,
        retries: int = 1,
        timeouts: Timeouts | None = None,
        limits: Limits | None = None,
        more: dict[str, Any] | None = None,
        sticky: Sticky | None = None,
        **frontend: Any,
    ) -> None:
        core = self.core = TestCore(timeouts, limits)
        servers = tuple(
            Server(name=f"s{number}", address=parse_address(f"127.0.0.{number + 1}:9"))
            for number in range(SERVERS)
        )
        config = BackendConfig(
            name="b",
            balance="roundrobin",
            servers=servers,
            retries=retries,
            pool=Pool(reuse="always"),
            sticky=sticky,
            **more or {},
        )
        self.backend = backend.Backend(config, _BOARD, servers.index, 0, None, core.timeouts)
        self.backend.balancer = cast(Any, _InOrder())
        self.backend.stick(stickiness.compiled(config))
        self.backend.choose = choose.compiled(self.backend)
        for number in range(SERVERS):
            _BOARD.server_column(ServerField.ACTIVE, number)[0] = 0
        front = FrontendConfig(
            **{"name": "f", "bind": (parse_address("127.0.0.1:80"),), "backend": "b", **frontend}
        )
        self.frontend = phases.compiled(front, {"b": self.backend}, core)
        self.frontend.on_account = (*self.frontend.on_account, self._account)
        self.accounts: list[Account] = []
        self.connections: list[FakeServer | Exception] = []
        self.idle = [FakeServer() for _ in servers] if pooled else []
        for server, side in zip(self.backend.servers, self.idle, strict=False):
            server.pool.idle[side] = None
        self.facts = Client(cast(asyncio.BaseTransport, Transport()), "127.0.0.1:80")
        self.client = FakeClient(self.facts)
        self.exchange: Exchange = begin(core, self.facts, self.frontend)
        patch.setattr(way, "connect", self._connect)

    async def _connect(self, core: object, server: backend.Server, tx: Transaction) -> ServerSide:
        one = self.connections.pop(0)
        if isinstance(one, Exception):
            raise one
        return one

    def _account(self, tx: Transaction) -> None:
        names = [
            name for name in Transaction.__slots__ if name not in ("client", "frontend", "head", "backend")
        ]
        account = {name: getattr(tx, name) for name in names}
        account["status"] = tx.response.status if tx.response is not None else 0
        self.accounts.append(account)

    def phases(self, *results: object) -> list[int]:
        """The frontend gets phases of the request that give these; which of them have run is noted."""
        ran: list[int] = []

        def phase(number: int, result: Any) -> Callable[[Transaction], Any]:
            def run(tx: Transaction) -> Any:
                ran.append(number)
                if isinstance(result, Exception):
                    raise result
                return result

            return run

        self.frontend.on_request = tuple(phase(number, result) for number, result in enumerate(results))
        return ran

    def gate(self) -> Gate:
        """The backend gets its gate, as the process gives it one."""
        Gates(self.core, _BOARD, 0).watch(self.backend)
        gate: Gate = self.backend.gate
        return gate

    def anew(self) -> None:
        """Another request is about to come, as if it were the first."""
        self.accounts.clear()
        self.client = FakeClient(self.facts)
        self.facts.requests = 0
        self.exchange = begin(self.core, self.facts, self.frontend)
        self.core.counters[:] = [0] * len(self.core.counters)
        self.core.times[:] = [0] * len(self.core.times)
        self.backend.times[:] = [0] * len(self.backend.times)

    def again(self) -> None:
        """The client's connection goes on to its next request."""
        assert begin(self.core, self.facts, self.frontend) is self.exchange
        self.client = FakeClient(self.facts)
        self.accounts.clear()

    # What happens

    def tell(self, word: Callable[..., object], *arguments: Any) -> None:
        """Tell the exchange something, as a codec does that works for it."""
        if self.accounts:
            return
        try:
            word(*arguments)
        except Exception as error:
            self.exchange.crashed(error)

    def request(self, head: RequestHead | None = GET, body: bytes = b"", end: bool = True) -> None:
        """The client's request has come."""
        self.tell(self.exchange.request, self.client, head, body, end)

    def connect(self, *connections: FakeServer | Exception) -> None:
        """The connection that is under way, and those that follow of it, are there, or have failed."""
        self.connections += connections
        self.core.stand_in.run_tasks()

    def pass_(self, seconds: float) -> None:
        """Time passes, and the worker looks at the deadlines."""
        self.core.now += seconds
        if self.exchange.due() < self.core.now:
            self.tell(self.exchange.expire)

    def late(self) -> None:
        """The next deadline passes."""
        due = self.exchange.due()
        self.core.now = due + 0.1
        self.tell(self.exchange.expire)

    # What is seen

    @property
    def server(self) -> FakeServer:
        """The side that the exchange has."""
        return cast(FakeServer, self.exchange.server)

    @property
    def count(self) -> dict[str, int]:
        """The counters that are not 0."""
        counted = [field for field in Field if field < Field.REFUSED_FOR]
        return {field.name: self.core.counters[field] for field in counted if self.core.counters[field]}

    def over(self) -> Account:
        """The one account of an exchange that is over, of which nothing is left."""
        (account,) = self.accounts
        assert [sum(server.active) for server in self.backend.servers] == [0] * SERVERS
        exchange = self.exchange
        assert self.core.spare == [exchange]
        for slot in set(Ends.__slots__) - {"core", "tx", "__weakref__"}:
            assert getattr(exchange, slot) == getattr(Exchange(self.core), slot), slot
        anew = {"client", "frontend", "backend", "index", "began_ns", "ended_ns"}  # set for each request
        anew |= {"timeouts", "body_bytes"}
        for slot in set(Transaction.__slots__) - anew:
            assert getattr(exchange.tx, slot) == getattr(Transaction(), slot), slot
        assert all(side.free for side in self.idle)
        assert all(task.cancelled for task in self.core.stand_in.tasks)
        assert self.core.counters[Field.REQUESTS] == 1
        assert sum(self.backend.times[:-1]) + sum(self.core.times[:-1]) == 1
        return account
