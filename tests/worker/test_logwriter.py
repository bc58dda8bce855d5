"""The access log's writer: whole lines whatever the target does, and nobody waits for it."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from controller.stderr import PIECE
from pylb.config.logtarget import Target, open_file
from pylb.worker import logwriter
from pylb.worker.logwriter import FileSink, LogWriter, Sink, SyslogSink, writer

FAR = 60.0


def _close(one: LogWriter) -> None:
    """Until everything is written."""
    one.close(time.monotonic() + FAR)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


def test_lines_are_appended_in_order(file: Path) -> None:
    file.write_text("before\n")
    one = writer(Target("x", path=str(file)), open_file(str(file)))
    for number in range(10):
        one.lines.append(f"{number}\n")
        one.push()
    one.push()
    _close(one)
    assert file.read_text() == "before\n" + "".join(f"{number}\n" for number in range(10))
    assert one.lost == 0
    assert file.stat().st_mode & 0o777 == 0o644  # it was there


def test_a_new_file_is_not_everybodys(file: Path) -> None:
    os.close(open_file(str(file)))
    assert file.stat().st_mode & 0o007 == 0


def test_a_file_that_was_renamed_and_one_that_was_truncated(file: Path) -> None:
    one = writer(Target("x", path=str(file)), open_file(str(file)))
    sink = one._sink
    sink.write(b"first\n")
    old = file.rename(file.with_suffix(".1"))
    sink.write(b"still the old one\n")
    fresh = open_file(str(file))
    one.reopened(fresh)
    os.close(fresh)
    sink.write(b"the new one\n")
    assert old.read_text() == "first\nstill the old one\n"
    assert file.read_text() == "the new one\n"
    os.truncate(file, 0)
    sink.write(b"after copytruncate\n")
    assert file.read_bytes() == b"after copytruncate\n"  # and no hole
    _close(one)


class _Disk:
    """`os.write` to a disk with so much room."""

    def __init__(self, patch: pytest.MonkeyPatch, room: int) -> None:
        self.room = room
        self._write = os.write
        patch.setattr(os, "write", self.write)

    def write(self, fd: int, data: bytes) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken = self._write(fd, data[: self.room])
        self.room -= taken
        return taken


def test_a_full_disk_costs_lines_and_cuts_one(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sink = FileSink(open_file(str(file)))
    disk = _Disk(monkeypatch, 7)
    sink.write(b"1111\n2222\n3333\n")
    assert (sink.lost, sink.why) == (2, "No space left on device")
    sink.write(b"4444\n")
    assert sink.lost == 3
    disk.room = 100
    sink.write(b"5555\n6666\n")
    assert file.read_bytes() == b"1111\n22\n5555\n6666\n"
    assert sink.lost == 3


def test_what_was_cut_is_not_continued_behind_anothers_line(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sink = FileSink(open_file(str(file)))
    disk = _Disk(monkeypatch, 2)
    real = disk.write

    def write(fd: int, data: bytes) -> int:
        taken = real(fd, data)
        disk.room = 100  # somebody has made room, and another process has written
        return taken

    monkeypatch.setattr(os, "write", write)
    sink.write(b'a "forged\n3333\n')
    assert file.read_bytes() == b"a \n3333\n"
    assert sink.lost == 1


@contextlib.contextmanager
def _full_pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    flags = fcntl.fcntl(write, fcntl.F_GETFL)
    fcntl.fcntl(write, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    for size in (4096, 1):
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(write, b"." * size)
    fcntl.fcntl(write, fcntl.F_SETFL, flags)
    try:
        yield read, write
    finally:
        os.close(read)
        os.close(write)


def test_a_pipe_that_nobody_reads_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logwriter, "MOST", 100)
    with _full_pipe() as (read, write):
        one = LogWriter("x", FileSink(os.dup(write)))
        for _ in range(5):
            one.lines.append("0123456789" * 5 + "\n")
            one.push()
        assert one.lost == 3  # those for which there was no room behind two
        assert one.why == "they are not taken in time"
        one.close(time.monotonic())  # at the end of the process nobody waits, either
        assert one.lost == 5
        os.set_blocking(read, False)
        with contextlib.suppress(BlockingIOError):
            while b"0" not in os.read(read, 65536):
                pass
        one._thread.join(FAR)
        assert not one._thread.is_alive()


def test_a_pipe_without_a_reader_costs_lines() -> None:
    read, write = os.pipe()
    os.close(read)
    sink = FileSink(write)
    sink.write(b"1\n2\n")
    assert (sink.lost, sink.why) == (2, "Broken pipe")
    os.close(write)


def test_to_a_pipe_lines_are_written_whole() -> None:
    """Two processes' pieces don't mix in one of at most `PIECE` bytes, and no piece begins within a line."""
    lines = [b"%d " % number + b"x" * (number * 37 % 900) + b"\n" for number in range(60)]
    pieces = list(logwriter._pieces(b"".join(lines)))
    assert b"".join(pieces) == b"".join(lines)
    assert all(len(piece) <= PIECE and piece.endswith(b"\n") for piece in pieces)
    long = b"y" * 3 * PIECE + b"\n"
    pieces = list(logwriter._pieces(lines[0] + long + lines[1]))
    assert pieces == [lines[0], b"y" * (PIECE - 4) + b"...\n", lines[1]]


@pytest.mark.parametrize("version", ["rfc5424", "rfc3164"])
@pytest.mark.parametrize("unix", [False, True])
def test_syslog_gets_a_datagram_for_each_line(tmp_path: Path, version: str, unix: bool) -> None:
    path = str(tmp_path / "log")
    server = socket.socket(socket.AF_UNIX if unix else socket.AF_INET, socket.SOCK_DGRAM)
    server.bind(path if unix else ("127.0.0.1", 0))
    server.settimeout(FAR)
    where = server.getsockname()
    target = Target("x", syslog=("", version, "local3", "lb"))
    one = writer(target, (server.family, where))
    one.lines += ["first\n", "second\n"]
    _close(one)
    messages = [server.recv(65536).decode() for _ in range(2)]
    host = "" if unix and version == "rfc3164" else socket.gethostname()
    for message, text in zip(messages, ("first", "second"), strict=True):
        assert message.startswith("<158>1 " if version == "rfc5424" else "<158>")
        assert message.endswith(f"lb {os.getpid()} - - {text}" if version == "rfc5424" else f"]: {text}")
        assert host in message
    server.close()


def test_syslog_that_was_started_anew_is_found(tmp_path: Path) -> None:
    path = tmp_path / "log"
    sink = SyslogSink(Target("x", syslog=("", "rfc5424", "user", "lb")), (socket.AF_UNIX, str(path)))
    sink.write(b"nobody is there\n")
    assert (sink.lost, sink.why) == (1, "No such file or directory")
    for text in (b"one", b"two"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
            server.bind(str(path))
            server.settimeout(FAR)
            sink.write(text + b"\n")
            assert server.recv(65536).endswith(text)
        path.unlink()
    assert sink.lost == 1


def test_an_error_of_pylbs_own_costs_a_batch() -> None:
    class Broken(Sink):
        def write(self, data: bytes) -> None:
            if data == b"bad\n":
                raise ZeroDivisionError
            written.append(data)

        def reopened(self, descriptor: int) -> None:
            """None."""

    written: list[bytes] = []
    one = LogWriter("x", Broken())
    for text in ("bad\n", "good\n"):
        one.lines.append(text)
        one.push()
    _close(one)
    assert written == [b"good\n"] and one.lost == 1 and "ZeroDivision" in one.why
