"""A worker that leaves takes nothing out of its inbox that it would not serve."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import uvloop

from pylb.config.load import from_document
from pylb.net import channel
from pylb.net.serverlists import as_configured
from pylb.scoreboard import Field, Scoreboard, State
from pylb.worker.context import WorkerContext
from pylb.worker.process import Worker

ROW, OTHER = 0, 1


def _context(
    folder: Path, limits: dict[str, int] | None = None
) -> tuple[WorkerContext, socket.socket, list[socket.socket]]:
    """A worker's context, the supervisor's end of its channel, and the reading ends of two inboxes."""
    config = from_document(
        {
            "frontend": [{"name": "f", "bind": [f"unix:{folder}/in.sock"], "backend": "b"}],
            "backend": [{"name": "b", "server": [{"address": "127.0.0.1:1"}]}],
            "limits": limits or {},
        }
    )
    board = Scoreboard(2)
    board.row(ROW)[Field.STATE] = board.row(OTHER)[Field.STATE] = State.SERVING
    supervisor, worker = channel.pair()
    pairs = [channel.pair(), channel.pair()]
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{folder}/in.sock")
    listener.listen()
    listener.setblocking(False)
    context = WorkerContext(
        config, ROW, 0, 1, {f"unix:{folder}/in.sock": [listener] * 2}, board, worker, pairs[ROW][0],
        [writer for _, writer in pairs], as_configured(config), 1,
    )  # fmt: skip
    return context, supervisor, [reader for reader, _ in pairs]


def test_what_arrives_after_the_last_look_stays_in_the_inbox(tmp_path: Path) -> None:
    context, supervisor, readers = _context(tmp_path)
    client, balancer_end = socket.socketpair()
    bind = next(iter(context.listeners))

    async def life() -> None:
        serving = asyncio.create_task(Worker(context, asyncio.get_running_loop()).serve())
        channel.send(supervisor, {"op": "listen", "slots": [0]})
        channel.send(supervisor, {"op": "retire", "to": [OTHER], "binds": [bind]})
        await serving
        header = {"binds": [bind], "peers": [None], "born": [0], "pending": [""]}
        assert channel.send_connections(context.inboxes[ROW], header, [balancer_end.fileno()])
        # The process ends a few turns of the loop after its last look.
        for _ in range(5):
            await asyncio.sleep(0.001)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(life())
    balancer_end.close()
    packet = channel.recv_connections(readers[ROW])
    assert packet is not None, "the leaving worker took a connection along"
    channel.close_all(packet[1])
    client.close()


def test_what_came_before_is_given_away(tmp_path: Path) -> None:
    context, supervisor, readers = _context(tmp_path)
    client, balancer_end = socket.socketpair()
    bind = next(iter(context.listeners))
    header = {"binds": [bind], "peers": [None], "born": [0], "pending": [""]}
    assert channel.send_connections(context.inboxes[ROW], header, [balancer_end.fileno()])
    balancer_end.close()
    channel.send(supervisor, {"op": "listen", "slots": [0]})
    channel.send(supervisor, {"op": "retire", "to": [OTHER], "binds": [bind]})

    async def life() -> None:
        await Worker(context, asyncio.get_running_loop()).serve()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(life())
    packet = channel.recv_connections(readers[OTHER])
    assert packet is not None and packet[0]["binds"] == [bind]
    channel.close_all(packet[1])
    client.close()


def test_a_large_half_read_head_keeps_nobody_else_from_moving(tmp_path: Path) -> None:
    context, supervisor, readers = _context(tmp_path, {"header_bytes": 1 << 20})
    bind = next(iter(context.listeners))
    pairs = [socket.socketpair(), socket.socketpair()]
    (large, _), (idle, _) = pairs
    header = {"binds": [bind] * 2, "peers": [None] * 2, "born": [0] * 2, "pending": [""] * 2}
    assert channel.send_connections(context.inboxes[ROW], header, [theirs.fileno() for _, theirs in pairs])
    for _, theirs in pairs:
        theirs.close()
    moved: list[int] = []

    async def life() -> None:
        loop = asyncio.get_running_loop()
        worker = Worker(context, loop)
        serving = asyncio.create_task(worker.serve())
        channel.send(supervisor, {"op": "listen", "slots": [0]})

        async def packet() -> None:
            while (one := channel.recv_connections(readers[OTHER])) is None:
                assert not serving.done()
                await asyncio.sleep(0.001)
            moved.append(len(one[1]))
            channel.close_all(one[1])

        large.setblocking(False)
        await loop.sock_sendall(large, b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 300_000)
        while not any(len(getattr(one, "buffer", b"")) > 300_000 for one in worker.core.clients):
            await asyncio.sleep(0.001)
        channel.send(supervisor, {"op": "retire", "to": [OTHER], "binds": [bind]})
        await packet()
        await loop.sock_sendall(large, b"\r\n\r\n")
        assert (await loop.sock_recv(large, 4096)).startswith(b"HTTP/1.1 503 ")
        await packet()
        await serving

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(life())
    assert moved == [1, 1]
    idle.close()
    large.close()
