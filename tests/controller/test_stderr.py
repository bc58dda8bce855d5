"""Standard error that never makes its writer wait."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import pty
import select
import subprocess
import sys
import termios
import tty
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from controller.stderr import PIECE, Stderr, clean, pieces
from pylb.log import ConsoleFormatter, JsonFormatter

ROOT = Path(__file__).parents[2]


@given(st.lists(st.integers(0, 3 * PIECE), max_size=20))
def test_pieces_are_small_and_end_at_line_ends_where_that_is_possible(lengths: list[int]) -> None:
    data = b"".join(b"x" * length + b"\n" for length in lengths)
    found = list(pieces(data))
    assert b"".join(found) == data
    for piece in found:
        assert 0 < len(piece) <= PIECE
        assert piece.endswith(b"\n") or b"\n" not in piece


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    os.close(read)
    os.close(write)


def filled(write: int) -> None:
    """Without room, and blocking again."""
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, b"." * 4096)
    os.set_blocking(write, True)


def emptied(read: int) -> bytes:
    os.set_blocking(read, False)
    data = b""
    with contextlib.suppress(BlockingIOError):
        while piece := os.read(read, 65536):
            data += piece
    return data


def told(sink: Stderr) -> None:
    sink.tell(sink.lost, lambda text: text.encode() + b"\n")


@pytest.mark.parametrize("foreign", [False, True], ids=["ours", "of another user"])
def test_what_has_no_room_is_counted_and_told(
    pipe: tuple[int, int], foreign: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe that can't be opened anew, since another user made it, must not make us wait, either."""
    read, write = pipe
    if foreign:

        def refused(*arguments: object, **named: object) -> int:
            raise PermissionError

        monkeypatch.setattr(os, "open", refused)
    filled(write)
    copy = os.dup(write)
    sink = Stderr(copy)
    if not foreign:
        assert not fcntl.fcntl(write, fcntl.F_GETFL) & os.O_NONBLOCK  # others' description
    counted: list[int] = []
    sink.on_lost = counted.append
    sink.write(b"one\n")
    sink.write(b"two\nthree\n")
    sink.write(b"no line end")
    assert (sink.lost, counted) == (4, [1, 2, 1])
    told(sink)
    assert sink.told == 0
    emptied(read)
    told(sink)
    sink.write(b"five\n")
    told(sink)
    assert emptied(read) == b"4 lines were dropped, as nobody read this log\nfive\n"
    os.close(copy)


def test_a_long_line_is_finished_before_the_next(pipe: tuple[int, int]) -> None:
    read, write = pipe
    filled(write)
    copy = os.dup(write)
    sink = Stderr(copy)
    long = b"x" * (3 * PIECE) + b"\n"
    os.read(read, 2 * PIECE)  # room for two pieces of four
    sink.write(b"y\n" * (PIECE // 2) + long + b"lost\n")
    sink.write(b"lost, too\n")
    assert sink.lost == 2
    assert emptied(read).endswith(b"y\n" + b"x" * PIECE)
    assert sink.finish()
    sink.write(b"next\n")
    assert emptied(read) == b"x" * (2 * PIECE) + b"\nnext\n"
    os.close(copy)


def test_what_a_terminal_takes_in_part_is_finished_first() -> None:
    master, slave = pty.openpty()
    tty.setraw(slave)
    sink = Stderr(slave)
    line = b"x" * 1022 + b"\n"
    while not sink.lost:
        sink.write(line)
    seen = b""
    while select.select([master], [], [], 0)[0]:
        seen += os.read(master, 65536)
        sink.finish()
    sink.write(b"end\n")
    while not seen.endswith(b"end\n"):
        seen += os.read(master, 65536)
    assert seen.replace(line, b"") == b"end\n"
    for fd in (master, slave):
        os.close(fd)


def test_a_terminal_that_was_stopped() -> None:
    """Ctrl-S; and `stty tostop`, where writing from the background raises SIGTTOU."""
    script = """
import os, signal, sys
from controller.stderr import take_over
def never(number, frame): os._exit(7)
signal.signal(signal.SIGTTOU, never)
sink = take_over()
sink.write(b"from the background\\n")
os.write(1, b"%d" % sink.lost)
"""
    master, slave = pty.openpty()
    attributes = termios.tcgetattr(slave)
    attributes[3] |= termios.TOSTOP
    termios.tcsetattr(slave, termios.TCSANOW, attributes)

    def in_the_background() -> None:
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
        if (pid := os.fork()) != 0:  # the session's leader stays in the foreground
            os._exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        os.setpgid(0, 0)

    def run() -> str:
        done = subprocess.run(
            [sys.executable, "-c", script],
            stdin=slave, stdout=subprocess.PIPE, stderr=slave, preexec_fn=in_the_background,
            cwd=ROOT, timeout=30,
        )  # fmt: skip
        assert done.returncode == 0
        return done.stdout.decode()

    assert run() == "0"
    assert os.read(master, 1000) == b"from the background\r\n"
    os.write(master, b"\x13")  # Ctrl-S
    assert run() == "1"
    for fd in (master, slave):
        os.close(fd)


def test_lines_of_processes_stay_whole_and_each_is_there_or_counted(pipe: tuple[int, int]) -> None:
    script = """
import sys
from controller.stderr import take_over
sink = take_over()
for number in range(3000):
    sink.write(sys.argv[1].encode() * (1 + number * 37 % 4095) + b"\\n")
sys.stdout.write(str(sink.lost))
"""
    read, write = pipe
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", script, name], stderr=write, stdout=subprocess.PIPE, cwd=ROOT, text=True
        )
        for name in "abc"
    ]
    data = b""
    while any(writer.poll() is None for writer in writers) or select.select([read], [], [], 0)[0]:
        if select.select([read], [], [], 0.01)[0]:
            data += os.read(read, 65536)
    lost = {name: int(writer.communicate()[0]) for name, writer in zip("abc", writers, strict=True)}
    lines = data.decode().split("\n")[:-1]
    assert all(len(set(line)) == 1 for line in lines)
    for name in "abc":
        assert sum(line[0] == name for line in lines) + lost[name] == 3000


