"""Checks over real connections: of real servers where they are there, and of ones that misbehave."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent import futures
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
import trustme

from bench.rig.balancer import PATIENCE, free_port
from bench.rig.processes import listens, wait_for
from pylb.control.poll import Poll
from pylb.control.probe import Probe, Way
from pylb.health.exchange import LARGEST, Verdict
from pylb.health.expect import Expected, Request
from pylb.health.protocols import PROTOCOLS, Settings

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
FOREVER = 60.0


@asynccontextmanager
async def server(handler: Handler, **options: Any) -> AsyncIterator[int]:
    """The port of a server on loopback that plays a part."""

    async def played(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await handler(reader, writer)
        except (OSError, EOFError):
            pass
        finally:
            writer.close()

    one = await asyncio.start_server(played, "127.0.0.1", 0, **options)
    try:
        yield one.sockets[0].getsockname()[1]
    finally:
        one.close()


async def check(
    port: int, protocol: str, settings: Settings | None = None, seconds: float = FOREVER, **way: Any
) -> Verdict:
    """The verdict of one check; more than one, or none, fails the test."""
    loop = asyncio.get_running_loop()
    told: asyncio.Queue[Verdict] = asyncio.Queue()
    exchange = PROTOCOLS[protocol](settings or Settings())
    probe = Probe(Poll(loop), Way(socket.AF_INET, ("127.0.0.1", port), **way), exchange, told.put_nowait)
    timer = loop.call_later(seconds, probe.late, seconds)
    probe.start()
    verdict = await asyncio.wait_for(told.get(), PATIENCE)
    timer.cancel()
    await asyncio.sleep(0)
    assert told.empty()
    return verdict


async def _ok(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
    await writer.drain()
    await reader.read()


async def _silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read()


async def _drips(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    for number in itertools.count():
        writer.write(b"HTTP/1.1 200 OK\r\nX-Long: "[number : number + 1] or b"x")
        await writer.drain()
        await asyncio.sleep(0.001)


async def _floods(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        writer.write(b"x" * 65536)
        await writer.drain()


async def test_a_server_that_takes_connections() -> None:
    async with server(_silent) as port:
        assert await check(port, "tcp") == Verdict(True, "it takes connections")
    assert await check(free_port(), "tcp") == Verdict(False, "connection refused")


async def test_a_server_that_answers() -> None:
    async with server(_ok) as port:
        assert await check(port, "http") == Verdict(True, "it answers 200")


async def test_a_server_that_says_nothing_is_late() -> None:
    async with server(_silent) as port:
        assert await check(port, "http", seconds=0.2) == Verdict(False, "no answer within 0.2 s")


async def test_a_server_that_drips_is_late() -> None:
    async with server(_drips) as port:
        assert await check(port, "http", seconds=0.3) == Verdict(False, "no whole answer within 0.3 s")


async def test_no_more_than_64_kib_are_read_of_an_endless_body() -> None:
    expected = Expected(text=b"ok")
    async with server(_floods) as port:
        verdict = await check(port, "http", Settings(expected=expected))
    assert verdict.reason.startswith("it answers 200, and its body lacks 'ok': 'xxx")
    assert LARGEST == 65536


async def test_a_server_that_resets_the_connection() -> None:
    async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        writer.transport.abort()

    async with server(resets) as port:
        assert await check(port, "http") == Verdict(False, "connection reset by peer")


async def test_the_proxy_header_goes_first() -> None:
    seen: list[bytes] = []

    async def notes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readline())
        await _ok(reader, writer)

    async with server(notes) as port:
        verdict = await check(port, "http", header=b"PROXY UNKNOWN\r\n")
    assert verdict.passed and seen == [b"PROXY UNKNOWN\r\n"]


async def test_an_error_of_pylbs_own_costs_one_check(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Expected):
        @property
        def of_body(self) -> bool:
            raise RuntimeError("oops")

    async with server(_ok) as port:
        verdict = await check(port, "http", Settings(expected=Broken()))
    assert verdict == Verdict(False, "pylb's own error: RuntimeError('oops')")


# TLS.


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


def _contexts(ca: trustme.CA, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's with a certificate for a name, and a client's."""
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(name).configure_cert(theirs)
    ours = ssl.create_default_context()
    ca.configure_trust(ours)
    return theirs, ours


