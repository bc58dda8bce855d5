"""A balancer at a serial port: a pty stands for a virtual machine's port, its master for the host's end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import pty
import tty
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import uvloop

from controller.address import parse
from controller.client import ControllerClient
from controller.protocol import Hello, Report, encode
from controller.serial import device, open_serial
from controller.server import ControllerServer
from tests.controller.four_cores import FourCores, serving, until

LOOPS = pytest.mark.parametrize(
    "loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"]
)
Loop = Callable[[], asyncio.AbstractEventLoop]


class Port:
    """A port at ``path``. `plug` connects its other end to the controller, as QEMU's chardev does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.opened = 0
        self.master = -1

    def make(self) -> None:
        """Make a pty; the one before goes."""
        self.unplug()
        self.master, slave = pty.openpty()
        tty.setraw(slave)
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(os.ttyname(slave))
        os.close(slave)
        os.set_blocking(self.master, False)

    def unplug(self) -> None:
        if self.master >= 0:
            os.close(self.master)
            self.master = -1

    async def plug(self, controller: Path) -> None:
        """Pass bytes on for ever."""
        loop = asyncio.get_running_loop()
        reader, writer = await asyncio.open_unix_connection(str(controller))
        master = os.dup(self.master)

        def up() -> None:
            with contextlib.suppress(OSError):  # EIO: nobody has it open
                writer.write(os.read(master, 65536))

        loop.add_reader(master, up)
        try:
            while data := await reader.read(65536):
                os.write(master, data)
        finally:
            loop.remove_reader(master)
            os.close(master)
            writer.transport.abort()


@contextlib.asynccontextmanager
async def running(coroutine: object) -> AsyncIterator[None]:
    task = asyncio.ensure_future(coroutine)  # type: ignore[call-overload]
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def reporting(client: ControllerClient) -> None:
    while True:
        client.report(Report(1, 0.0, 3.0))
        await asyncio.sleep(0.02)


def granted(client: ControllerClient) -> int:
    grant = client.current(asyncio.get_running_loop().time())
    return grant.cores if grant is not None and client.connected else 0


@LOOPS
def test_a_balancer_is_granted_cores_through_a_port(loop: Loop, tmp_path: Path) -> None:
    async def play() -> None:
        port = Port(tmp_path / "port")
        port.make()
        client = ControllerClient(parse(f"serial:{port.path}"), Hello("a", 1, 4))
        async with (
            serving(tmp_path / "c.sock"),
            running(client.run()),
            running(reporting(client)),
            running(port.plug(tmp_path / "c.sock")),
        ):
            await until(lambda: granted(client) == 3)
        port.unplug()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(play())


@LOOPS
def test_a_port_that_goes_is_opened_again_when_it_comes(loop: Loop, tmp_path: Path) -> None:
    async def play() -> None:
        port = Port(tmp_path / "port")
        client = ControllerClient(parse(f"serial:{port.path}"), Hello("a", 1, 4))
        async with serving(tmp_path / "c.sock"), running(client.run()), running(reporting(client)):
            await until(lambda: client.problem == os.strerror(errno.ENOENT))
            for _ in range(2):
                port.make()
                async with running(port.plug(tmp_path / "c.sock")):
                    await until(lambda: granted(client) == 3)
                port.unplug()
                await until(lambda: not client.connected and client.problem)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(play())


@LOOPS
def test_half_a_line_that_another_left_in_the_port(loop: Loop, tmp_path: Path) -> None:
    async def play() -> None:
        port = Port(tmp_path / "port")
        port.make()
        async with serving(tmp_path / "c.sock"), running(port.plug(tmp_path / "c.sock")):
            _, writer = await open_serial(str(port.path))
            writer.write(encode(Hello("a", 1, 4, session="before")) + b'{"v":1,"type":"rep')
            writer.transport.abort()
            client = ControllerClient(parse(f"serial:{port.path}"), Hello("a", 1, 4))
            async with running(client.run()), running(reporting(client)):
                await until(lambda: granted(client) == 3)
        port.unplug()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(play())


@LOOPS
def test_what_nobody_takes_is_kept_and_bounded(loop: Loop, tmp_path: Path) -> None:
    async def play() -> None:
        port = Port(tmp_path / "port")
        port.make()
        client = ControllerClient(parse(f"serial:{port.path}"), Hello("a", 1, 4))
        async with running(client.run()):
            await until(lambda: client._writer is not None)
            first = client._writer
            assert first is not None
            for _ in range(5000):
                client.report(Report(1))
            assert first.transport.is_closing()
            await until(lambda: client._writer not in (None, first))  # opened anew
        port.unplug()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(play())


@LOOPS
def test_bytes_pass_whole_both_ways(loop: Loop, tmp_path: Path) -> None:
    async def play() -> None:
        port = Port(tmp_path / "port")
        port.make()
        reader, writer = await open_serial(str(port.path))
        sent = bytes(range(256)) * 2000  # no line end is changed, nothing is echoed
        writer.write(sent)
        got = b""
        async with asyncio.timeout(50):
            while len(got) < len(sent):
                with contextlib.suppress(BlockingIOError):
                    got += os.read(port.master, 65536)
                await asyncio.sleep(0)
            assert got == sent
            assert writer.transport.get_write_buffer_size() == 0
            os.write(port.master, b"\x03\x04\r\n")
            assert await reader.readexactly(4) == b"\x03\x04\r\n"
        port.unplug()
        with contextlib.suppress(OSError):
            assert await reader.read(1) == b""
        await until(writer.transport.is_closing)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(play())


async def test_why_a_port_is_no_use_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="no serial port"):
        await open_serial(str(tmp_path / "file"))
    open_files = len(os.listdir("/proc/self/fd"))

    def busy(path: str, flags: int) -> int:
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))

    monkeypatch.setattr("controller.serial.os.open", busy)
    client = ControllerClient(parse("serial:/dev/vport0p1"), Hello("a", 1, 4))
    async with running(client.run()):
        await until(lambda: client.problem == os.strerror(errno.EBUSY))
    assert len(os.listdir("/proc/self/fd")) == open_files


def test_ports_are_found_by_name_without_udev(tmp_path: Path) -> None:
    for number, name in ((1, "org.qemu.guest_agent.0"), (2, "pylb")):
        (tmp_path / f"vport0p{number}").mkdir()
        (tmp_path / f"vport0p{number}" / "name").write_text(f"{name}\n")
    assert device("/dev/virtio-ports/pylb", tmp_path) == "/dev/vport0p2"
    assert device("pylb", tmp_path) == "/dev/vport0p2"
    assert device("/dev/virtio-ports/other", tmp_path) == "/dev/virtio-ports/other"
    assert device("/dev/null", tmp_path) == "/dev/null"


async def test_the_address_is_the_balancers(tmp_path: Path) -> None:
    assert str(parse("serial:/dev/virtio-ports/pylb")) == "serial:/dev/virtio-ports/pylb"
    with pytest.raises(ValueError, match="serial:PATH"):
        parse("serial:")
    with pytest.raises(OSError, match="balancer's end"):
        await ControllerServer(FourCores()).start(parse("serial:/dev/vport0p1"))
