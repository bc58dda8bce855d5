"""Tunnels that move to another worker: nothing lost, nothing twice, and the same account in the end."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pylb.config.model import Timeouts
from pylb.scoreboard import Field
from pylb.worker import tunnels as tunnels_
from pylb.worker.exchange import Exchange
from pylb.worker.packed import Packed, pack, unpack
from pylb.worker.pipe import ConnectionPipe
from pylb.worker.reasons import Reason
from pylb.worker.sides import Pipe
from pylb.worker.tunnel import Half, Halves, Tunnel
from tests.http.wire import TestCore, Transport, Wire
from tests.worker.tcp_line import Line

IDLE = 100.0


@pytest.fixture(autouse=True)
def descriptors() -> Iterator[None]:
    """None is left open."""
    before = os.listdir("/proc/self/fd")
    yield
    assert len(os.listdir("/proc/self/fd")) == len(before)


class Peer:
    """What one end of a tunnel says and gets, whoever relays it."""

    def __init__(self) -> None:
        self.said = b""
        self.got = b""
        self.silent = False
        self.heard_end = False


class Link(Transport):
    """A transport to a peer, which takes what `taken` says. As an event loop's it doesn't give back what was
    written, and writes on after an abort until it says that the connection is lost."""

    def __init__(self, peer: Peer, fileno: int) -> None:
        super().__init__()
        self.peer = peer
        self.socket = self
        self._fileno = fileno
        self._buffer = b""
        self._full = False
        self.lost = False

    def fileno(self) -> int:
        return self._fileno

    def write(self, data: bytes) -> None:
        assert not self.finished
        if self.aborted:
            return
        self._buffer += data
        if len(self._buffer) > 100 and not self._full:
            self._full = True
            self.protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    def taken(self, count: int) -> None:
        self.peer.got += self._buffer[:count]
        self._buffer = self._buffer[count:]
        if self._full and len(self._buffer) <= 25:
            self._full = False
            self.protocol.resume_writing()
        self._end()

    def write_eof(self) -> None:
        super().write_eof()
        self._end()

    def close(self) -> None:
        super().close()
        self._end()

    def _end(self) -> None:
        if (self.finished or self.closed) and not self._buffer and not self.aborted:
            self.peer.heard_end = True

    def lose(self) -> None:
        """The event loop says so."""
        self.lost = True
        self.protocol.connection_lost(None)


class Moved:
    """A tunnel between two peers, and what it becomes when it moves."""

    def __init__(self, protocol: bytes = b"") -> None:
        self.core = TestCore(Timeouts(tunnel=IDLE))
        self.null = os.open(os.devnull, os.O_RDONLY)
        self.peers = (Peer(), Peer())
        self.ends: list[tuple[Reason | None, int, int]] = []
        self.protocol = protocol
        self.moving: list[Link] = []
        self._make(None)

    def _make(self, halves: Halves | None) -> None:
        self.links = (Link(self.peers[0], self.null), Link(self.peers[1], self.null))
        pipes: list[Pipe] = []
        for number, link in enumerate(self.links):
            more: dict[str, Any] = {}
            if halves is not None:
                more = {"eof": halves[number].eof, "rest": halves[number].rest}
                os.close(halves[number].descriptor)
            pipes.append(ConnectionPipe(self.core, cast(asyncio.Transport, link), **more))
        self.tunnel = Tunnel(
            self.core, pipes[0], pipes[1], self.protocol, lambda *end: self.ends.append(end), IDLE
        )
        if halves is not None:
            self.tunnel.go_on(halves, self.core.now + IDLE)
        self.tunnel.start()

    def say(self, one: int, data: bytes) -> None:
        link, peer = self.links[one], self.peers[one]
        if link.reading and not link.closed and not peer.silent:
            peer.said += data
            link.protocol.data_received(data)

    def end(self, one: int) -> None:
        link, peer = self.links[one], self.peers[one]
        if link.reading and not link.closed and not peer.silent:
            peer.silent = True
            if not link.protocol.eof_received():
                link.close()

    def begin(self) -> None:
        if not self.moving and self.tunnel.detach(self._detached):
            assert self.tunnel not in self.core.tunnels
            self.moving = list(self.links)

    def go_on(self) -> None:
        moving, self.moving = self.moving, []
        for link in moving:
            link.lose()

    def _detached(self, halves: Halves | None) -> None:
        assert halves is not None
        self._make(halves)

    def finish(self) -> None:
        """Both peers take everything, and end."""
        self.go_on()
        for _ in range(3):
            for one in (0, 1):
                self.links[one].taken(1 << 20)
                self.end(one)
            for link in self.links:
                if link.closed and not link.lost and not link.get_write_buffer_size():
                    link.lose()
        os.close(self.null)


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["say", "say", "take", "take", "end", "begin", "go on"]),
            st.integers(0, 1),
            st.integers(1, 300),
        ),
        max_size=40,
    )
)
def test_whatever_the_order_each_gets_what_the_other_one_said(events: list[tuple[str, int, int]]) -> None:
    pair = Moved()
    number = 0
    for what, one, size in events:
        if what == "say" and not pair.moving:
            number += 1
            pair.say(one, (b"<%d>" % number) * (size // 3 + 1))
        elif what == "take":
            pair.links[one].taken(size)
        elif what == "end" and not pair.moving:
            pair.end(one)
        elif what == "begin":
            pair.begin()
        elif what == "go on":
            pair.go_on()
    pair.finish()
    near, far = pair.peers
    assert (near.got, far.got) == (far.said, near.said)
    assert all(peer.heard_end and peer.silent for peer in pair.peers)
    assert pair.ends == [(None, len(near.said), len(far.said))]
    assert not pair.core.tunnels and not pair.core.unsent


def test_frames_are_followed_on() -> None:
    pair = Moved(b"websocket")
    pair.say(1, b"\x81\x05he")
    pair.begin()
    pair.go_on()
    pair.tunnel.cut()
    assert pair.links[0].closed  # a Close frame there would be taken for contents
    pair.say(1, b"llo")
    for link in pair.links:
        link.close()
        link.lose()
    os.close(pair.null)
    assert pair.peers[0].got == b""
    assert [reason for reason, _, _ in pair.ends] == [Reason.CUT]


def test_what_is_kept_of_what_was_sent_is_what_has_not_left() -> None:
    pair = Moved()
    near = pair.tunnel._near.pipe
    assert isinstance(near, ConnectionPipe)
    for piece in (b"a" * 10, b"b" * 10, b"c" * 10):
        pair.say(1, piece)
    assert pair.core.unsent == {near} and near._trailed == 30
    pair.links[0].taken(15)
    near.look()
    assert near._trailed == 20
    pair.links[0].taken(15)
    near.look()
    assert not pair.core.unsent and near._trail is None
    pair.finish()


def test_of_what_can_not_move_nothing_is_kept() -> None:
    pair = Moved()
    pair.links[0].half_close = False  # TLS
    pair.say(1, b"a" * 10)
    assert pair.links[0].get_write_buffer_size() == 10 and not pair.core.unsent
    pair.links[0].half_close = True
    pair.finish()


def test_what_was_written_before_there_was_a_pipe_is_waited_for() -> None:
    pair = Moved()
    pair.links[0]._buffer = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
    assert not pair.tunnel.detach(lambda halves: None)
    assert pair.core.tunnels == {pair.tunnel}
    pair.links[0].taken(1000)
    pair.peers[0].got = b""
    pair.begin()
    assert pair.moving
    pair.finish()


@pytest.mark.parametrize("what", ["tls", "cut", "closing"])
def test_what_can_not_move_stays(what: str) -> None:
    pair = Moved()
    if what == "tls":
        pair.links[1].half_close = False
        assert not pair.tunnel.movable
    elif what == "cut":
        pair.tunnel.cut()
    else:
        pair.links[0].close()
    assert not pair.tunnel.detach(lambda halves: None)
    pair.links[1].half_close = True
    pair.finish()


def test_without_a_descriptor_it_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    pair = Moved()
    copies: list[int] = []

    def dup(fd: int) -> int:
        if copies:
            raise OSError(24, "too many")
        copies.append(os.open(os.devnull, os.O_RDONLY))
        return copies[0]

    with monkeypatch.context() as patch:
        patch.setattr(os, "dup", dup)
        assert not pair.tunnel.detach(lambda halves: None)
    pair.say(0, b"x")
    pair.finish()
    assert pair.peers[1].got == b"x"


def test_an_error_while_it_is_let_go_of_ends_it() -> None:
    pair = Moved()
    pair.core.errors = []
    told: list[object] = []
    assert pair.tunnel.detach(told.append)
    pair.tunnel.crashed(RuntimeError("a bug"))
    assert told == [None]
    assert [reason for reason, _, _ in pair.ends] == [Reason.INTERNAL]
    os.close(pair.null)


# Packed


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
