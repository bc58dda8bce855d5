"""Tunnels on their way to another worker: what is packed, and what becomes of what nobody takes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any, cast

import pytest

from pylb.scoreboard import Field
from pylb.worker import tunnels as tunnels_
from pylb.worker.exchange import Exchange
from pylb.worker.packed import Packed, pack, unpack
from pylb.worker.reasons import Reason
from pylb.worker.tunnel import Half, Halves, Tunnel
from tests.http.wire import Wire
from tests.worker.tcp_line import Line


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """None is left open."""
    before = os.listdir("/proc/self/fd")
    yield
    assert len(os.listdir("/proc/self/fd")) == len(before)


def _halves(rest: bytes = b"") -> Halves:
    return Half(-1, rest, 7, True, None), Half(-1, b"far", 11, False, (3, b"\x81", True))


async def test_a_packed_request_is_the_same_one_and_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line(monkeypatch, sni=True)
    line.begin()
    line.comes(line.near, b"SSH-2.0\r\n")
    line.connect()
    (tunnel,) = line.core.tunnels
    assert isinstance(tunnel, Tunnel)
    tx = tunnel.exchange.tx
    tx.tried, tx.retries, tx.srv_queue = frozenset({3}), 1, 5
    names = [name for name in tx.__slots__ if name not in ("client", "response", "frontend", "fresh")]
    before = {name: getattr(tx, name) for name in names}
    client = tx.client
    packed = pack(tunnel, _halves(b"near"))
    assert not any(server.active[0] for one in line.backends for server in one.servers)
    exchange = line.core.spare.pop()
    assert exchange is tunnel.exchange
    bind, backend = line.client.bind, before["backend"]
    found = unpack(packed, exchange, bind, backend, line.board, 0)
    assert {name: getattr(exchange.tx, name) for name in names} == before
    assert sum(server.active[0] for server in backend.servers) == 1
    assert found.halves == _halves(b"near")
    assert (found.idle, found.deadline, found.protocol) == (tunnel.idle, tunnel.deadline, b"")
    for name in ("bind", "told", "name", "protocol", "accepted_ns", "requests", "source"):
        assert getattr(found.facts, name) == getattr(client, name), name
    exchange.client = line.client
    exchange.tunnel_over(Reason.CLIENT_GONE, 20, 30)
    assert line.accounts == [(Reason.CLIENT_GONE, "D", 20, 30)]
    assert not any(server.active[0] for one in line.backends for server in one.servers)


async def test_one_of_a_server_that_is_gone_is_counted_by_its_index(monkeypatch: pytest.MonkeyPatch) -> None:
    line = Line(monkeypatch).begin()
    line.connect()
    (tunnel,) = line.core.tunnels
    assert isinstance(tunnel, Tunnel)
    backend, server = tunnel.exchange.tx.backend, tunnel.exchange.tx.server
    packed = pack(tunnel, _halves())
    packed.entry["server"][1] = "former"
    exchange = line.core.spare.pop()
    unpack(packed, exchange, line.client.bind, backend, line.board, 0)
    assert exchange.tx.server.name == "former" and server.active[0] == 1
    exchange.client = line.client
    exchange.tunnel_over(None, 0, 0)
    assert server.active[0] == 0


def test_an_upgrade_keeps_its_head_and_its_identity() -> None:
    wire = Wire(request_id=True)
    wire.client_sends(b"GET /chat?x HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
    exchange = cast(Exchange, wire.client.exchange)
    identity = exchange.tx.head.request_id if exchange.tx.head else b""
    wire.server_sends(b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\nX-A: b\r\n\r\n")
    (tunnel,) = wire.worker.tunnels
    assert isinstance(tunnel, Tunnel)
    raw, out = exchange.tx.head.raw, exchange.tx.response.out  # type: ignore[union-attr]
    packed = pack(tunnel, _halves())
    board = wire.backend._board
    unpack(packed, exchange, wire.client.bind, wire.backend, board, 0)
    head, response = exchange.tx.head, exchange.tx.response
    assert head is not None and response is not None
    assert (head.raw, head.target, head.request_id) == (raw, b"/chat?x", identity)
    assert (response.out, response.status, response.upgrade) == (out, 101, b"x")
    exchange.moved()
    # A head that a reload's limits don't allow any more is left out.
    packed.entry["sizes"][-2] = packed.entry["sizes"][-2] - 2
    unpack(packed, exchange, wire.client.bind, wire.backend, board, 0)
    assert exchange.tx.head is None
    exchange.moved()


# Sent, or not


class Sender:
    """Tunnels of one worker, over transports without sockets."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rest: int = 0) -> None:
        self.line = Line(monkeypatch).begin()
        self.line.connect()
        line = self.line
        self.inbox, writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.writer = writer
        self.target: int | None = 0
        binds = {line.client.bind.key: line.client.bind}
        backends = {one.name: one for one in line.backends}
        self.tunnels = tunnels_.Tunnels(
            line.core, line.board, 0, [writer], binds, backends, lambda: self.target
        )
        self.adopted: list[Packed] = []
        monkeypatch.setattr(self.tunnels, "_adopt", self.adopted.append)
        null = os.open(os.devnull, os.O_RDONLY)
        (self.tunnel,) = cast("set[Tunnel]", line.core.tunnels)
        halves = (Half(null, b"x" * rest, 1, False, None), Half(os.dup(null), b"", 2, False, None))

        def detach(over: Any) -> bool:
            line.core.tunnels.discard(self.tunnel)
            over(halves)
            return True

        monkeypatch.setattr(Tunnel, "detach", lambda tunnel, over: detach(over))

    def offer(self) -> None:
        self.tunnels.empty(lambda bind, backend: True)
        self.line.core.stand_in.run_later()

    def close(self) -> None:
        self.inbox.close()
        self.writer.close()


