"""The scenes: what clients do that leads through all modules of the worker."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable

import h2.config
import h2.connection
import h2.events

from pylb.net import channel
from tests.worker.faults.stage import GET, OTHER, ROW, Stage, get


async def keep_alive(stage: Stage) -> None:
    """Requests of all kinds on one connection, some of them in pieces."""
    reader, writer = await stage.connect("plain")
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n"
    chunked = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"
    for pieces in (
        (GET,), (b"GET / HT", b"TP/1.1\r\nHost: a\r\n\r\n"), (post + b"12345", b"67890"), (get("/chunked"),),
        (get("/hints"),), (b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n",), (get("/health"),),
        (chunked, b"0\r\n\r\n"), (get("/", "Connection: close\r\n"),),
    ):  # fmt: skip
        if not await stage.exchange(reader, writer, *pieces):
            return


async def pipelined(stage: Stage) -> None:
    reader, writer = await stage.connect("plain")
    got = await stage.exchange(reader, writer, GET * 3)
    if got:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readexactly(2 * len(got))
            writer.write_eof()
            await reader.read()


async def ends(stage: Stage) -> None:
    """Responses that end the connection, servers that fail, requests that are refused."""
    for bind, request in (
        ("plain", get("/close")), ("plain", get("/drop")), ("plain", get("/junk")), ("down", GET),
        ("plain", b"NONSENSE\r\n\r\n"), ("redirect", GET), ("plain", b"GET / HTTP/1.0\r\n\r\n"),
        ("plain", b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    ):  # fmt: skip
        await stage.ask(bind, request)


async def client_leaves(stage: Stage) -> None:
    for request in (b"", get("/never"), b"POST /never HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12"):
        _, writer = await stage.connect("plain")
        writer.write(request or b"G")
        await writer.drain()
        for _ in range(5):
            await asyncio.sleep(0.001)
        if request:
            writer.transport.abort()
        else:
            writer.close()


async def echoed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, data: bytes) -> None:
    """Through a tunnel, and to its end."""
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        writer.write(data)
        await reader.readexactly(5)
        writer.write_eof()
        await reader.read()


async def upgrade(stage: Stage) -> None:
    reader, writer = await stage.connect("plain")
    got = await stage.exchange(reader, writer, get("/upgrade", "Connection: upgrade\r\nUpgrade: echo\r\n"))
    if b" 101 " in got:
        await echoed(reader, writer, b"hello")


async def tcp(stage: Stage) -> None:
    for bind in ("tcp", "sni"):
        reader, writer = await stage.connect(bind)
        await echoed(reader, writer, b"hello, this is no TLS")


async def tls(stage: Stage) -> None:
    context = ssl.create_default_context(cafile=f"{stage.folder}/ca.pem")
    with contextlib.suppress(OSError):
        reader, writer = await stage.connect("tls", ssl=context, server_hostname="localhost")
        await stage.exchange(reader, writer, GET)
    with contextlib.suppress(OSError):
        await stage.ask("tls", b"GET / HTTP/1.1\r\n\r\n")


async def proxied(stage: Stage) -> None:
    await stage.ask("proxied", b"PROXY TCP4 192.0.2.1", b" 192.0.2.2 1 2\r\n" + GET)
    await stage.ask("proxied", b"no header\r\n\r\n")
    await stage.ask("sending", GET)


async def _h2_requests(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bodies: list[bytes]
) -> None:
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
    connection.initiate_connection()
    open_ = set()
    for body in bodies:
        number = connection.get_next_available_stream_id()
        open_.add(number)
        method = "POST" if body else "GET"
        head = [(":method", method), (":scheme", "http"), (":authority", "a"), (":path", "/")]
        connection.send_headers(number, head, end_stream=not body)
        if body:
            connection.send_data(number, body)
            connection.end_stream(number)
    with contextlib.suppress(ConnectionError):
        while open_:
            writer.write(connection.data_to_send())
            data = await reader.read(65536)
            if not data:
                return
            for event in connection.receive_data(data):
                if isinstance(event, h2.events.ConnectionTerminated):
                    return
                if isinstance(event, h2.events.StreamEnded | h2.events.StreamReset):
                    open_.discard(event.stream_id or 0)
        connection.close_connection()
        writer.write(connection.data_to_send())
        await reader.read()


async def http2_client(stage: Stage) -> None:
    reader, writer = await stage.connect("plain")
    await _h2_requests(reader, writer, [b"", b"0123456789", b""])


async def http2_server(stage: Stage) -> None:
    await stage.ask("http2back", GET)
    await stage.ask("http2back", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n12345", b"67890")
    reader, writer = await stage.connect("http2back")
    await _h2_requests(reader, writer, [b"", b"0123456789"])


async def late(stage: Stage) -> None:
    """Nobody says anything more."""
    await stage.connect("plain")

    async def tunnel() -> None:
        reader, writer = await stage.connect("tcp")
        writer.write(b"x")
        with contextlib.suppress(ConnectionError):
            await reader.read()

    await asyncio.gather(stage.ask("plain", b"GET / HT"), stage.ask("plain", get("/never")), tunnel())


async def handed_over(stage: Stage) -> None:
    """One connection comes from another worker, and some go there."""
    listener = socket.create_server(("127.0.0.1", 0))
    stage.closed.close()
    stage.closed = listener
    client = socket.create_connection(listener.getsockname())
    ours, _ = listener.accept()
    bind = f"127.0.0.1:{stage.ports['plain']}"
    pending = base64.b64encode(GET[:10]).decode()
    header = {"binds": [bind], "peers": [["192.0.2.1", 5]], "born": [0], "pending": [pending]}
    channel.send_connections(stage.pairs[ROW][1], header, [ours.fileno()])
    ours.close()
    client.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=client)
    stage.writers.append(writer)
    await stage.exchange(reader, writer, GET[10:])
    for _ in range(3):
        await stage.ask("plain", GET)
    channel.send(stage.supervisor, {"op": "move", "to": OTHER, "count": 2, "excess": 2, "lively": 0})
    for _ in range(40):
        packet = channel.recv_connections(stage.pairs[OTHER][0])
        if packet is not None:
            channel.close_all(packet[1])
            break
        await asyncio.sleep(0.001)


SCENES: list[Callable[[Stage], Awaitable[None]]] = [
    keep_alive, pipelined, ends, client_leaves, upgrade, tcp, tls, proxied, http2_client, http2_server,
    handed_over, late,
]  # fmt: skip
