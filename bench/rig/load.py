"""Clients in one process, as httperf's in the paper but fast: plain sockets and epoll.

`closed_loop` has clients that each send their next request when they have the response; `open_loop` sends
requests when they are due, however slowly the last ones are answered. The response time is counted from when
the request was due; with a new connection, the connect is part of it.
"""

from __future__ import annotations

import select
import socket
import time
from array import array
from collections import deque
from collections.abc import Callable
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


class _Clients:
    """The connections with a request under way."""

    def __init__(self, port: int, keep_alive: bool, path: str) -> None:
        closing = "" if keep_alive else "Connection: close\r\n"
        self._request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n{closing}\r\n".encode()
        self._address = ("127.0.0.1", port)
        self._keep_alive = keep_alive
        self._poll = select.epoll()
        self._idle: list[_Client] = []
        self.busy: dict[int, _Client] = {}
        self.outcome = Outcome()
        self.begin = time.perf_counter()
        self._next_look = self.begin + 1.0

    def start(self, due: float) -> None:
        """Send a request, on an idle connection or a new one."""
        if self._idle:
            client = self._idle.pop()
            client.data, client.wanted, client.began = b"", 0, due
            self.busy[client.sock.fileno()] = client
            client.sock.send(self._request)
            return
        sock = socket.socket()
        sock.setblocking(False)
        client = self.busy[sock.fileno()] = _Client(sock, due)
        if sock.connect_ex(self._address):
            self._poll.register(sock.fileno(), select.EPOLLOUT)
        else:
            self._poll.register(sock.fileno(), select.EPOLLIN)
            sock.send(self._request)

    def wait(self, seconds: float) -> int:
        """Read what has come; gives how many requests have ended, well or not."""
        ended = 0
        for number, event in self._poll.poll(seconds, 512):
            client = self.busy.get(number)
            if client is None:
                continue  # the balancer closed an idle connection
            try:
                if event == select.EPOLLOUT:
                    self._poll.modify(number, select.EPOLLIN)
                    client.sock.send(self._request)
                    continue
                if not _complete(client):
                    continue
            except (OSError, ValueError):
                self._fail(number, client)
                ended += 1
                continue
            done = time.perf_counter()
            self.outcome.latencies.append(done - client.began)
            self.outcome.ends.append(done - self.begin)
            del self.busy[number]
            ended += 1
            if self._keep_alive:
                self._idle.append(client)
            else:
                client.sock.close()
        now = time.perf_counter()
        if now >= self._next_look:
            self._next_look = now + 1.0
            for number, client in [(n, c) for n, c in self.busy.items() if now - c.began > _TIMEOUT]:
                self._fail(number, client)
                ended += 1
        return ended

    def _fail(self, number: int, client: _Client) -> None:
        self.outcome.failed += 1
        del self.busy[number]
        client.sock.close()

    def finish(self) -> Outcome:
        """Close everything."""
        self.outcome.seconds = time.perf_counter() - self.begin
        for client in (*self.busy.values(), *self._idle):
            client.sock.close()
        self._poll.close()
        return self.outcome


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
    all_ = _Clients(port, keep_alive, path)
    stop = all_.begin + seconds if seconds is not None else float("inf")
    left = requests if requests is not None else 1 << 62
    wanted = clients
    while True:
        for _ in range(min(wanted, left)):
            all_.start(time.perf_counter())
            left -= 1
        if not all_.busy:
            break
        wanted = all_.wait(min(1.0, max(0.0, stop - time.perf_counter())))
        if time.perf_counter() >= stop:
            break
    return all_.finish()


def open_loop(
    port: int, rate: Callable[[float], float], seconds: float, clients: int = 500, path: str = "/"
) -> Outcome:
    """Load 127.0.0.1:``port`` with ``rate(t)`` requests per second, each on a connection of its own.

    At most ``clients`` connections are open; requests that are due wait for one, and their time counts.
    What is unanswered a second after the end has failed.
    """
    all_ = _Clients(port, False, path)
    waiting: deque[float] = deque()
    due = 0.0
    while True:
        now = time.perf_counter() - all_.begin
        while due <= min(now, seconds):
            waiting.append(all_.begin + due)
            due += 1 / max(1.0, rate(due))
        while waiting and len(all_.busy) < clients:
            all_.start(waiting.popleft())
        if now > seconds and (not (all_.busy or waiting) or now > seconds + 1):
            break
        all_.wait(min(0.05, max(0.0005, due - now)))
    all_.outcome.failed += len(waiting) + len(all_.busy)
    return all_.finish()


def _complete(client: _Client) -> bool:
    """Read; whether the whole response is here.

    Raises:
        OSError: the connection broke, or ended within the response.
        ValueError: the response is not a 200 with a Content-Length.
    """
    data = client.sock.recv(262144)
    if not data:
        raise ConnectionError("the connection ended within the response")
    if client.data:
        data = client.data + data
    if not client.wanted:
        head = data.find(b"\r\n\r\n")
        if head >= 0:
            client.wanted = _length(data[: head + 2], head + 4)
    client.data = data
    return 0 < client.wanted <= len(data)


def _length(head: bytes, body: int) -> int:
    """Bytes of the whole response."""
    if head[9:12] != b"200":
        raise ValueError(head[:40])
    lower = head.lower()
    at = lower.index(b"\ncontent-length:") + 16
    return body + int(lower[at : lower.index(b"\r", at)])
