"""Standard error that nobody has to wait for: what it has no room for is dropped and counted.

A log shipper that is stuck, or a terminal where Ctrl-S was pressed, must not stop whoever logs. Both programs
use this, pylb and the controller; it lies here because `controller` imports nothing of `pylb`.

Setting O_NONBLOCK on descriptor 2 would set it for everybody who shares the open file description: the shell,
and the other end's programs (man 2 fcntl). So a pipe or a terminal is opened anew, and descriptor 2 becomes
that: what C code writes to it doesn't wait, either. Sockets can be told with each message. A regular file has
room, or no more room (ENOSPC, EFBIG), but never makes its writer wait for a reader.

No threads, since pylb's supervisor forks.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
import os
import re
import select
import signal
import socket
import stat
import struct
import sys
from collections.abc import Callable, Iterator

PIECE = select.PIPE_BUF
"""Bytes that a pipe takes whole or not at all, so that lines of different processes don't mix."""

_TIOCGDEV = 0x80045432  # the number of the terminal behind /dev/tty (linux/tty.h)

# Control characters, and what makes a terminal or viewer show text elsewhere than where it stands.
_UNCLEAN = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """The text on one line: a stranger's bytes in it can neither begin a line nor steer a terminal."""
    return _UNCLEAN.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


def indented(text: str) -> str:
    """Several lines (a traceback), each of them clean and none of them like a line of the log."""
    return "".join(f"\n    {clean(line)}" for line in text.split("\n"))


def pieces(data: bytes) -> Iterator[bytes]:
    """Cut into pieces of at most `PIECE` bytes: at line ends, and within a line only where that is longer."""
    start = 0
    while start < len(data):
        end = len(data)
        if end - start > PIECE:
            end = data.rfind(b"\n", start, start + PIECE) + 1 or start + PIECE
        yield data[start:end]
        start = end


class Stderr:
    """Writes to a descriptor without ever waiting.

    Raises:
        OSError: the descriptor is not open.
    """

    def __init__(self, fd: int = 2) -> None:
        self.fd = fd
        self.lost = 0
        """Lines that this process had to drop."""
        self.told = 0
        """How many dropped lines, of all processes that it speaks for, `tell` has told of."""
        self.on_lost: Callable[[int], None] = lambda count: None
        """Called with the number of lines that were just dropped; must not log."""
        self._rest = b""  # of a line that was taken in part
        self._is_terminal = os.isatty(fd)
        self._own_pipe: tuple[int, int] | None = None
        mode = os.fstat(fd).st_mode
        self._put: Callable[[bytes], int] = self._write
        if stat.S_ISSOCK(mode):
            self._socket = socket.socket(fileno=os.dup(fd))
            self._put = self._send
        elif (stat.S_ISFIFO(mode) or self._is_terminal) and not self._reopened():
            self._put = self._write_small if self._is_terminal else self._splice
            if not self._is_terminal:
                self._own_pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def _reopened(self) -> bool:
        """Give the descriptor an open file description of its own that doesn't block.

        Not possible where the terminal or pipe belongs to another user (after ``su``), and with a FIFO that
        nobody reads just now. /dev/tty is everybody's.
        """
        wanted = os.fstat(self.fd).st_rdev
        for path in (f"/proc/self/fd/{self.fd}", "/dev/tty" if self._is_terminal else ""):
            try:
                new = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                if not self._is_terminal or _terminal(new) == wanted:
                    os.dup2(new, self.fd, inheritable=True)
                    return True
            finally:
                os.close(new)
        return False

    # -- ways to put a piece without waiting; each may take a part, or raise OSError -----------------

    def _write(self, piece: bytes) -> int:
        if not self._is_terminal:
            return os.write(self.fd, piece)
        # With `stty tostop` a write from the background would raise SIGTTOU again and again.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTTOU,))
        try:
            return os.write(self.fd, piece)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _send(self, piece: bytes) -> int:
        return self._socket.send(piece, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)

    def _splice(self, piece: bytes) -> int:
        # Asking whether there is room and then writing would wait for ever where another process was faster.
        if self._own_pipe is None:
            raise BlockingIOError
        source, into = self._own_pipe
        os.write(into, piece)
        taken = 0
        try:
            taken = os.splice(source, self.fd, len(piece), flags=os.SPLICE_F_NONBLOCK)
        finally:
            if taken < len(piece):
                os.read(source, len(piece))
        return taken

    def _write_small(self, piece: bytes) -> int:
        taken = 0
        poll = select.poll()
        poll.register(self.fd, select.POLLOUT)
        while taken < len(piece) and any(event & select.POLLOUT for _, event in poll.poll(0)):
            taken += self._write(piece[taken : taken + 64])
        if not taken:
            raise BlockingIOError
        return taken

    # -- lines ---------------------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        """Write lines; those that there is no room for are dropped and counted."""
        line_begun = False
        done = 0
        for piece in pieces(data):
            if not (self.finish() and self._taken(piece)):
                if line_begun:  # a line that is longer than a piece: its end is not left out
                    end = data.find(b"\n", done) + 1 or len(data)
                    self._rest += data[done:end]
                    done = end
                break
            done += len(piece)
            line_begun = not piece.endswith(b"\n")
        if done < len(data):
            count = max(1, data.count(b"\n", done))
            self.lost += count
            self.on_lost(count)

    def _taken(self, piece: bytes) -> bool:
        try:
            taken = self._put(piece)
        except OSError:  # no room, no reader, no disk left: none of it is a reason to stop
            return False
        self._rest = piece[taken:]
        return True

    def finish(self) -> bool:
        """Write what is left of a line that was taken in part; whether nothing of it is left."""
        while self._rest:
            rest, self._rest = self._rest[PIECE:], self._rest[:PIECE]
            before = len(self._rest)
            if not self._taken(self._rest) or len(self._rest) == before:
                self._rest += rest
                return False
            self._rest += rest
        return True

    def tell(self, lost: int, line: Callable[[str], bytes]) -> None:
        """Say how many lines are missing, as soon as there is room for that.

        Args:
            lost: how many were dropped so far, by all processes that this one speaks for.
            line: makes a line of the log of a text.
        """
        count = lost - self.told
        if count <= 0 or not self.finish():
            return
        said = "1 line was" if count == 1 else f"{count} lines were"
        if self._taken(line(f"{said} dropped, as nobody read this log")):
            self.told = lost

    def forked(self) -> None:
        """In a child: what the parent has to finish, and what it counted, is the parent's."""
        self.lost = self.told = 0
        self.on_lost = lambda count: None
        self._rest = b""
        own, self._own_pipe = self._own_pipe, None
        if own is not None:
            for end in own:
                os.close(end)
            self._own_pipe = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)


