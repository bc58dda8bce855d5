"""An error of pylb's own costs the request in which it happens, and nothing else.

A worker on a real loop, with real sockets, plays scenes that lead through all of its modules. Every line of
them in which something is called raises once, each in a run of its own; then everything must be as it was.
"""

from __future__ import annotations

import ast
import asyncio
import base64
import contextlib
import errno
import gc
import logging
import re
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import h2.config
import h2.connection
import h2.events
import pytest
import trustme
import uvloop

import pylb.worker
from pylb.config.load import from_document
from pylb.config.model import Timeouts, server_keys
from pylb.net import channel
from pylb.scoreboard import Field, Scoreboard, ServerField, State
from pylb.supervisor.secrets import read_secrets
from pylb.worker.context import WorkerContext
from pylb.worker.listeners import Listener
from pylb.worker.process import Worker
from pylb.worker.server import connect

FOLDER = Path(pylb.worker.__file__).parent
ROW, OTHER = 0, 1
LIMIT = 20
Site = tuple[str, int]


class Fault(Exception):
    """What nobody expects."""


def _calls() -> frozenset[Site]:
    """The lines of the worker's modules in which something is called or awaited."""
    found = set()
    for file in FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call | ast.Await):
                found.add((str(file), node.lineno))
    return frozenset(found)


CALLS = _calls()
# What runs only in a process of its own, or only after an error.
NOT_TRIED = {
    *("run", "_main", "serve", "__init__", "_tick", "spawn", "_spawned"),
    *("internal", "crashed", "cut_off", "call"),
}


class Injector:
    """Raises at one line, at its first visit; without one it notes which are visited."""

    def __init__(self, at: Site | None = None) -> None:
        self.at = at
        self.visited: list[Site] = []
        self.fired = False

    def _call(self, frame: FrameType, event: str, arg: object) -> Any:
        code = frame.f_code
        if code.co_filename.startswith(str(FOLDER)) and code.co_name not in NOT_TRIED:
            return self._line
        return None

    def _line(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "line":
            here = (frame.f_code.co_filename, frame.f_lineno)
            if here == self.at:
                self.fired = True
                raise Fault(f"{here}")  # Python stops tracing then
            if self.at is None and here in CALLS and here not in self.visited:
                self.visited.append(here)
        return self._line

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        sys.settrace(self._call)
        try:
            yield
        finally:
            sys.settrace(None)


# The servers


async def _http1_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            path = head.split(b" ", 2)[1]
            if head.startswith(b"PROXY "):
                head = head.split(b"\r\n", 1)[1]
                path = head.split(b" ", 2)[1]
            if path == b"/upgrade":
                writer.write(
                    b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n"
                )
                while data := await reader.read(100):
                    writer.write(data)
                break
            if b"content-length: 10" in head.lower():
                await reader.readexactly(10)
            if b"transfer-encoding: chunked" in head.lower():
                await reader.readuntil(b"0\r\n\r\n")
            if path == b"/drop":
                break
            if path == b"/junk":
                writer.write(b"JUNK\r\n\r\n")
                break
            if path == b"/never":
                await reader.read()
                break
            if path == b"/chunked":
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n")
                await writer.drain()
                await asyncio.sleep(0)
                writer.write(b"ok\r\n0\r\n\r\n")
            elif path == b"/close":
                writer.write(b"HTTP/1.1 200 OK\r\n\r\nok")
                break
            elif path == b"/hints":
                writer.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            else:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n")
                if not head.startswith(b"HEAD"):
                    writer.write(b"ok")
    with contextlib.suppress(ConnectionError):
        writer.close()


async def _echo_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(100):
            writer.write(data)
        writer.close()


async def _http2_server(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    h2c = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding=None))
    h2c.initiate_connection()
    with contextlib.suppress(ConnectionError):
        writer.write(h2c.data_to_send())
        while data := await reader.read(65536):
            for event in h2c.receive_data(data):
                if isinstance(event, h2.events.StreamEnded):
                    number = event.stream_id or 0
                    h2c.send_headers(number, [(":status", "200"), ("content-length", "2")])
                    h2c.send_data(number, b"ok", end_stream=True)
            writer.write(h2c.data_to_send())
        writer.close()


