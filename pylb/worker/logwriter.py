"""Writing the access log: lines are collected in a list, and a thread writes what the worker's tick hands it.

Whatever a target does (a slow or full disk, a pipe that nobody reads, a syslog server that is gone), it
holds up this thread alone. What waits for it is bounded; lines beyond that, and those that could not be
written, are counted. At the end of the process the thread has a moment to write what is left.

Each process opens nothing: it has the supervisor's descriptors, and gets others when files are reopened.

Floor: the bottom of the worker. Knows neither requests nor the event loop.
"""

from __future__ import annotations

import errno
import os
import queue
import select
import signal
import socket
import stat
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator

from controller.stderr import PIECE
from pylb.accesslog.syslog import Header
from pylb.config.logtarget import Destination, Target

MOST = 8 * 1024 * 1024
"""Bytes that wait for the thread: those of some seconds. More are dropped."""
LAST = 1.0
"""Seconds for what is left when the process ends."""
_WAIT = 1000  # milliseconds for room in a descriptor that somebody else has set not to block
_DATAGRAM = 60_000  # bytes; UDP takes no more than 65,507


class Sink(ABC):
    """What the thread writes to."""

    def __init__(self) -> None:
        self.lost = 0
        """Lines that could not be written; the thread alone writes it."""
        self.why = ""
        """Why, of the last one."""

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Write whole lines, and wait as long as it takes; what can't be written is counted."""

    @abstractmethod
    def reopened(self, descriptor: int) -> None:
        """Write to this file from now on; the descriptor stays the caller's."""

    def _lose(self, lines: int, error: OSError) -> None:
        self.lost += lines
        self.why = error.strerror or str(error)


class FileSink(Sink):
    """A descriptor of anything: a regular file, a pipe, a terminal, a stream's socket."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._fd = descriptor
        self._regular = stat.S_ISREG(os.fstat(descriptor).st_mode)
        self._cut = b""  # ends a line that was cut, before the next one

    def reopened(self, descriptor: int) -> None:
        # Whoever writes just now does so to the old file; the next write is to the new one.
        os.dup2(descriptor, self._fd, inheritable=False)
        self._regular = stat.S_ISREG(os.fstat(self._fd).st_mode)

    def write(self, data: bytes) -> None:
        if self._regular:
            self._append(data)
            return
        for piece in _pieces(data):
            try:
                self._put(piece)
            except OSError as error:
                self._lose(piece.count(b"\n"), error)

    def _put(self, piece: bytes) -> None:
        while piece:
            try:
                piece = piece[os.write(self._fd, piece) :]
            except BlockingIOError:
                if not select.select([], [self._fd], [], _WAIT / 1000)[1]:
                    raise

    def _append(self, data: bytes) -> None:
        """To a file, with one system call: the kernel puts it behind what other processes write."""
        while data:
            try:
                taken = os.write(self._fd, self._cut + data) - len(self._cut)
            except OSError as error:
                self._lose(data.count(b"\n"), error)
                return
            self._cut = b""
            if taken == len(data):
                return
            if not taken or data[taken - 1 : taken] == b"\n":
                data = data[taken:]
            else:
                # The disk is full. The rest of the line that was cut is left out: another process may have
                # written behind it by now, and the rest would stand at the beginning of a line.
                self._lose(1, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))
                self._cut = b"\n"
                data = data[data.index(b"\n", taken) + 1 :]


def _pieces(data: bytes) -> Iterator[bytes]:
    """Whole lines in pieces that a pipe takes as a whole or not at all (man 7 pipe), as processes share it.

    A line that is longer is cut: its rest could come behind another process's line end, as a line of its own.
    """
    start = 0
    while start < len(data):
        end = start + PIECE
        last = len(data) if end >= len(data) else data.rfind(b"\n", start, end) + 1
        if last:
            yield data[start:last]
        else:
            yield data[start : end - 4] + b"...\n"
            last = data.find(b"\n", end) + 1 or len(data)
        start = last


class SyslogSink(Sink):
    """A syslog server, to which each line is a datagram."""

    def __init__(self, target: Target, where: Destination) -> None:
        super().__init__()
        assert target.syslog is not None
        self._family, self._address = where
        _, version, facility, tag = target.syslog
        local = self._family == socket.AF_UNIX and version == "rfc3164"
        host = "" if local else socket.gethostname()
        self._header = Header(version, facility, tag, host, os.getpid())
        self._socket: socket.socket | None = None

    def write(self, data: bytes) -> None:
        header = self._header.at(time.time_ns())
        for line in data.splitlines():
            try:
                self._send((header + line)[:_DATAGRAM])
            except OSError as error:
                self._lose(1, error)
                self._close()

    def reopened(self, descriptor: int) -> None:
        """It has no file."""

    def _send(self, message: bytes) -> None:
        if self._socket is not None:
            try:
                self._socket.send(message)
                return
            except ConnectionError:
                self._close()  # it was started anew, or tells of an earlier message that nobody took
        self._socket = socket.socket(self._family, socket.SOCK_DGRAM)
        self._socket.connect(self._address)
        self._socket.send(message)

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class LogWriter:
    """Lines on their way to one target.

    A line is added with ``lines.append``, with its line end; the worker's tick calls `push`.
    """

    def __init__(self, name: str, sink: Sink) -> None:
        self.name = name
        self.lines: list[str] = []
        self._sink = sink
        self._queue: queue.SimpleQueue[tuple[str, int] | None] = queue.SimpleQueue()
        self._given_lines = self._given = self._dropped = 0  # the event loop's
        self._done_lines = self._done = 0  # the thread's
        self._why = ""
        self._thread = threading.Thread(target=self._run, name="access log", daemon=True)
        self._thread.start()

    def push(self) -> None:
        """Hand the lines over, or drop them where too much waits."""
        lines = self.lines
        if not lines:
            return
        count = len(lines)
        text = "".join(lines)
        lines.clear()
        if self._given - self._done > MOST:
            self._dropped += count
            self._why = "they are not taken in time"
            return
        self._given += len(text)
        self._given_lines += count
        self._queue.put((text, count))

    @property
    def lost(self) -> int:
        """Lines that were dropped, or could not be written."""
        return self._dropped + self._sink.lost

    @property
    def why(self) -> str:
        """Why, of the last one."""
        return self._sink.why or self._why

    def reopened(self, descriptor: int) -> None:
        """Write to this file from now on; the descriptor stays the caller's."""
        self._sink.reopened(descriptor)

    def close(self, until: float) -> None:
        """Write what is left until a moment of `time.monotonic`; what then remains counts as lost."""
        self.push()
        self._queue.put(None)
        self._thread.join(max(0.0, until - time.monotonic()))
        if self._thread.is_alive():
            self._dropped += self._given_lines - self._done_lines

    def _run(self) -> None:
        # Signals are the event loop's. With SIGTTOU blocked a terminal takes what comes from the background.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while (batch := self._queue.get()) is not None:
            text, count = batch
            try:
                self._sink.write(text.encode("utf-8", "backslashreplace"))
            except Exception as error:
                self._sink.lost += count
                self._sink.why = repr(error)
            self._done += len(text)
            self._done_lines += count


def writer(target: Target, opened: int | Destination) -> LogWriter:
    """A writer to what the supervisor has opened, or looked up, for a target."""
    return LogWriter(target.name, FileSink(opened) if isinstance(opened, int) else SyslogSink(target, opened))