@pytest.mark.parametrize("rest", [0, 5, 700_000])
async def test_a_packet_holds_all_of_it_however_much_is_left(
    monkeypatch: pytest.MonkeyPatch, rest: int
) -> None:
    from pylb.net import channel

    sender = Sender(monkeypatch, rest)
    sender.offer()
    assert not sender.adopted and sender.line.core.adopting == 0
    assert sender.line.core.counters[Field.HANDED_OVER] == 1
    packet = channel.recv_connections(sender.inbox)
    assert packet is not None
    header, fds = packet
    sender.tunnels.take(header, fds)
    assert fds == []
    (packed,) = sender.adopted
    assert packed.blob.count(b"x") == rest
    assert sender.line.core.adopting == 1 and sender.line.core.counters[Field.ADOPTED] == 1
    for descriptor in packed.descriptors:
        os.close(descriptor)
    sender.close()


@pytest.mark.parametrize("why", ["full", "nobody", "keep", "broken"])
async def test_what_nobody_takes_goes_on_here(monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    monkeypatch.setattr(tunnels_, "_TRIES", 3)
    sender = Sender(monkeypatch, 70_000 if why == "broken" else 0)
    loop = sender.line.core.stand_in
    if why == "nobody":
        sender.target = None
    elif why in ("full", "keep"):
        sender.writer.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                sender.writer.send(b"x" * 1000)
    else:
        sender.line.core.errors = []
        monkeypatch.setattr(os, "memfd_create", lambda *_: (_ for _ in ()).throw(OSError(24, "too many")))
    sender.offer()
    if why == "full":
        assert not sender.adopted
        loop.run_later()
        loop.run_later()
    if why == "keep":
        assert not sender.adopted
        sender.tunnels.keep()
        loop.run_later()
    (packed,) = sender.adopted
    assert sender.line.core.counters[Field.HANDED_OVER] == 0
    for descriptor in packed.descriptors:
        os.close(descriptor)
    assert not loop.later  # it isn't offered again by itself
    sender.close()


async def test_what_the_others_have_no_place_for_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    sender = Sender(monkeypatch)
    sender.tunnels.empty(lambda bind, backend: backend != "usual")
    assert not sender.line.core.stand_in.later
    sender.offer()
    sender.close()
