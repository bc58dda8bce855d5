"""A serial port as a stream: a virtual machine's virtio-serial port, or any terminal device.

Read and written with ``add_reader`` and ``add_writer``, which asyncio and uvloop both have for such devices.
Sources: drivers/char/virtio_console.c of the kernel (opening doesn't wait, a second opener gets EBUSY;
without a host poll says IN and HUP for ever, read gives 0 bytes and write EAGAIN; unplugged, ENODEV);
man 3 termios.
"""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import tty
from pathlib import Path
from typing import Any

_READ = 65536
_PORTS = Path("/sys/class/virtio-ports")
_BY_NAME = "/dev/virtio-ports/"


def device(path: str, ports: Path = _PORTS) -> str:
    """The device of ``/dev/virtio-ports/NAME``, or of NAME alone, also where no udev makes these links."""
    name = path.removeprefix(_BY_NAME)
    if "/" not in name and not (name != path and os.path.exists(path)):
        for file in sorted(ports.glob("*/name")):
            if file.read_text().strip() == name:
                return f"/dev/{file.parent.name}"
    return path


async def open_serial(path: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Open a port; whether anything is at its other end is not known then.

    Raises:
        OSError: it can't be opened, or somebody else has it (EBUSY).
    """
    loop = asyncio.get_running_loop()
    fd = os.open(device(path), os.O_RDWR | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if not stat.S_ISCHR(os.fstat(fd).st_mode):
            raise OSError(errno.ENOTTY, "it is no serial port")
        if os.isatty(fd):
            tty.setraw(fd)  # no echo, no line ends of its own
        reader = asyncio.StreamReader(loop=loop)
        protocol = asyncio.StreamReaderProtocol(reader, loop=loop)
        transport = SerialTransport(loop, fd, protocol)
    except OSError:
        os.close(fd)
        raise
    return reader, asyncio.StreamWriter(transport, protocol, reader, loop)


class SerialTransport(asyncio.Transport):
    """Bytes to and from a device, until its other end or the device itself goes."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fd: int, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self._loop = loop
        self._fd = fd
        self._protocol = protocol
        self._unsent = b""
        self._closing = False
        loop.add_reader(fd, self._readable)
        protocol.connection_made(self)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return self._closing

    def get_write_buffer_size(self) -> int:
        return len(self._unsent)

    def can_write_eof(self) -> bool:
        return False

    def pause_reading(self) -> None:
        if not self._closing:
            self._loop.remove_reader(self._fd)

    def resume_reading(self) -> None:
        if not self._closing:
            self._loop.add_reader(self._fd, self._readable)

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if self._closing:
            return
        waits = bool(self._unsent)
        self._unsent += data
        if not waits:
            self._writable()
            if self._unsent and not self._closing:
                self._loop.add_writer(self._fd, self._writable)

    def close(self) -> None:
        """As `abort`: what a port doesn't take now, it may never take."""
        self._end(None)

    def abort(self) -> None:
        self._end(None)

    def _readable(self) -> None:
        try:
            data = os.read(self._fd, _READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(error)
            return
        if data:
            self._protocol.data_received(data)
        else:
            self._protocol.eof_received()
            self._end(None)

    def _writable(self) -> None:
        try:
            taken = os.write(self._fd, self._unsent)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(error)
            return
        self._unsent = self._unsent[taken:]
        if not self._unsent:
            self._loop.remove_writer(self._fd)

    def _end(self, error: OSError | None) -> None:
        if self._closing:
            return
        self._closing = True
        self._loop.remove_reader(self._fd)
        self._loop.remove_writer(self._fd)
        os.close(self._fd)
        self._loop.call_soon(self._protocol.connection_lost, error)
