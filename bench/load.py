"""Closed-loop clients in one process, as httperf's in the paper but fast: plain sockets and epoll.

Each client sends a GET, reads its whole response, and sends the next one, on the same connection or on a new
one. The response time is counted from the beginning of the request (with a new connection: of its connect).
"""

from __future__ import annotations

import select
import socket
import time
from array import array
from dataclasses import dataclass, field

_TIMEOUT = 20.0
"""Seconds after which a client that hears nothing has failed."""


@dataclass
class Outcome:
    """What the clients saw."""

    seconds: float = 0.0
    """From the first request to the last response."""
    latencies: array[float] = field(default_factory=lambda: array("d"))
    """Seconds of each answered request, in the order of the answers."""
    ends: array[float] = field(default_factory=lambda: array("d"))
    """When each was answered, in seconds since the beginning."""
    failed: int = 0


class _Client:
    __slots__ = ("sock", "began", "data", "wanted")

    def __init__(self, sock: socket.socket, began: float) -> None:
        self.sock = sock
        self.began = began
        self.data = b""
        self.wanted = 0


def closed_loop(
    port: int,
    clients: int,
    requests: int | None = None,
    seconds: float | None = None,
    keep_alive: bool = False,
    path: str = "/",
) -> Outcome:
    """Load 127.0.0.1:``port`` until ``requests`` were begun or ``seconds`` are over.

    With ``seconds`` what is under way at the end is abandoned, and not counted.
    """
    closing = "" if keep_alive else "Connection: close\r\n"
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{closing}\r\n".encode()
    poll = select.epoll()
    open_: dict[int, _Client] = {}
    outcome = Outcome()
    clock = time.perf_counter
    begin = clock()
    stop = begin + seconds if seconds is not None else float("inf")
    left = requests if requests is not None else 1 << 62
    next_look = begin + 1.0

    def start() -> None:
        nonlocal left
        left -= 1
        sock = socket.socket()
        sock.setblocking(False)
        client = _Client(sock, clock())
        error = sock.connect_ex(("127.0.0.1", port))
        open_[sock.fileno()] = client
        if error:
            poll.register(sock.fileno(), select.EPOLLOUT)
        else:
            poll.register(sock.fileno(), select.EPOLLIN)
            sock.send(request)

    def end(number: int, client: _Client) -> None:
        del open_[number]
        client.sock.close()

    def fail(number: int, client: _Client) -> None:
        outcome.failed += 1
        end(number, client)
        if left > 0:
            start()

    for _ in range(min(clients, left)):
        start()
    while open_:
        events = poll.poll(1.0, 512)
        now = clock()
        if now >= stop:
            break
        for number, event in events:
            client = open_[number]
            try:
                if event == select.EPOLLOUT:
                    poll.modify(number, select.EPOLLIN)
                    client.sock.send(request)
                    continue
                data = client.sock.recv(262144)
                if not data:
                    raise ConnectionError("the connection ended within the response")
                if client.data:
                    data = client.data + data
                if not client.wanted:
                    head = data.find(b"\r\n\r\n")
                    if head >= 0:
                        client.wanted = _length(data[: head + 2], head + 4)
                if not client.wanted or len(data) < client.wanted:
                    client.data = data
                    continue
            except (OSError, ValueError):
                fail(number, client)
                continue
            done = clock()
            outcome.latencies.append(done - client.began)
            outcome.ends.append(done - begin)
            if not keep_alive:
                end(number, client)
                if left > 0:
                    start()
            elif left > 0:
                left -= 1
                client.data, client.wanted, client.began = b"", 0, clock()
                client.sock.send(request)
            else:
                end(number, client)
        if now >= next_look:
            next_look = now + 1.0
            for number, client in [(n, c) for n, c in open_.items() if now - c.began > _TIMEOUT]:
                fail(number, client)
    outcome.seconds = clock() - begin
    for client in open_.values():
        client.sock.close()
    poll.close()
    return outcome


def _length(head: bytes, body: int) -> int:
    """Bytes of the whole response.

    Raises:
        ValueError: it is not a 200 with a Content-Length.
    """
    if head[9:12] != b"200":
        raise ValueError(head[:40])
    lower = head.lower()
    at = lower.index(b"\ncontent-length:") + 16
    return body + int(lower[at : lower.index(b"\r", at)])