class Stage:
    """A worker, its servers, and where it listens."""

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop) -> None:
        self.folder = folder
        self.loop = loop
        self.writers: list[asyncio.StreamWriter] = []
        self.ports: dict[str, int] = {}

    async def __aenter__(self) -> Stage:
        folder = self.folder
        self.servers: list[asyncio.Server] = []
        names = {"http1": _http1_server, "echo": _echo_server, "http2": _http2_server}
        ports = {}
        for name, handler in names.items():
            server = await asyncio.start_server(handler, "127.0.0.1", 0)
            self.servers.append(server)
            ports[name] = server.sockets[0].getsockname()[1]
        closed = socket.socket()
        closed.bind(("127.0.0.1", 0))  # bound, and nobody listens
        self.closed = closed
        ports["closed"] = closed.getsockname()[1]
        binds = ["plain", "other", "http2back", "down", "tcp", "proxied", "tls", "redirect", "sending", "sni"]
        listeners: dict[str, list[socket.socket]] = {}
        frontends: list[dict[str, Any]] = []
        backends = {
            "plain": "http1", "other": "http1", "http2back": "http2", "down": "down", "tcp": "echo",
            "proxied": "http1", "tls": "http1", "redirect": "http1", "sending": "sending", "sni": "echo",
        }  # fmt: skip
        more: dict[str, dict[str, Any]] = {
            "tcp": {"mode": "tcp"},
            "sni": {"mode": "tcp", "sni": {"a.example": "echo"}},
            "proxied": {"accept_proxy": True, "trusted_proxies": ["127.0.0.0/8"]},
            "tls": {"tls": {"certificates": f"{folder}/both.pem", "hsts": 1}},
            "redirect": {"redirect_to_https": True},
            "plain": {"health": {"path": "/health"}},
        }
        for bind in binds:
            sock = socket.socket()
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(("127.0.0.1", 0))
            sock.listen()
            sock.setblocking(False)
            self.ports[bind] = sock.getsockname()[1]
            key = f"127.0.0.1:{self.ports[bind]}"
            listeners[key] = [sock]
            frontends.append({"name": bind, "bind": [key], "backend": backends[bind], **more.get(bind, {})})
        here = "127.0.0.1:{}".format
        timeouts = dict.fromkeys(
            ("connect", "request", "client", "keep_alive", "server", "tunnel", "server_idle"), 0.25
        )
        config = from_document(
            {
                "frontend": frontends,
                "timeouts": timeouts,
                "backend": [
                    {"name": "http1", "server": [{"address": here(ports["http1"])}]},
                    {"name": "http2", "http2": True, "server": [{"address": here(ports["http2"])}]},
                    {"name": "echo", "server": [{"address": here(ports["echo"])}]},
                    {
                        "name": "sending",
                        "send_proxy": "v1",
                        "server": [{"address": here(ports["http1"])}],
                    },
                    {
                        "name": "down",
                        "server": [{"name": name, "address": here(ports["closed"])} for name in "ab"],
                    },
                ],
            }
        )
        self.board = Scoreboard(1)
        self.board.row(ROW)[Field.STATE] = self.board.row(OTHER)[Field.STATE] = State.SERVING
        self.supervisor, child = channel.pair()
        self.pairs = [channel.pair(), channel.pair()]
        self.listeners = listeners
        secrets = read_secrets(config)
        self.context = WorkerContext(
            config, ROW, 0, 1, listeners, self.board, child, self.pairs[ROW][0],
            [writer for _, writer in self.pairs],
            {key: number for number, key in enumerate(server_keys(config))},
            secrets.listeners, secrets.backends,
        )  # fmt: skip
        self.worker = Worker(self.context, self.loop)
        self.life = asyncio.create_task(self.worker.serve())
        channel.send(self.supervisor, {"op": "listen", "slots": [0]})
        async with asyncio.timeout(LIMIT):
            while self.board.row(ROW)[Field.STATE] != State.SERVING or not self.worker._ready:
                await asyncio.sleep(0.001)
        return self

    async def __aexit__(self, *failure: object) -> None:
        self.hang_up()
        self.life.cancel()
        for accepting in self.worker.listeners._accepting.values():
            accepting.close()
        for server in self.servers:
            server.close()
        for one in [*self.worker.core.clients, *self.worker.core.server_connections]:
            transport = getattr(one, "transport", None)
            if transport is not None:
                transport.abort()
        self.loop.remove_reader(self.context.inbox.fileno())
        self.loop.remove_reader(self.context.channel.fileno())
        for _ in range(3):
            await asyncio.sleep(0)
        for sock in (self.closed, self.supervisor, self.context.channel):
            sock.close()
        for pair in self.pairs:
            for end in pair:
                end.close()
        for socks in self.listeners.values():
            for sock in socks:
                sock.close()

    # What scenes do

    async def connect(self, bind: str, **options: Any) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports[bind], **options)
        self.writers.append(writer)
        return reader, writer

    def hang_up(self) -> None:
        for writer in self.writers:
            writer.transport.abort()
        self.writers.clear()

    async def ask(self, bind: str, *pieces: bytes, **options: Any) -> bytes:
        """The response, or what came of it until the connection ended."""
        reader, writer = await self.connect(bind, **options)
        return await self.exchange(reader, writer, *pieces)

    async def exchange(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *pieces: bytes
    ) -> bytes:
        got = b""
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
                await asyncio.sleep(0)
            got = await reader.readuntil(b"\r\n\r\n")
            while got.startswith(b"HTTP/1.1 103"):
                got = await reader.readuntil(b"\r\n\r\n")
            length = got.lower().partition(b"\r\ncontent-length: ")[2].split(b"\r\n")[0]
            if b"\r\ntransfer-encoding: chunked" in got.lower():
                got += await reader.readuntil(b"0\r\n\r\n")
            elif pieces[-1].startswith(b"HEAD") or b"HTTP/1.1 101" in got:
                pass
            elif length:
                got += await reader.readexactly(int(length))
            else:
                got += await reader.read()
        return got


GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def get(path: str, more: str = "") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: a\r\n{more}\r\n".encode()


# The scenes


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


async def upgrade(stage: Stage) -> None:
    reader, writer = await stage.connect("plain")
    got = await stage.exchange(reader, writer, get("/upgrade", "Connection: upgrade\r\nUpgrade: echo\r\n"))
    if b" 101 " in got:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            writer.write(b"hello")
            await reader.readexactly(5)
            writer.write_eof()
            await reader.read()


async def tcp(stage: Stage) -> None:
    for bind in ("tcp", "sni"):
        reader, writer = await stage.connect(bind)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            writer.write(b"hello, this is no TLS")
            await reader.readexactly(5)
            writer.write_eof()
            await reader.read()


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


async def _until(what: str, true: Callable[[], object]) -> None:
    try:
        async with asyncio.timeout(LIMIT):
            while not true():
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise AssertionError(f"never {what}") from None


async def _play(folder: Path, scene: Callable[[Stage], Awaitable[None]], injector: Injector) -> None:
    loop = asyncio.get_running_loop()
    async with Stage(folder, loop) as stage:
        worker = stage.worker
        core = worker.core
        try:
            async with asyncio.timeout(LIMIT):
                with injector():
                    await scene(stage)
                    if not stage.life.done():
                        stage.hang_up()
                        await _until("empty", lambda: not core.clients)
        except TimeoutError:
            raise AssertionError("a client waits for ever") from None
        if injector.at is None or injector.fired:
            # These must be answered, however busy the machine is.
            core.timeouts = Timeouts()
            async with asyncio.timeout(LIMIT):
                for bind in ("plain", "http2back", "proxied"):
                    first = b"PROXY UNKNOWN\r\n" if bind == "proxied" else b""
                    got = await stage.ask(bind, first + GET)
                    assert got.startswith(b"HTTP/1.1 200 "), f"another client got {got!r} on {bind}"
            stage.hang_up()
        assert not stage.life.done(), "the worker ended"
        await _until("no tunnels", lambda: not core.tunnels)
        await _until("no clients", lambda: not core.clients)
        worker.flush()
        assert worker.cells[Field.CONNECTIONS] == 0
        assert worker.cells[Field.IN_FLIGHT] == 0
        columns = [stage.board.server_column(ServerField.ACTIVE, number) for number in range(6)]
        assert [sum(column) for column in columns] == [0] * 6
        await _until(
            "rid of server connections",
            lambda: all(getattr(one, "exchange", None) is None for one in core.server_connections),
        )
        assert core.adopting == 0
        if injector.fired:
            assert core.counters[Field.INTERNAL] >= 1


def _run(folder: Path, scene: Callable[[Stage], Awaitable[None]], injector: Injector) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_play(folder, scene, injector))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    made = ca.issue_cert("localhost")
    made.private_key_and_cert_chain_pem.write_to_path(str(folder / "both.pem"))
    return folder


