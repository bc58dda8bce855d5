"""A stage: a worker on a real loop with a listener of each kind, its servers, and clients to it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import Any

from pylb.config.load import from_document
from pylb.net import channel
from pylb.net.serverlists import as_configured
from pylb.scoreboard import Field, Scoreboard, State
from pylb.supervisor.secrets import read_secrets
from pylb.worker.context import WorkerContext
from pylb.worker.process import Worker
from tests.worker.faults.servers import echo_server, http1_server, http2_server

ROW, OTHER = 0, 1
LIMIT = 50


class Stage:
    """A worker, its servers, and where it listens.

    ``patience`` is the seconds of its timeouts, but for that of connecting: here a server accepts or refuses
    at once, and a scene that is over may leave a connection under way on which the next request depends.
    """

    def __init__(self, folder: Path, loop: asyncio.AbstractEventLoop, patience: float = 0.25) -> None:
        self.folder = folder
        self.loop = loop
        self.patience = patience
        self.writers: list[asyncio.StreamWriter] = []
        self.ports: dict[str, int] = {}

    async def __aenter__(self) -> Stage:
        folder = self.folder
        self.servers: list[asyncio.Server] = []
        names = {"http1": http1_server, "echo": echo_server, "http2": http2_server}
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
            ("request", "client", "keep_alive", "server", "tunnel", "server_idle"), self.patience
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
                        "retry": {"pause": 0},
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
            as_configured(config), 1,
            secrets.listeners, secrets.backends, secrets.upgrades,
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
