"""The servers behind the balancer in end-to-end tests.

`Origin` speaks HTTP/1.1 and is scripted by path; `Scripted` plays any part, byte by byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

Play = Callable[[socket.socket], None]
"""Serves one connection, which is closed afterwards; an OSError ends it."""
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def read_head(sock: socket.socket) -> bytes:
    """Read until a head is complete; gives also what came behind it.

    Raises:
        EOFError: the connection ended within it.
    """
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        if not piece:
            raise EOFError(data)
        data += piece
    return data


class Scripted:
    """Plays one part with each connection, each in a thread of its own; a context manager."""

    def __init__(self, play: Play) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self.listener.getsockname()[1]
        self.address = f"127.0.0.1:{self.port}"
        self._play = play
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # the listener was closed
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self._one, args=(connection,), daemon=True).start()

    def _one(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError, EOFError):
            self._play(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.listener.close()


class Origin:
    """Answers on 127.0.0.1; paths say how (see `_answer`). ``heads`` keeps every request head."""

    def __init__(self) -> None:
        self.heads: list[bytes] = []
        self.trailers: list[bytes] = []
        """Lines of all requests."""
        self.connections = 0
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self.port = 0
        self._stop = asyncio.Event()
        self._held = asyncio.Event()

        async def main() -> None:
            server = await asyncio.start_server(self._connection, "127.0.0.1", 0, backlog=4096)
            self.port = server.sockets[0].getsockname()[1]
            started.set()
            await self._stop.wait()
            server.close()
            open_ = asyncio.all_tasks() - {asyncio.current_task()}
            for task in open_:
                task.cancel()
            await asyncio.gather(*open_, return_exceptions=True)

        self._thread = threading.Thread(target=self._loop.run_until_complete, args=(main(),), daemon=True)
        self._thread.start()
        started.wait()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def release(self) -> None:
        """Let the answers to ``/held`` go."""
        self._loop.call_soon_threadsafe(self._held.set)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(50)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        served = 0
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                served += 1
                if not await self._answer(head, served, reader, writer):
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            with contextlib.suppress(Exception):
                writer.close()

    async def _body(self, head: bytes, reader: asyncio.StreamReader) -> bytes:
        lower = head.lower()
        if b"\ntransfer-encoding: chunked" in lower:
            body = b""
            while size := int((await reader.readline()).split(b";")[0], 16):
                body += await reader.readexactly(size)
                await reader.readline()
            while line := (await reader.readline()).strip():
                self.trailers.append(line)
            return body
        start = lower.find(b"\ncontent-length:")
        if start < 0:
            return b""
        return await reader.readexactly(int(lower[start + 16 : lower.index(b"\r", start)]))

    async def _answer(
        self, head: bytes, served: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Answer one request; False closes the connection."""
        method, target, _ = head.split(b" ", 2)
        path = target.decode()

        def plain(body: bytes, fields: bytes = b"") -> None:
            length = b"Content-Length: %d\r\n" % len(body)
            shown = b"" if method == b"HEAD" else body
            writer.write(b"HTTP/1.1 200 OK\r\n" + fields + length + b"\r\n" + shown)

        if path == "/drop":
            return False
        if path == "/junk":
            writer.write(b"NONSENSE\r\n\r\n")
            return True
        if path == "/never":
            await reader.read()
            return False
        if path == "/drop-second" and served > 1:
            return False
        if b"\nexpect: 100-continue" in head.lower():
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await self._body(head, reader)
        if path == "/echo":
            plain(json.dumps({"head": head.decode(), "body": body.decode()}).encode())
        elif path == "/chunked":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n")
            writer.write(b"5\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 11\r\n\r\n")
        elif path == "/until-close":
            writer.write(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
            return False
        elif path == "/held":
            await self._held.wait()
            plain(b"late")
        elif path == "/204":
            writer.write(b"HTTP/1.1 204 No Content\r\n\r\n")
        elif path == "/304":
            writer.write(b'HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\nETag: "x"\r\n\r\n')
        elif path == "/hints":
            writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n")
            plain(b"hinted")
        elif path == "/hop":
            plain(b"x", b"Connection: X-Private\r\nX-Private: 1\r\nKeep-Alive: timeout=5\r\nX-Public: 2\r\n")
        elif path.startswith("/bytes/"):
            left = int(path[7:])
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % left)
            block = bytes(65536)
            while left:
                writer.write(block[: min(left, len(block))])
                left -= min(left, len(block))
                await writer.drain()
        else:
            plain(path.encode())
        await writer.drain()
        return True