_tried: set[Site] = set()


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_an_error_anywhere_costs_its_own_request_only(
    scene: Callable[[Stage], Awaitable[None]], folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    look = Injector()
    _run(folder, scene, look)
    assert look.visited
    wrong = []
    for site in look.visited:
        if site in _tried:
            continue
        _tried.add(site)
        injector = Injector(site)
        try:
            _run(folder, scene, injector)
        except BaseException as error:
            wrong.append(f"{Path(site[0]).name}:{site[1]}: {error!r}")
    gc.collect()
    assert not wrong, "\n".join([f"{len(wrong)} of {len(look.visited)}:", *wrong])


def test_a_connect_that_raises_what_nobody_expects_is_answered_and_said_once(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a name to look for in the server's certificate did that can't be a name."""

    async def fails(*_: object) -> None:
        raise ValueError("label empty or too long")

    async def play() -> None:
        async with Stage(folder, asyncio.get_running_loop()) as stage:
            monkeypatch.setattr(connect, "_open", fails)
            for _ in range(5):
                assert (await stage.ask("plain", GET)).startswith(b"HTTP/1.1 500 ")
            monkeypatch.undo()
            assert (await stage.ask("plain", GET)).startswith(b"HTTP/1.1 200 ")
            stage.worker.flush()
            assert stage.worker.cells[Field.INTERNAL] == 5
            assert sum(stage.board.server_column(ServerField.ACTIVE, 0)) == 0

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(play())
    (said,) = [record for record in caplog.records if record.name == "pylb"]
    assert said.levelno == logging.ERROR and said.exc_info is not None
    assert "label empty or too long" in said.getMessage()


def test_a_factory_that_raises_does_not_stop_the_listener(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libuv waits until what it has accepted is taken; after an error nobody would."""

    async def play() -> None:
        async with Stage(folder, asyncio.get_running_loop()) as stage:
            monkeypatch.setattr(Listener, "protocol", lambda listener: {}[listener])
            assert await stage.ask("plain", GET) == b""
            monkeypatch.undo()
            async with asyncio.timeout(10):
                assert (await stage.ask("plain", GET)).startswith(b"HTTP/1.1 200 ")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(play())


def test_a_connect_without_descriptors_is_nobodys_error_and_pauses_accepting(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async def play() -> None:
        async with Stage(folder, asyncio.get_running_loop()) as stage:
            worker = stage.worker
            monkeypatch.setattr(connect, "_open", none_left)
            for _ in range(2):
                assert (await stage.ask("plain", GET)).startswith(b"HTTP/1.1 503 ")
                await _until("accepting again", lambda: worker.listeners._accepting)
            monkeypatch.undo()
            assert (await stage.ask("plain", GET)).startswith(b"HTTP/1.1 200 ")
            worker.flush()
            assert worker.cells[Field.PAUSES] == 2
            assert sum(stage.board.server_column(ServerField.ERRORS, 0)) == 0

    caplog.set_level(logging.INFO)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(play())
    said = [record.getMessage() for record in caplog.records if record.name == "pylb"]
    assert said[0] == "out of descriptors: Too many open files"
    assert len(said) == 3 and said[1].startswith("accepting is paused: ")
    assert said[2].startswith("accepting goes on after ")


def test_a_server_that_fails_is_named_once_and_again_when_it_works(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def play() -> None:
        async with Stage(folder, asyncio.get_running_loop()) as stage:
            for _ in range(3):
                assert (await stage.ask("down", GET)).startswith(b"HTTP/1.1 503 ")
            server = await asyncio.start_server(_http1_server, sock=stage.closed)
            assert (await stage.ask("down", GET)).startswith(b"HTTP/1.1 200 ")
            for path in ("/junk", "/drop", "/never"):
                await stage.ask("plain", get(path))
            server.close()
            for level, text in stage.worker.core.repeats.due(stage.worker.core.now + 20):
                logging.getLogger("pylb").log(level, text)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(play())
    said = "\n".join(
        f"{record.levelname} {record.getMessage()}" for record in caplog.records if record.name == "pylb"
    )
    said = re.sub(r"127\.0\.0\.1:\d+", "ADDRESS", said)
    for name in "ab":
        assert said.count(f"WARNING server down/{name} at ADDRESS: connection refused\n") == 1
    assert len(re.findall(r"server down/[ab] at ADDRESS: connection refused \(2 more in ", said)) == 1
    assert said.count("can be connected to again, after 3 failures") == 1
    for line in (
        "WARNING server http1/s1 at ADDRESS: bad response: ",
        "WARNING server http1/s1 at ADDRESS: closed the connection before its response was whole",
        "WARNING server http1/s1 at ADDRESS: no answer in time (timeouts.server)",
    ):
        assert said.count(line) == 1, f"{line}\n{said}"
