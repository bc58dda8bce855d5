"""In pieces: what waits in memory for a client that takes less than comes."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest
import uvloop

from pylb.worker.pieces import MUCH, PIECE, InPieces, queued, switch
from tests.worker.scene import Scene
from tests.worker.stand_ins import STREAM, FakeClient, FakeServer

_SENT = bytes(range(256)) * 4096  # 1 MiB


class _Reader(asyncio.Protocol):
    """Notes what comes. After its first bytes it is read in pieces, and from the half on as a whole."""

    def __init__(self) -> None:
        self.came: list[bytes] = []
        self.after = 0
        self.over: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.came.append(data)
        if len(self.came) == 1:
            switch(self.transport, InPieces(self), True)
        elif not self.after and sum(map(len, self.came)) > len(_SENT) // 2:
            self.after = len(self.came)
            switch(self.transport, self, True)

    def connection_lost(self, exc: Exception | None) -> None:
        self.over.set_result(None)


def _pair() -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        near = socket.create_connection(listener.getsockname())
        return near, listener.accept()[0]


def test_a_connection_is_read_in_pieces_and_as_a_whole_again() -> None:
    async def read() -> _Reader:
        near, far = _pair()
        loop = asyncio.get_running_loop()
        with far:
            _, reader = await loop.connect_accepted_socket(_Reader, near)
            await loop.run_in_executor(None, far.sendall, _SENT)
        await reader.over
        return reader

    reader = uvloop.run(read())
    assert b"".join(reader.came) == _SENT
    assert max(map(len, reader.came[1 : reader.after])) <= PIECE
    assert reader.after > 2


def test_what_the_kernel_keeps_for_a_client_is_known() -> None:
    async def write() -> tuple[int, int]:
        near, far = _pair()
        with far:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, near)
            before = queued(transport)
            while not transport.get_write_buffer_size():
                transport.write(bytes(PIECE))
            after = queued(transport)
            transport.abort()
            return before, after

    before, after = uvloop.run(write())
    assert before == 0 and after > 0


class _Server(FakeServer):
    """Notes that it is to be read in pieces."""

    def read_pieces(self) -> None:
        self.hear("read_pieces")


class _Lagging(FakeClient):
    lags = True


@pytest.mark.parametrize("lags", [True, False])
def test_a_client_that_lags_has_less_read_for_it(scene: Scene, lags: bool) -> None:
    server = _Server()
    scene.backend.servers[0].pool.idle = {server: None}
    if lags:
        scene.client = _Lagging(scene.facts)
    scene.request()
    scene.tell(scene.exchange.response, STREAM, b"a", 0, False)
    assert server.words() == ["request"]
    scene.tell(scene.exchange.response_body, bytes(PIECE))
    assert server.words() == ["request", "read_pieces"][: 1 + lags]


def test_a_client_that_is_full_has_less_read_for_it_from_then_on(scene: Scene) -> None:
    server = _Server()
    scene.backend.servers[0].pool.idle = {server: None}
    scene.request()
    scene.tell(scene.exchange.response, STREAM, b"a", 0, False)
    scene.tell(scene.exchange.client_full)
    assert server.words() == ["request", "pause", "read_pieces"]


def test_no_more_than_a_few_pieces_are_in_memory_for_a_client() -> None:
    from pylb.worker.core import WRITE_BUFFER

    assert WRITE_BUFFER + PIECE <= 80 * 1024 < MUCH
