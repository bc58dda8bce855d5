"""Connections to an HTTP/2 server: many requests at a time wait for the one that is being made."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import pytest

from pylb.worker.core import Core
from pylb.worker.server import connect as module
from pylb.worker.server.http2 import Http2ServerConnection
from pylb.worker.transaction import Transaction
from tests.http.wire import Transport, Wire


class Network:
    """Connections that are made when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wire = Wire()
        self.core = self.wire.worker
        self.core.loop = asyncio.get_running_loop()
        self.server = self.wire.upstream
        self.server.http2 = True
        self.opened = 0
        self.reachable = asyncio.Event()
        self.problem: OSError | None = None
        monkeypatch.setattr(module, "_open", self._open)
        self.head = SimpleNamespace(upgrade=b"")
        tx = SimpleNamespace(frontend=SimpleNamespace(raw=False), head=self.head)
        tx.timeouts = SimpleNamespace(connect=30.0)
        self.tx = cast(Transaction, tx)

    async def _open(self, core: Core, server: Any, tx: Any, made: list[Any], upgrade: bool) -> Any:
        self.opened += 1
        await self.reachable.wait()
        if self.problem is not None:
            raise self.problem
        codec = Http2ServerConnection(core, server)
        codec.connection_made(cast(asyncio.BaseTransport, Transport()))
        return codec

    async def ask(self) -> None:
        """A request that is sent as soon as there is a connection, and isn't answered."""
        side: Any = await module.connect(self.core, self.server, self.tx)
        side.begin(side.connection.next)
        side.connection.next += 2
        side.connection.streams[side.number] = side


async def test_90_requests_at_a_cold_start_share_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch)
    asking = [asyncio.create_task(network.ask()) for _ in range(90)]
    await asyncio.sleep(0)
    network.reachable.set()
    await asyncio.gather(*asking)
    assert network.opened == len(network.server.shared) == 1


async def test_above_its_stream_limit_another_one_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch)
    network.reachable.set()
    await asyncio.gather(*[network.ask() for _ in range(250)])
    assert network.opened == len(network.server.shared) == 3


async def test_all_that_wait_hear_that_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch)
    network.problem = ConnectionRefusedError("no")
    asking = [asyncio.create_task(network.ask()) for _ in range(9)]
    await asyncio.sleep(0)
    network.reachable.set()
    outcomes = await asyncio.gather(*asking, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {ConnectionRefusedError}
    assert network.opened == 1


async def test_who_connects_may_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Network(monkeypatch)
    first, *others = [asyncio.create_task(network.ask()) for _ in range(5)]
    await asyncio.sleep(0)
    first.cancel()
    network.reachable.set()
    await asyncio.gather(*others)
    assert len(network.server.shared) == 1