def _terminal(fd: int) -> int:
    """The device number of a terminal, also where it was opened by the name /dev/tty."""
    number = struct.unpack("I", fcntl.ioctl(fd, _TIOCGDEV, bytes(4)))[0]
    return os.makedev(number >> 8 & 0xFFF, number & 0xFF | number >> 12 & 0xFFF00)


class _Raw(io.RawIOBase):
    """`Stderr` as Python's stack of streams wants it: it takes everything."""

    def __init__(self, sink: Stderr) -> None:
        self._sink = sink

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._sink.fd

    def isatty(self) -> bool:
        return os.isatty(self._sink.fd)

    def write(self, data: object) -> int:
        given = bytes(data)  # type: ignore[call-overload]
        self._sink.write(given)
        return len(given)


class Handler(logging.Handler):
    """Writes each record to a `Stderr`."""

    def __init__(self, sink: Stderr) -> None:
        super().__init__()
        self._sink = sink

    def line(self, record: logging.LogRecord) -> bytes:
        """The record as it is written."""
        return self.format(record).encode(errors="backslashreplace") + b"\n"

    def warning(self, text: str) -> bytes:
        """A warning of pylb's own as it would be written."""
        return self.line(logging.LogRecord("pylb", logging.WARNING, __file__, 0, text, None, None))

    def emit(self, record: logging.LogRecord) -> None:
        try:
            line = self.line(record)
        except Exception as error:  # arguments that don't fit the text, which costs this line only
            text = clean(f"a line can't be written: {error!r}: {record.msg!r}")
            line = text.encode("ascii", "backslashreplace") + b"\n"
        self._sink.write(line)


class Formatter(logging.Formatter):
    """``TIME PROGRAM: text`` on one line, whatever is in the text, and the traceback below it."""

    def __init__(self, program: str) -> None:
        super().__init__()
        self._program = program

    def format(self, record: logging.LogRecord) -> str:
        text = f"{self.formatTime(record)} {self._program}: {clean(record.getMessage())}"
        return text + indented(self.formatException(record.exc_info)) if record.exc_info else text


_taken_over: Stderr | None = None


def take_over() -> Stderr:
    """Make everything that this process writes to standard error go this way; the same object every time."""
    global _taken_over
    if _taken_over is None:
        fill()
        _taken_over = Stderr()
        with contextlib.suppress(Exception):
            sys.stderr.flush()
        sys.stderr = io.TextIOWrapper(
            io.BufferedWriter(_Raw(_taken_over)), "utf-8", "backslashreplace", line_buffering=True
        )
    return _taken_over


def fill() -> None:
    """Open /dev/null for those of the descriptors 0, 1 and 2 that are closed.

    Else a socket gets the number, and what is written to standard error goes to a client.
    """
    with contextlib.suppress(OSError):  # no /dev/null, or no descriptor at all
        while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
            os.set_inheritable(fd, True)
        os.close(fd)
    for name, fd, mode in (("stdin", 0, "r"), ("stdout", 1, "w"), ("stderr", 2, "w")):
        if getattr(sys, name) is None:  # Python found it closed
            with contextlib.suppress(OSError):
                setattr(sys, name, open(fd, mode, closefd=False))  # noqa: SIM115  # as long as the process
