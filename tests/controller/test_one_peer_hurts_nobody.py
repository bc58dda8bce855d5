"""What one peer, a stranger or a second controller can do to the controller and its balancers: nothing."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trustme

from controller.address import Address, parse
from controller.client import client_tls, open_stream
from controller.peer import MOST_READ, READ
from controller.places import MAX_STRANGERS, MAX_TRUSTED, Places, within
from controller.protocol import Error, Grant, Hello, LineDecoder, Report, Status, StatusRequest, encode
from controller.server import ControllerServer
from controller.socketfile import listen_unix, remove_own


class Cores:
    """A source with eight cores that counts how often it is asked."""

    name = "test"

    def __init__(self) -> None:
        self.asked = 0
        self.broken = False

    def sample(self, now: float) -> None:
        if self.broken:
            raise RuntimeError("the table is upside down")

    def idle(self) -> float:
        return 8.0

    def capacity(self, used: Mapping[str, float]) -> float:
        self.asked += 1
        if self.broken:
            raise RuntimeError("the table is upside down")
        return 8.0

    def usable(self) -> float:
        return 8.0

    def per_cpu(self) -> list[float]:
        return []


@contextlib.asynccontextmanager
async def serving(address: str, source: Cores | None = None) -> AsyncIterator[ControllerServer]:
    server = ControllerServer(source or Cores())
    await server.start(parse(address))
    try:
        yield server
    finally:
        await server.close()


class Talk:
    """A connection, and what came over it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.got: list[object] = []
        self._decoder = LineDecoder(1 << 24)

    @classmethod
    async def to(cls, address: Address | None, tls: ssl.SSLContext | None = None) -> Talk:
        assert address is not None
        return cls(*await open_stream(address, tls))

    def say(self, *messages: Hello | Report | StatusRequest) -> None:
        self.writer.write(b"".join(map(encode, messages)))

    async def until(self, wanted: Callable[[object], bool]) -> object:
        async with asyncio.timeout(50):
            while True:
                for message in self.got:
                    if wanted(message):
                        return message
                data = await self.reader.read(65536)
                assert data, "it closed the connection"
                self.got = list(self._decoder.feed(data))

    async def grant(self, cores: int) -> None:
        await self.until(lambda message: isinstance(message, Grant) and message.cores == cores)

    async def closed(self) -> None:
        async with asyncio.timeout(50):
            with contextlib.suppress(ConnectionError):
                while await self.reader.read(65536):
                    pass


# A socket's file


def start_controller(*arguments: str, files: int = 0) -> subprocess.Popen[str]:
    def limit() -> None:
        if files:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    return subprocess.Popen(
        [sys.executable, "-m", "controller", *arguments], stderr=subprocess.PIPE, text=True, preexec_fn=limit
    )


@pytest.fixture
def process() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    running: list[subprocess.Popen[str]] = []

    def begin(*arguments: str, files: int = 0) -> subprocess.Popen[str]:
        running.append(start_controller(*arguments, files=files))
        return running[-1]

    yield begin
    for one in running:
        one.kill()
        one.communicate()


async def test_a_second_controller_leaves_the_first_ones_socket_alone(
    process: Callable[..., subprocess.Popen[str]], tmp_path: Path
) -> None:
    listen = f"unix:{tmp_path}/c.sock"
    first = process("--listen", listen)
    assert first.stderr is not None
    assert "listening" in first.stderr.readline()
    before = os.stat(tmp_path / "c.sock")
    second = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "controller", "--listen", listen],
        capture_output=True,
        timeout=60,
    )
    assert second.returncode == 2
    assert b"another controller listens there" in second.stderr
    assert os.stat(tmp_path / "c.sock").st_ino == before.st_ino
    talk = await Talk.to(parse(listen))
    talk.say(StatusRequest())
    await talk.until(lambda message: isinstance(message, Status))
    first.kill()
    first.wait()
    third = process("--listen", listen)  # what a dead one left is no hindrance
    assert third.stderr is not None
    assert "listening" in third.stderr.readline()
    third.terminate()
    third.wait()
    assert not (tmp_path / "c.sock").exists()