async def test_tls(ca: trustme.CA) -> None:
    theirs, ours = _contexts(ca, "good.example")
    async with server(_ok, ssl=theirs) as port:
        assert (await check(port, "tls", context=ours, name="good.example")).passed
        verdict = await check(port, "http", context=ours, name="good.example")
        assert verdict == Verdict(True, "it answers 200")
        verdict = await check(port, "http", context=ours, name="other.example")
        assert not verdict.passed
        assert verdict.reason.startswith("TLS: its certificate is not good: Hostname mismatch")


async def test_the_proxy_header_goes_before_tls(ca: trustme.CA) -> None:
    theirs, ours = _contexts(ca, "good.example")
    listener = socket.create_server(("127.0.0.1", 0))
    seen: list[bytes] = []

    def serve() -> None:
        connection, _ = listener.accept()
        seen.append(connection.recv(15, socket.MSG_WAITALL))
        with theirs.wrap_socket(connection, server_side=True) as encrypted:
            seen.append(encrypted.recv(5))
            encrypted.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

    with listener:
        serving = asyncio.create_task(asyncio.to_thread(serve))
        way: dict[str, Any] = {"context": ours, "name": "good.example", "header": b"PROXY UNKNOWN\r\n"}
        verdict = await check(listener.getsockname()[1], "http", **way)
        await serving
    assert (verdict.reason, seen) == ("it answers 200", [b"PROXY UNKNOWN\r\n", b"GET /"])


async def test_a_server_without_tls(ca: trustme.CA) -> None:
    _, ours = _contexts(ca, "good.example")

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await writer.drain()
        await reader.read()

    async with server(plain) as port:
        verdict = await check(port, "http", context=ours, name="good.example")
    assert not verdict.passed and verdict.reason.startswith("TLS: ")


# Real servers.


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    assert shutil.which("redis-server"), "apt-get install redis-server"
    port = free_port()
    folder = tmp_path_factory.mktemp("redis")
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen([*command, "--requirepass", "s"], stdout=subprocess.DEVNULL)
    try:
        wait_for("redis", lambda: listens(port))
        yield port
    finally:
        process.terminate()
        process.wait()


async def test_a_real_redis(redis: int) -> None:
    assert await check(redis, "redis") == Verdict(True, "it asks for a password")
    assert not (await check(redis, "http")).passed  # it closes what seems to come from a browser


class _Health(grpc.GenericRpcHandler):
    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if details.method != "/grpc.health.v1.Health/Check":
            return None
        return grpc.unary_unary_rpc_method_handler(self._check)

    def _check(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        states = {b"": b"\x08\x01", b"\x0a\x04down": b"\x08\x02"}
        if request not in states:
            context.abort(grpc.StatusCode.NOT_FOUND, "unknown")
        return states[request]


async def test_a_real_grpc_server() -> None:
    real = grpc.server(futures.ThreadPoolExecutor(2), handlers=(_Health(),))
    port = real.add_insecure_port("127.0.0.1:0")
    real.start()
    try:
        assert await check(port, "grpc") == Verdict(True, "its state is SERVING")
        settings = Settings(Request(host="a"), service="down")
        assert await check(port, "grpc", settings) == Verdict(False, "down: its state is NOT_SERVING")
        verdict = await check(port, "grpc", Settings(service="other"))
        assert verdict == Verdict(False, "it doesn't know the service (gRPC status 5)")
    finally:
        real.stop(None)


async def test_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    one = await asyncio.start_unix_server(_silent, path)
    told: list[Verdict] = []
    Probe(
        Poll(asyncio.get_running_loop()), Way(socket.AF_UNIX, path), PROTOCOLS["tcp"](Settings()), told.append
    ).start()
    one.close()
    Path(path).unlink(missing_ok=True)
    Probe(
        Poll(asyncio.get_running_loop()), Way(socket.AF_UNIX, path), PROTOCOLS["tcp"](Settings()), told.append
    ).start()
    assert told == [Verdict(True, "it takes connections"), Verdict(False, "no such file or directory")]
