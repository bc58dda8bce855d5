"""A stream that outlives its ends, as a virtual machine's port does: what lies in it is harmless."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.address import parse
from controller.client import ControllerClient
from controller.leases import LeaseTable
from controller.protocol import Error, Grant, Hello, LineDecoder, Message, ProtocolError, Report, encode
from tests.controller.four_cores import serving, until


class Bridge:
    """Passes bytes between a port and the controller's socket, as QEMU does: whoever comes and goes."""

    def __init__(self, path: Path) -> None:
        self.port, self._host = socket.socketpair()
        self.passed = 0
        """Bytes that came from the controller."""
        self.up: asyncio.StreamWriter | None = None
        self._path = path
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        reader, writer = await asyncio.open_connection(sock=self._host)

        async def to_controller() -> None:
            while data := await reader.read(65536):
                if self.up is not None:  # else lost, as by QEMU
                    self.up.write(data)

        task = asyncio.create_task(to_controller())
        try:
            while True:
                with contextlib.suppress(OSError):
                    down, self.up = await asyncio.open_unix_connection(str(self._path))
                    while data := await down.read(65536):
                        self.passed += len(data)
                        writer.write(data)
                await asyncio.sleep(0.01)
        finally:
            task.cancel()
            writer.transport.abort()


class Watched(ControllerClient):
    """A client at a port that keeps the grants it took, and reports often."""

    def __init__(self, port: socket.socket, monkeypatch: pytest.MonkeyPatch, name: str = "a") -> None:
        super().__init__(parse("unix:/a/port"), Hello(name, 1, 4))
        self.taken: list[Grant] = []
        self.sessions: list[str] = []

        async def open_port(*_: object) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
            return await asyncio.open_connection(sock=port.dup())

        monkeypatch.setattr("controller.client.open_stream", open_port)

    def _greet(self, writer: asyncio.StreamWriter) -> None:
        super()._greet(writer)
        self.sessions.append(self._session)

    def _take_grant(self, grant: Grant) -> bool:
        taken = super()._take_grant(grant)
        if taken:
            self.taken.append(grant)
        return taken

    async def live(self) -> None:
        async def report() -> None:
            while True:
                self.report(Report(1, 0.0, 3.0))
                await asyncio.sleep(0.02)

        await asyncio.gather(self.run(), report())

    @contextlib.asynccontextmanager
    async def alive(self) -> AsyncIterator[None]:
        """Until killed: then nothing more is sent and read, and the port stays."""
        task = asyncio.create_task(self.live())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


@contextlib.asynccontextmanager
async def bridged(path: Path) -> AsyncIterator[Bridge]:
    bridge = Bridge(path)
    task = asyncio.create_task(bridge.run())
    try:
        yield bridge
    finally:
        task.cancel()
        bridge.port.close()


async def test_grants_for_the_one_before_are_not_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.sock"
    async with serving(path), bridged(path) as bridge:
        first = Watched(bridge.port, monkeypatch)
        async with first.alive():
            await until(lambda: first.taken and first.taken[-1].cores == 3)
        passed = bridge.passed
        await until(lambda: bridge.passed > passed)  # what nobody reads waits in the port
        second = Watched(bridge.port, monkeypatch)
        async with second.alive():
            await until(lambda: second.taken and second.taken[-1].seq > 0)
        assert {grant.session for grant in first.taken} & {grant.session for grant in second.taken} == set()
        assert len({grant.session for grant in second.taken}) == 1


async def test_half_a_line_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "c.sock"
    async with serving(path), bridged(path) as bridge:
        await until(lambda: bridge.up)
        bridge.port.send(b'{"v":1,"type":"report","wor')
        client = Watched(bridge.port, monkeypatch)
        async with client.alive():
            await until(lambda: client.taken and client.taken[-1].cores == 3)
        assert client.taken[0].session == client.sessions[0]  # the first hello was understood


