"""A bind that a reload removes: whoever has connected is served, by this listener or by the next one."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import Counter
from typing import Any

from pylb.net import steering
from pylb.worker.listeners import Listeners


class ByHand:
    """Takes what a listener accepts."""

    def __init__(self) -> None:
        self.taken: list[socket.socket] = []

    def begin(self, connection: socket.socket, address: object) -> None:
        self.taken.append(connection)


class Listener:
    going = False

    def __init__(self) -> None:
        self.by_hand = ByHand()


class Core:
    def __init__(self) -> None:
        self.counters: Counter[int] = Counter()


class Unlucky(socket.socket):
    """A listening socket to which a client connects whenever it has just been found empty."""

    clients: list[socket.socket]

    def accept(self) -> tuple[socket.socket, Any]:
        try:
            return super().accept()
        except BlockingIOError:
            client = socket.socket()
            client.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                client.connect(self.getsockname())
            self.clients.append(client)
            raise


def listening(sock: socket.socket, host: str, port: int) -> int:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind((host, port))
    sock.listen(16)
    return int(sock.getsockname()[1])


async def leave(listeners: Listeners, read_by_others: set[str]) -> None:
    """As the process does after a reload."""
    await listeners.close(read_by_others)
    await listeners.close_rest(handshakes=True)


def test_who_comes_while_a_bind_is_closed_is_served_by_the_one_in_its_place() -> None:
    listener = Listener()
    with Unlucky() as narrow, socket.socket() as wide:
        narrow.clients = []
        narrow.setblocking(False)
        port = listening(narrow, "127.0.0.1", 0)
        listening(wide, "0.0.0.0", port)
        wide.settimeout(50)
        sockets: dict[str, list[socket.socket]] = {f"127.0.0.1:{port}": [narrow]}
        listeners = Listeners(Core(), sockets, {key: listener for key in sockets}, 16)  # type: ignore[arg-type, misc]
        assert steering.turn_away(narrow)  # as the supervisor does
        asyncio.run(leave(listeners, {f"*:{port}"}))
        assert narrow.clients
        for client in narrow.clients:
            client.settimeout(50)
            client.sendall(b"?")  # waits for the handshake
        served = listener.by_hand.taken
        served += [wide.accept()[0] for _ in range(len(narrow.clients) - len(served))]
        for connection in served:
            connection.settimeout(50)
            assert connection.recv(1) == b"?"
            connection.sendall(b"!")
        for client in narrow.clients:
            assert client.recv(1) == b"!"
        for sock in (*served, *narrow.clients):
            sock.close()