async def test_only_its_own_file_is_removed(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    async with serving(f"unix:{path}"):
        path.unlink()
        async with serving(f"unix:{path}") as second:
            inode = path.stat().st_ino
            async with serving(f"unix:{tmp_path}/other.sock"):
                pass
            assert not (tmp_path / "other.sock").exists()
            talk = await Talk.to(second.address)
            talk.say(Hello("a", 1, 8))
            await talk.grant(1)
            assert path.stat().st_ino == inode
    assert not path.exists()


async def test_the_first_one_that_ends_leaves_the_others_file(tmp_path: Path) -> None:
    path = tmp_path / "c.sock"
    first = ControllerServer(Cores())
    await first.start(parse(f"unix:{path}"))
    path.unlink()
    async with serving(f"unix:{path}"):
        await first.close()
        assert path.exists()


def test_of_many_that_start_at_once_one_listens(tmp_path: Path) -> None:
    path = str(tmp_path / "c.sock")
    for _ in range(20):
        stale = socket.socket(socket.AF_UNIX)
        stale.bind(path)
        stale.close()
        ready = threading.Barrier(6)
        made: list[tuple[socket.socket, tuple[int, int]]] = []
        refused: list[str] = []

        def begin(
            ready: threading.Barrier = ready,
            made: list[tuple[socket.socket, tuple[int, int]]] = made,
            refused: list[str] = refused,
        ) -> None:
            ready.wait()
            try:
                made.append(listen_unix(path, 0o600, 8))
            except OSError as error:
                refused.append(str(error))

        threads = [threading.Thread(target=begin) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(made) == 1
        assert all("another controller" in why for why in refused)
        (sock, which) = made[0]
        remove_own(path, which)
        sock.close()
        assert not os.path.exists(path)


@pytest.mark.parametrize("kind", ["file", "link"])
def test_what_is_no_socket_stays(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "c.sock"
    if kind == "file":
        path.write_text("precious")
    else:
        path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(OSError, match="is no socket"):
        listen_unix(str(path), 0o600, 8)
    assert path.is_symlink() or path.read_text() == "precious"


# Places


@pytest.mark.parametrize("tls", [False, True])
async def test_strangers_leave_room_for_balancers_and_descriptors(
    process: Callable[..., subprocess.Popen[str]], tmp_path: Path, tls: bool
) -> None:
    """Silent connections, or TLS handshakes that never go on; 64 descriptors."""
    (tmp_path / "token").write_text("secret")
    arguments = ["--listen", "tcp:127.0.0.1:0", "--token-file", f"{tmp_path}/token"]
    context = None
    if tls:
        ca = trustme.CA()
        ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "c.pem"))
        arguments += ["--tls-cert", f"{tmp_path}/c.pem", "--tls-key", f"{tmp_path}/c.pem"]
        context = client_tls(str(tmp_path / "ca.pem"))
    controller = process(*arguments, files=64)
    assert controller.stderr is not None
    said = controller.stderr.readline()
    assert "listening on tcp:" in said
    address = parse(said.split("listening on ")[1].split(",")[0])
    strangers = [await Talk.to(address) for _ in range(150)]
    balancers = [await Talk.to(address, context) for _ in range(3)]
    for balancer in balancers:
        balancer.say(Hello("a", 1, 8, 1.0, "secret"))
    for balancer in balancers:
        await balancer.until(lambda message: isinstance(message, Grant))
    await strangers[0].closed()  # the oldest one went, and no balancer did
    strangers += [await Talk.to(address) for _ in range(150)]
    for balancer in balancers:
        balancer.say(StatusRequest())
        await balancer.until(lambda message: isinstance(message, Status))
    for talk in (*strangers, *balancers):
        talk.writer.transport.abort()


def test_the_oldest_stranger_goes_and_no_balancer() -> None:
    places: Places[str] = Places(trusted=2, strangers=2)
    assert [places.come(name) for name in ("a", "b", "c")] == [None, None, "a"]
    assert places.trust("b") == (True, None)
    places.greet("b")
    assert places.come("d") is None
    assert places.trust("c") == (True, None)
    assert places.trust("d") == (True, "c")  # it never said hello
    places.greet("d")
    assert places.come("e") is None
    assert places.trust("e") == (False, None)
    assert places.all() == ["e", "b", "d"]
    places.leave("b")
    assert places.trust("e") == (True, None)


@pytest.mark.parametrize("limit", [8, 16, 64, 256, 1024, 4096, 1 << 20])
def test_places_fit_into_the_descriptors(limit: int) -> None:
    trusted, strangers = within(limit, 6)
    assert 1 <= trusted <= MAX_TRUSTED
    assert 1 <= strangers <= MAX_STRANGERS
    assert trusted + strangers + 6 <= limit
    assert limit < 2000 or (trusted, strangers) == (MAX_TRUSTED, MAX_STRANGERS)


async def test_all_balancers_may_connect_at_once(tmp_path: Path) -> None:
    async with serving(f"unix:{tmp_path}/c.sock"):
        with contextlib.ExitStack() as stack:
            for _ in range(300):  # while nobody accepts
                sock = stack.enter_context(socket.socket(socket.AF_UNIX))
                sock.setblocking(False)
                sock.connect(f"{tmp_path}/c.sock")


async def test_a_full_queue_is_an_error_and_no_connection(tmp_path: Path) -> None:
    path = f"{tmp_path}/full.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(0)
        talks = [await Talk.to(parse(f"unix:{path}"))]
        with pytest.raises(OSError, match="wait to be accepted"):
            for _ in range(10):
                talks.append(await Talk.to(parse(f"unix:{path}")))
        for talk in talks:
            talk.writer.transport.abort()


# What one peer costs


async def test_many_reports_are_one_sharing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.server.TICK", 1000)
    monkeypatch.setattr("controller.peer.MOST_READ", 1 << 30)
    source = Cores()
    async with serving(f"unix:{tmp_path}/c.sock", source) as server:
        talk = await Talk.to(server.address)
        talk.say(Hello("a", 1, 8), *[Report(1, 0.0, 1.0)] * 2000, Report(1, 0.0, 5.0))
        await talk.grant(5)
    assert source.asked < 200


async def test_a_flood_of_reports_waits_in_the_kernel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("controller.server.TICK", 1000)
    async with serving(f"unix:{tmp_path}/c.sock") as server:
        flood = await Talk.to(server.address)
        flood.say(Hello("flood", 1, 8))
        await flood.grant(1)
        flood.say(*[Report(1)] * 10_000)
        read = 0
        while read < MOST_READ:
            await asyncio.sleep(0)
            (peer,) = server.places.all()
            read = peer._read
        other = await Talk.to(server.address)
        other.say(Hello("other", 1, 8))
        await other.grant(1)
        assert peer._read <= MOST_READ + READ
        peer.check(0)  # the next tick
        assert peer._read == 0
        while not peer._read:
            await asyncio.sleep(0)


async def test_answers_that_nobody_reads_are_bounded(tmp_path: Path) -> None:
    async with serving(f"unix:{tmp_path}/c.sock") as server:
        names = [await Talk.to(server.address) for _ in range(30)]
        for number, talk in enumerate(names):
            talk.say(Hello(f"{number} {'x' * 100}", 1, 8))
            await talk.until(lambda message: isinstance(message, Grant))
        curious = await Talk.to(server.address)
        curious.writer.transport.pause_reading()  # type: ignore[attr-defined]
        curious.say(*[StatusRequest()] * 2000)
        junk = await Talk.to(server.address)
        junk.writer.transport.pause_reading()  # type: ignore[attr-defined]
        junk.writer.write(b"x\n" * 5_000)
        last = await Talk.to(server.address)
        last.say(Hello("last", 1, 8))
        await last.grant(1)
        unsent = [peer._transport.get_write_buffer_size() for peer in server.places.all() if peer._transport]
        assert sum(unsent) < 500_000
        for talk in (*names, curious, junk, last):
            talk.writer.transport.abort()


async def test_a_source_that_fails_ends_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = Cores()
    async with serving(f"unix:{tmp_path}/c.sock", source) as server:
        source.broken = True
        talk = await Talk.to(server.address)
        talk.say(Hello("a", 1, 8), Report(1, 0.0, 3.0))
        async with asyncio.timeout(50):
            while "upside down" not in caplog.text:
                await asyncio.sleep(0.01)
        source.broken = False
        await talk.grant(3)
    assert caplog.text.count("upside down") == 1


async def test_two_of_one_name_are_two(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(f"unix:{tmp_path}/c.sock") as server:
        talks = [await Talk.to(server.address) for _ in range(3)]
        for talk in talks:
            talk.say(Hello("pylb", 1, 8), Report(1, 0.0, 8.0))
        for talk in talks:
            await talk.until(lambda message: isinstance(message, Grant) and message.cores in (2, 3))
        talks[0].say(StatusRequest())
        status = await talks[0].until(lambda message: isinstance(message, Status))
        assert isinstance(status, Status)
        assert [lease["name"] for lease in status.leases] == ["pylb"] * 3
        assert status.leases[0]["peer"] == f"process {os.getpid()}, user {os.getuid()}"
    assert caplog.text.count("calls itself 'pylb'") == 1


async def test_a_quiet_unix_peer_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a machine's port is in which nobody talks yet: connecting anew would change nothing."""
    for name in ("peer.HELLO_SECONDS", "peer.IDLE_SECONDS", "server.TICK"):
        monkeypatch.setattr(f"controller.{name}", 0.01)
    async with serving(f"unix:{tmp_path}/c.sock") as server:
        talk = await Talk.to(server.address)
        checks = 0
        (peer,) = await _peers(server)
        check = peer.check

        def counting(now: float) -> None:
            nonlocal checks
            checks += 1
            check(now)

        monkeypatch.setattr(peer, "check", counting)
        async with asyncio.timeout(50):
            while checks < 10:
                await asyncio.sleep(0.01)
        talk.say(Hello("late", 1, 8))
        await talk.grant(1)


async def _peers(server: ControllerServer) -> list[Any]:
    async with asyncio.timeout(50):
        while not server.places.all():
            await asyncio.sleep(0.01)
    return list(server.places.all())


async def test_an_error_names_what_was_wrong(tmp_path: Path) -> None:
    async with serving(f"unix:{tmp_path}/c.sock") as server:
        talk = await Talk.to(server.address)
        talk.writer.write(b"junk\n")
        error = await talk.until(lambda message: isinstance(message, Error))
        assert isinstance(error, Error)
        assert error.code == "json"