def test_whatever_python_writes_itself_does_not_wait_either(pipe: tuple[int, int]) -> None:
    script = """
import ctypes, faulthandler, os, sys, warnings
from pylb import log
log.setup()
print("x" * 10000, file=sys.stderr)
warnings.warn("w")
class Broken:
    def __del__(self): raise ValueError
Broken()
faulthandler.dump_traceback()
ctypes.CDLL(None).perror(b"C")
log.log.info("%d", "no number")
sys.stdout.write("so far")
raise SystemError("the end")
"""
    _, write = pipe
    filled(write)
    done = subprocess.run(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=write, cwd=ROOT, timeout=30
    )
    assert (done.returncode, done.stdout) == (1, b"so far")


def test_a_disk_that_is_full_and_a_file_that_may_not_grow(tmp_path: Path) -> None:
    script = """
import resource
from controller.stderr import take_over
sink = take_over()
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
sink.write(b"twelve byte\\n")
sink.write(b"more\\n")
resource.setrlimit(resource.RLIMIT_FSIZE, (10, 10))
print(sink.lost)
"""
    with (tmp_path / "log").open("wb") as log:
        done = subprocess.run(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=log, cwd=ROOT, timeout=30
        )
    assert (done.returncode, done.stdout) == (0, b"1\n")
    assert (tmp_path / "log").read_bytes() == b"twelve byt"


def record(text: str, error: Exception | None = None) -> logging.LogRecord:
    exc_info: Any = (type(error), error, error.__traceback__) if error is not None else None
    return logging.LogRecord("pylb", logging.INFO, "x", 0, "%s", (text,), exc_info)


@given(st.text())
def test_a_strangers_text_makes_no_second_line_and_steers_no_terminal(text: str) -> None:
    assert clean(text).isprintable() or all(c.isprintable() or not c.isascii() for c in clean(text))
    said = ConsoleFormatter().format(record(text))
    assert said.splitlines() == [said]
    assert not any(c < " " or "\x7f" <= c <= "\x9f" for c in said)


def test_a_traceback_cannot_look_like_a_line_of_the_log() -> None:
    try:
        raise ValueError("bad\n2026-01-01 00:00:00.000 INFO    [supervisor 1] all is well\x1b[2J")
    except ValueError as error:
        lines = ConsoleFormatter().format(record("failed", error)).split("\n")
    assert len(lines) > 3
    assert all(line.startswith("    ") for line in lines[1:])
    assert "\x1b" not in "".join(lines)


def test_a_long_traceback_is_one_json_line_that_a_pipe_takes_whole() -> None:
    def deep(depth: int) -> None:
        if depth == 0:
            raise ValueError("the reason")
        deeper(depth)

    def deeper(depth: int) -> None:
        deep(depth - 1)

    try:
        deep(200)
    except ValueError as error:
        line = JsonFormatter().format(record("failed", error))
    assert PIECE // 2 < len(line) < PIECE
    exception = json.loads(line)["exception"]
    assert exception.startswith("Traceback") and exception.endswith("ValueError: the reason")
    assert "lines left out" in exception