async def test_a_controller_that_starts_anew_behind_a_bridge(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c.sock"
    async with bridged(path) as bridge:
        client = Watched(bridge.port, monkeypatch)
        async with client.alive():
            async with serving(path):
                await until(lambda: client.taken and client.taken[-1].cores == 3)
            before = client._session
            bridge._host.send(b'{"v":1,"type":"gra')  # it ended within a line
            async with serving(path):
                await until(lambda: client._session != before and client.current(0) is not None)
        assert client.taken[-1].session != before


def fake(monkeypatch: pytest.MonkeyPatch) -> tuple[ControllerClient, list[Message], list[float]]:
    """A client with a stream of its own; what it sent, and its clock."""
    client = ControllerClient(parse("unix:/none"), Hello("a", 1, 4))
    clock = [1000.0]
    sent: list[Message] = []
    decoder = LineDecoder()

    class Writer:
        transport: Any = type("Transport", (), {"get_write_buffer_size": staticmethod(lambda: 0)})

        def is_closing(self) -> bool:
            return False

        def write(self, data: bytes) -> None:
            for message in decoder.feed(data):
                assert not isinstance(message, ProtocolError)
                sent.append(message)

    class Time:
        @staticmethod
        def monotonic() -> float:
            return clock[0]

    monkeypatch.setattr("controller.client.time", Time)
    client._writer = Writer()  # type: ignore[assignment]
    client._greet(client._writer)  # type: ignore[arg-type]
    return client, sent, clock


def answer(message: Message, hello: Message, cores: int = 2) -> Grant:
    assert isinstance(hello, Hello)
    return Grant(0, cores, 3.0, "", hello.session, message.seq if isinstance(message, Report) else 0)


def test_a_lease_counts_from_the_report_that_it_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    client, sent, clock = fake(monkeypatch)
    for _ in range(12):  # six seconds, in which the controller's answers lie somewhere
        client.report(Report(1))
        clock[0] += 0.5
    hello, *reports = sent
    for report in reports:
        client._take(answer(report, hello))
    # The last one answers what was sent half a second ago.
    assert client.current(clock[0]) is not None
    assert client.current(clock[0] + 2.4) is not None
    assert client.current(clock[0] + 2.6) is None
    clock[0] += 6
    client._take(answer(reports[-1], hello))
    assert client.current(clock[0]) is None


@pytest.mark.parametrize("code", ["hello", "lease", "json"])
def test_an_error_voids_the_grant_and_is_answered_by_a_hello(
    monkeypatch: pytest.MonkeyPatch, code: str
) -> None:
    client, sent, clock = fake(monkeypatch)
    client.report(Report(2, 1.5))
    old, report = sent
    client._take(answer(report, old))
    clock[0] += 1
    client._take(Error(code, "who are you?"))
    assert client.current(clock[0]) is None
    hello, again = sent[2:]
    assert isinstance(hello, Hello)
    assert isinstance(old, Hello)
    assert hello.session != old.session
    assert again == report  # number 1 of a new session
    client._take(answer(report, old, 4))
    assert client.current(clock[0]) is None
    client._take(answer(again, hello))
    assert client.current(clock[0]) is not None


def test_errors_without_end_are_no_hellos_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    client, sent, clock = fake(monkeypatch)
    for _ in range(100):
        client._take(Error("json", "what?"))
        client.report(Report(1))
        clock[0] += 0.05  # five seconds
    assert 5 <= sum(isinstance(message, Hello) for message in sent) <= 11
    assert not any(isinstance(message, Error) for message in sent)


def test_a_number_that_was_never_sent_is_not_for_us(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine was set back to a snapshot: the grants answer what it doesn't know that it said."""
    client, sent, clock = fake(monkeypatch)
    hello = sent[0]
    for seq in (7, 300, 2**53):
        client._take(answer(Report(1, seq=seq), hello))
    assert client.current(clock[0]) is None
    for _ in range(300):
        client.report(Report(1))
    client._take(answer(Report(1, seq=1), hello))  # not remembered so long
    assert client.current(clock[0]) is None
    assert len(client._sent) == 256


def test_a_controller_without_sessions_is_believed_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    client, sent, clock = fake(monkeypatch)
    client._take(Grant(0, 2, 3.0))
    assert client.current(clock[0] + 2.9) is not None
    assert client.current(clock[0] + 3.1) is None
    client.report(Report(1))
    client._take(answer(sent[1], sent[0], 3))
    client._take(Grant(0, 4, 3.0))  # what an older one left in the stream
    grant = client.current(clock[0])
    assert grant is not None
    assert grant.cores == 3


def test_another_session_begins_anew() -> None:
    table = LeaseTable()
    table.join("a", Hello("a", 1, 8, session="one"), 0)
    table.report("a", Report(4, 4.0, 4.0, seq=9), 0)
    table.join("a", Hello("a", 1, 8, session="one"), 1)
    assert table.tick(1, 8, 8)["a"].cores == 4
    table.join("a", Hello("a", 1, 8, session="two"), 1)
    grant = table.tick(1, 8, 8)["a"]
    assert (grant.cores, grant.session, grant.seq) == (1, "two", 0)
    table.report("a", Report(1, 0.0, 2.0, seq=1), 1)
    assert table.tick(1, 8, 8)["a"].seq == 1


class Raw:
    """A connection to the controller that says and reads lines as they are."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.setblocking(False)
        self.sock.connect(str(path))
        self._decoder = LineDecoder()
        self._got: list[Message | ProtocolError] = []

    async def say(self, *messages: Hello | Report) -> None:
        await asyncio.get_running_loop().sock_sendall(self.sock, b"".join(map(encode, messages)))

    async def until(self, wanted: Callable[[Any], bool]) -> Any:
        """The first message that is wanted; None at the end of the stream."""
        async with asyncio.timeout(50):
            while True:
                while self._got:
                    message = self._got.pop(0)
                    if wanted(message):
                        return message
                data = await asyncio.get_running_loop().sock_recv(self.sock, 65536)
                if not data:
                    return None
                self._got += self._decoder.feed(data)


@pytest.fixture
def raw(tmp_path: Path) -> Iterator[Callable[[], Raw]]:
    opened: list[Raw] = []

    def begin() -> Raw:
        opened.append(Raw(tmp_path / "c.sock"))
        return opened[-1]

    yield begin
    for one in opened:
        one.sock.close()


async def test_numbers_that_run_backwards_end_the_lease_and_not_the_connection(
    tmp_path: Path, raw: Callable[[], Raw]
) -> None:
    async with serving(tmp_path / "c.sock") as server:
        peer = raw()
        await peer.say(Hello("a", 1, 4, session="s1"), Report(1, seq=1), Report(1, 0.0, 2.0, seq=7))
        await peer.until(lambda message: isinstance(message, Grant) and message.seq == 7)
        await peer.say(Report(1, 0.0, 4.0, seq=3))
        error = await peer.until(lambda message: isinstance(message, Error))
        assert error.code == "lease"
        assert not server.table.holders
        await peer.say(Hello("a", 1, 4, session="s2"), Report(1, 0.0, 3.0, seq=1))
        grant = await peer.until(lambda message: isinstance(message, Grant) and message.seq == 1)
        assert (grant.session, grant.cores) == ("s2", 3)


@pytest.mark.parametrize("session", ["", "s1"])
async def test_an_expired_lease_ends_only_connections_without_session(
    tmp_path: Path, raw: Callable[[], Raw], session: str
) -> None:
    async with serving(tmp_path / "c.sock") as server:
        peer = raw()
        await peer.say(Hello("a", 1, 4, session=session))
        await peer.until(lambda message: isinstance(message, Grant))
        (holder,) = server.table.holders.values()
        holder.heard -= 100
        await until(lambda: not server.table.holders)
        await peer.say(Report(1, seq=1 if session else 0))
        error = await peer.until(lambda message: isinstance(message, Error))
        assert error.code == "lease"
        if session:
            await peer.say(Hello("a", 1, 4, session="s2"))
            assert (await peer.until(lambda message: isinstance(message, Grant))).session == "s2"
        else:
            assert await peer.until(lambda message: isinstance(message, Grant)) is None


async def test_a_balancer_of_before_goes_on_working(tmp_path: Path, raw: Callable[[], Raw]) -> None:
    async with serving(tmp_path / "c.sock"):
        peer = raw()
        old = [
            {"v": 1, "type": "hello", "name": "a", "min": 1, "max": 4, "weight": 1.0, "token": ""},
            {"v": 1, "type": "report", "workers": 1, "busy": 0.5, "pressure": 2.0},
            {"v": 1, "type": "report", "workers": 1, "busy": 0.5, "pressure": 3.0},
        ]
        lines = b"".join(json.dumps(line).encode() + b"\n" for line in old)
        await asyncio.get_running_loop().sock_sendall(peer.sock, lines)
        grant = await peer.until(lambda message: isinstance(message, Grant) and message.cores == 3)
        assert (grant.session, grant.seq) == ("", 0)
