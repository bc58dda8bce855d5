"""Connecting to a server by its name: which of several addresses, and with which options of TCP."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator
from typing import Any, cast

import pytest
import uvloop

from pylb.config.address import parse_address
from pylb.config.model import Backend as BackendConfig
from pylb.config.model import Limits, Server, Tcp, Timeouts
from pylb.net import tcpoptions
from pylb.scoreboard import Scoreboard
from pylb.worker import backend
from pylb.worker.core import Core
from pylb.worker.descriptors import Descriptors
from pylb.worker.server import dial as dial_
from pylb.worker.server.dial import Found, dial, in_turn, is_literal


def _place(host: str, port: int = 80) -> Found:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port)


@contextlib.contextmanager
def _listening(host: str, port: int = 0, full: bool = False) -> Iterator[int]:
    """A port; ``full``: its queue is, so that the kernel drops what comes."""
    with socket.socket() as sock, contextlib.ExitStack() as stack:
        sock.bind((host, port))
        sock.listen(0 if full else 10)
        for _ in range(2 if full else 0):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(sock.getsockname())
        yield sock.getsockname()[1]


class _Dialling:
    """A server with a name of these addresses; which of them were tried is noted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
        self.hosts = hosts
        self.tried: list[str] = []
        self.patch = monkeypatch
        config = BackendConfig(name="b", servers=(Server(name="s", address=parse_address("twice:80")),))
        (self.server,) = backend.Backend(config, Scoreboard(1), lambda server: 0, 0).servers

    async def dial(self, port: int, tcp: Tcp | None = None) -> tuple[str, dict[str, int]]:
        """The address that it is connected to, and options of the socket."""
        loop = asyncio.get_running_loop()
        core = Core(loop, Timeouts(), Limits(), 2.0, Descriptors(1 << 16, 0))
        core.tcp_options = tcpoptions.options(tcp or Tcp())
        connect = loop.sock_connect

        async def noted(sock: socket.socket, address: Any) -> None:
            self.tried.append(address[0])
            await connect(sock, address)

        class Resolving:
            """The loop, which finds the addresses of the test."""

            sock_connect = staticmethod(noted)

            @staticmethod
            async def getaddrinfo(host: str, port: int, type: int) -> list[Found]:
                return [_place(one, port) for one in self.hosts]

            def __getattr__(self, name: str) -> Any:
                return getattr(loop, name)

        core.loop = cast(asyncio.AbstractEventLoop, Resolving())
        with await dial(core, self.server, port) as sock:
            found = {
                name: sock.getsockopt(level, getattr(socket, name))
                for level, name in (
                    (socket.SOL_SOCKET, "SO_KEEPALIVE"),
                    (socket.IPPROTO_TCP, "TCP_KEEPIDLE"),
                    (socket.IPPROTO_TCP, "TCP_USER_TIMEOUT"),
                )
            }
            return sock.getpeername()[0], found


@pytest.mark.parametrize("full", [True, False])
def test_a_dead_address_is_passed_and_then_tried_last(monkeypatch: pytest.MonkeyPatch, full: bool) -> None:
    """One that swallows SYNs, and one that refuses."""
    dialling = _Dialling(monkeypatch, "127.0.0.2", "127.0.0.3")

    def wait_for_the_dead(wait: bool) -> None:
        monkeypatch.setattr(dial_, "HEAD_START", 30.0 if wait else 0.01)

    async def twice(port: int) -> None:
        wait_for_the_dead(not full)
        assert (await dialling.dial(port))[0] == "127.0.0.3"
        assert dialling.tried == ["127.0.0.2", "127.0.0.3"]
        dialling.tried.clear()
        wait_for_the_dead(True)
        assert (await dialling.dial(port))[0] == "127.0.0.3"
        assert dialling.tried == ["127.0.0.3"]
        dialling.server.avoided[("127.0.0.2", port)] = 0.0  # its time is over
        dialling.tried.clear()
        wait_for_the_dead(not full)
        await dialling.dial(port)
        assert dialling.tried == ["127.0.0.2", "127.0.0.3"]

    dead = _listening("127.0.0.2", full=True) if full else contextlib.nullcontext(0)
    with dead as port, _listening("127.0.0.3", port) as port:
        uvloop.run(twice(port))


def test_when_all_are_dead_it_is_said_why(monkeypatch: pytest.MonkeyPatch) -> None:
    dialling = _Dialling(monkeypatch, "127.0.0.2", "127.0.0.3")
    with _listening("127.0.0.4") as port, pytest.raises(ConnectionRefusedError):
        uvloop.run(dialling.dial(port))


def test_options_of_tcp(monkeypatch: pytest.MonkeyPatch) -> None:
    dialling = _Dialling(monkeypatch, "127.0.0.1")
    with _listening("127.0.0.1") as port:
        usual = uvloop.run(dialling.dial(port))[1]
        other = uvloop.run(dialling.dial(port, Tcp(keep_alive=0.0, user_timeout=30.0)))[1]
    assert usual == {"SO_KEEPALIVE": 1, "TCP_KEEPIDLE": 60, "TCP_USER_TIMEOUT": 0}
    assert (other["SO_KEEPALIVE"], other["TCP_USER_TIMEOUT"]) == (0, 30_000)


def test_what_a_listening_socket_accepts_has_its_options() -> None:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        tcpoptions.apply(sock, tcpoptions.options(Tcp(keep_alive=33.0, user_timeout=7.0)))
        sock.listen()
        with socket.create_connection(sock.getsockname()), sock.accept()[0] as accepted:
            assert accepted.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 33
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 7000


def test_families_take_turns_and_each_address_once() -> None:
    found = [_place(one) for one in ("::1", "::2", "::1", "127.0.0.1", "127.0.0.2", "127.0.0.3")]
    hosts = [place[4][0] for place in in_turn(found)]
    assert hosts == ["::1", "127.0.0.1", "::2", "127.0.0.2", "127.0.0.3"]


def test_which_hosts_need_no_look_up() -> None:
    assert [is_literal(one) for one in ("10.0.0.1", "::1", "fe80::1%eth0", "a.example", "localhost")] == [
        *(True, True, True, False, False),
    ]
