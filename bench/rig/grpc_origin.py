"""A server of gRPC's unary calls over HTTP/2 without TLS, in a process of its own: one answer for all.

It looks at no header block, and each stream whose request has ended gets the same response, message and
trailers. So it takes little of the CPU that it shares with the clients.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import uvloop

from bench.rig.processes import child
from pylb.http2 import encode, frames

MESSAGE = b"\0\0\0\0\7\n\5hello"
"""Of gRPC: not compressed, seven bytes, a text in field 1."""
_HEAD = encode.response_block(b"HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\n\r\n")
_TRAILERS = encode.trailers_block((b"grpc-status: 0", b"grpc-message: "))
_WINDOW = (1 << 31) - 1 - 65535


class _Server(asyncio.Protocol):
    def __init__(self) -> None:
        self._rest = frames.PREFACE
        self._transport: asyncio.Transport = None  # type: ignore[assignment]  # set before any use
        self._owed = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._rest = b""
        self._transport.write(frames.settings([(3, 1000)]) + frames.window_update(0, _WINDOW))

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        at = len(frames.PREFACE) if data.startswith(frames.PREFACE) else 0
        out = []
        while len(data) - at >= 9:
            high, low, kind, flags, number = frames.HEADER.unpack_from(data, at)
            end = at + 9 + (high << 16 | low)
            if end > len(data):
                break
            if kind in (frames.HEADERS, frames.DATA) and flags & frames.END_STREAM:
                out.append(frames.head(_HEAD, number, False))
                out.append(frames.data_header(len(MESSAGE), number, False) + MESSAGE)
                out.append(frames.head(_TRAILERS, number, True))
            elif kind == frames.SETTINGS and not flags & frames.ACK:
                out.append(frames.SETTINGS_ACK)
            elif kind == frames.PING and not flags & frames.ACK:
                out.append(frames.ping(data[at + 9 : end], True))
            if kind == frames.DATA:
                self._owed += end - at - 9
            at = end
        self._rest = data[at:]
        if self._owed > 1 << 20:
            out.append(frames.window_update(0, self._owed))
            self._owed = 0
        if out:
            self._transport.write(b"".join(out))


async def _serve(pipe: Connection[Any, Any]) -> None:
    server = await asyncio.get_running_loop().create_server(_Server, "127.0.0.1", 0, backlog=4096)
    pipe.send(server.sockets[0].getsockname()[1])
    await server.serve_forever()


def _run(cpu: int, pipe: Connection[Any, Any]) -> None:
    os.sched_setaffinity(0, {cpu})
    uvloop.run(_serve(pipe))


@contextmanager
def grpc_origin(cpu: int) -> Iterator[str]:
    """The address of such a server, which runs on this CPU."""
    with child(_run, cpu) as pipe:
        yield f"127.0.0.1:{pipe.recv()}"
