"""WebSockets to HTTP/2 servers: by extended CONNECT (RFC 8441), from clients of HTTP/1.1 and of HTTP/2."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any, cast

import h2.events
import h2.settings
import hpack
import pytest
from h2.errors import ErrorCodes
from hyperframe.frame import DataFrame, HeadersFrame

from pylb.scoreboard import Field
from pylb.worker.pool import Pooled
from pylb.worker.server import connect as module
from pylb.worker.server.http1 import Http1ServerConnection
from pylb.worker.server.http2 import Http2ServerConnection
from pylb.worker.server.http2tunnel import Http2ServerTunnel
from tests.http.wire import Transport, Wire
from tests.worker.test_http2_connecting import Network
from tests.worker.test_http2_sides import CONNECT, Http2Client, Http2Server

UPGRADE = (
    b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
OFFER: dict[h2.settings.SettingCodes | int, int] = {h2.settings.SettingCodes.ENABLE_CONNECT_PROTOCOL: 1}


class _PooledTunnel(Http2ServerTunnel, Pooled):
    """One that waits in the pool, so that nothing has to connect."""

    def expire(self) -> None:
        """Never."""


class TunnelServer(Http2Server):
    """An HTTP/2 server that offers the extended CONNECT."""

    def next_side(self) -> None:
        self.h2.update_settings(OFFER)
        self.talk()
        self.wire.upstream.pool.idle = {_PooledTunnel(self.protocol): None}

    def asked(self) -> tuple[int, dict[bytes, bytes]]:
        """The stream of the CONNECT, and its fields."""
        event = self.seen(h2.events.RequestReceived)[-1]
        return event.stream_id, dict(event.headers)

    def says(self, number: int, data: bytes, end: bool = False) -> None:
        """Send in a tunnel."""
        self.h2.send_data(number, data, end_stream=end)
        self.talk()

    def agrees(self, number: int) -> None:
        """Make a tunnel of the stream."""
        self.h2.send_headers(number, [(b":status", b"200"), (b"sec-websocket-protocol", b"chat")])
        self.talk()

    def got(self) -> bytes:
        """What has come in tunnels."""
        return b"".join(event.data for event in self.seen(h2.events.DataReceived))


def test_an_upgrade_becomes_a_connect_and_the_answer_a_101() -> None:
    wire = Wire()
    server = TunnelServer(wire)
    wire.near.protocol.data_received(UPGRADE)
    number, fields = server.asked()
    assert fields[b":method"] == b"CONNECT" and fields[b":protocol"] == b"websocket"
    assert fields[b":path"] == b"/chat" and fields[b":authority"] == b"a"
    assert fields[b"sec-websocket-version"] == b"13"
    assert not fields.keys() & {b"sec-websocket-key", b"upgrade", b"connection"}
    server.agrees(number)
    head, _, rest = wire.near.take().partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 101 ") and not rest
    lines = head.lower().split(b"\r\n")
    assert b"upgrade: websocket" in lines and b"connection: upgrade" in lines
    assert b"sec-websocket-protocol: chat" in lines
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" in head.split(b"\r\n")  # of RFC 6455 §1.3
    wire.near.protocol.data_received(b"from the client")
    server.says(number, b"from the server")
    assert server.got() == b"from the client"
    assert wire.near.take() == b"from the server"
    assert len(wire.worker.tunnels) == 1 and wire.upstream.active[0] == 1


def test_each_direction_of_a_tunnel_has_an_end() -> None:
    wire = Wire()
    server = TunnelServer(wire)
    wire.near.protocol.data_received(UPGRADE)
    number, _ = server.asked()
    server.agrees(number)
    wire.near.take()
    wire.near.protocol.eof_received()
    assert server.seen(h2.events.StreamEnded)
    server.says(number, b"last words", True)
    assert wire.near.take() == b"last words"
    assert wire.near.closed
    wire.near.protocol.connection_lost(None)
    wire.worker.stand_in.run()
    assert not wire.worker.tunnels and not server.protocol.streams
    assert wire.upstream.active[0] == 0 and wire.worker.counters[Field.ABORTED] == 0


def test_a_server_that_does_not_end_its_side_has_its_stream_reset_in_the_end() -> None:
    wire = Wire()
    server = TunnelServer(wire)
    wire.near.protocol.data_received(UPGRADE)
    number, _ = server.asked()
    server.agrees(number)
    wire.near.protocol.connection_lost(None)
    assert server.seen(h2.events.StreamEnded) and not server.seen(h2.events.StreamReset)
    assert not wire.worker.tunnels
    server.says(number, b"nobody hears this")
    wire.worker.stand_in.run_later()
    (reset,) = server.seen(h2.events.StreamReset)
    assert reset.error_code == ErrorCodes.CANCEL and not server.protocol.streams


@pytest.mark.parametrize("how", ["reset", "connection"])
def test_a_tunnel_that_breaks_ends_its_client(how: str) -> None:
    wire = Wire()
    server = TunnelServer(wire)
    wire.near.protocol.data_received(UPGRADE)
    number, _ = server.asked()
    server.agrees(number)
    if how == "reset":
        server.h2.reset_stream(number, ErrorCodes.CANCEL)
        server.talk()
    else:
        server.protocol.connection_lost(ConnectionResetError())
        wire.worker.stand_in.run()
    assert wire.near.aborted and not server.protocol.streams


def test_an_answer_that_makes_no_tunnel_is_an_ordinary_one() -> None:
    wire = Wire()
    server = TunnelServer(wire)
    wire.near.protocol.data_received(UPGRADE)
    number, _ = server.asked()
    server.h2.send_headers(number, [(b":status", b"403"), (b"content-length", b"2")])
    server.says(number, b"no", True)
    assert wire.statuses() == [403] and wire.near.written.endswith(b"\r\n\r\nno")
    assert not server.protocol.streams and not wire.worker.tunnels
    assert len(wire.worker.spare) == 1


def test_a_malformed_agreement_is_a_bad_gateway_of_its_stream_only() -> None:
    wire = Wire()
    server = TunnelServer(wire)
    wire.near.protocol.data_received(UPGRADE)
    number, _ = server.asked()
    block = hpack.Encoder().encode([(b":status", b"200"), (b"connection", b"close")])
    server.protocol.data_received(HeadersFrame(number, block, flags={"END_HEADERS"}).serialize())
    wire.worker.stand_in.run()
    assert wire.statuses() == [502]
    assert not server.protocol.streams and not server.transport.closed


def test_from_http_2_to_http_2() -> None:
    wire = Wire()
    server = TunnelServer(wire)
    client = Http2Client(wire)
    number = client.asks(CONNECT, end=False)
    client.says(number, b"early ")
    far, fields = server.asked()
    assert b"sec-websocket-key" not in fields
    server.agrees(far)
    assert client.statuses() == [b"200"]
    (answer,) = client.seen(h2.events.ResponseReceived)
    assert b"sec-websocket-accept" not in dict(answer.headers)
    client.says(number, b"words")
    server.says(far, b"answer", True)
    assert server.got() == b"early words"
    client.says(number, b"", True)
    assert b"".join(event.data for event in client.seen(h2.events.DataReceived)) == b"answer"
    assert client.seen(h2.events.StreamEnded) and server.seen(h2.events.StreamEnded)
    assert not server.protocol.streams and not client.protocol.streams and not wire.worker.tunnels


def test_who_does_not_read_holds_back_the_other_end_of_the_tunnel() -> None:
    wire = Wire()
    server = TunnelServer(wire)
    wire.near.protocol.data_received(UPGRADE)
    number, _ = server.asked()
    server.agrees(number)
    wire.near.protocol.pause_writing()
    sent = 0
    while window := server.h2.local_flow_control_window(number):
        server.says(number, b"x" * min(window, 16384))
        sent += 1
        assert sent < 100
    wire.near.protocol.resume_writing()
    server.talk()
    assert server.h2.local_flow_control_window(number)
    for _ in range(9):
        wire.near.protocol.data_received(b"y" * 30_000)  # more than the server's window, unread by it
    assert not wire.near.reading
    server.h2.acknowledge_received_data(60_000, number)
    while not wire.near.reading:
        before = len(server.got())
        server.h2.increment_flow_control_window(60_000)
        server.h2.increment_flow_control_window(60_000, number)
        assert len(server.got()) > before


# Which of the two


def test_an_upgrade_is_no_ordinary_stream() -> None:
    """Though there is a connection whose streams are free."""
    wire = Wire()
    server = Http2Server(wire)
    wire.upstream.pool.idle.clear()
    wire.upstream.http2 = True
    wire.upstream.shared.append(server.protocol)
    try:
        wire.near.protocol.data_received(UPGRADE)
        assert not server.seen(h2.events.RequestReceived)
        (task,) = wire.worker.stand_in.tasks
        task.cancel()
    finally:
        wire.upstream.shared.clear()


class Offering(Network):
    """A server whose SETTINGS come when the test says so."""

    offers = True

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(monkeypatch)
        self.reachable.set()
        self.head.upgrade = b"websocket"
        self.protocols: list[type] = []

    async def _open(self, core: Any, server: Any, tx: Any, made: list[Any], upgrade: bool) -> Any:
        if upgrade:
            codec: Any = Http1ServerConnection(core, server)
        else:
            codec = Http2ServerConnection(core, server)
            settings = b"\x00\x00\x06\x04\x00\x00\x00\x00\x00\x00\x08\x00\x00\x00"
            self.core.loop.call_soon(codec.data_received, settings + bytes([self.offers]))
        self.protocols.append(type(codec))
        codec.connection_made(cast(asyncio.BaseTransport, Transport()))
        return codec


async def _side(network: Network) -> Any:
    return await module.connect(network.core, network.server, network.tx)


async def test_a_server_that_offers_it_gets_a_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Offering(monkeypatch)
    assert isinstance(await _side(network), Http2ServerTunnel)
    network.head.upgrade = b"WebSocket"
    assert isinstance(await _side(network), Http2ServerTunnel)
    assert network.protocols == [Http2ServerConnection]
    network.head.upgrade = b"tcp"
    assert isinstance(await _side(network), Http1ServerConnection)


async def test_a_server_that_does_not_is_asked_in_http_1(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Offering(monkeypatch)
    network.offers = False
    side = await _side(network)
    assert isinstance(side, Http1ServerConnection)
    assert network.protocols == [Http2ServerConnection, Http1ServerConnection]
    assert not side.usable  # for requests that are no upgrades, which speak HTTP/2


async def test_a_server_that_says_nothing_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    network = Offering(monkeypatch)
    codec = Http2ServerConnection(network.core, network.server)
    codec.connection_made(cast(asyncio.BaseTransport, Transport()))
    network.server.shared.append(codec)
    network.tx.timeouts = cast(Any, SimpleNamespace(connect=0.001))
    with pytest.raises(TimeoutError):
        await _side(network)
    waiting = asyncio.create_task(codec.tunnel(50.0))
    await asyncio.sleep(0)
    codec.connection_lost(None)
    with pytest.raises(ConnectionResetError):
        await waiting


def test_data_before_the_answer_is_a_bad_gateway() -> None:
    wire = Wire()
    server = TunnelServer(wire)
    wire.near.protocol.data_received(UPGRADE)
    number, _ = server.asked()
    server.protocol.data_received(DataFrame(number, b"x").serialize())
    wire.worker.stand_in.run()
    assert wire.statuses() == [502]
