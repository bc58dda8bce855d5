"""A HUP, whatever the file is by then: refused with its reason, and all goes on as before."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.rig.balancer import Balancer, free_port
from tests.e2e.conftest import StartBalancer
from tests.e2e.origin import Origin
from tests.e2e.test_running import ask, configure


def many_mistakes(file: Path) -> None:
    """Their text is some megabytes: more than a message between processes may be."""
    file.write_text("\n".join(f"unknown_{'x' * 500}_{number} = 1" for number in range(5000)))


def text(content: str) -> Callable[[Path], object]:
    return lambda file: file.write_text(content)


def of_bytes(content: bytes) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(content)


def added(more: str) -> Callable[[Path], object]:
    """The good file with more in front of it."""
    return lambda file: file.write_text(f"{more}\n{file.read_text()}")


def instead(make: Callable[[Path], object]) -> Callable[[Path], object]:
    """Something else in the file's place."""

    def replace(file: Path) -> None:
        file.unlink()
        make(file)

    return replace


# Neighbours say different things, as each is waited for.
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "a NUL byte in a unix path": (
        lambda file: file.write_text(file.read_text().replace("bind = [", 'bind = ["unix:/tmp/a\\u0000b", ')),
        "control character",
    ),
    "a test that fails": (
        lambda file: file.write_text(
            file.read_text() + '\n[[test]]\nurl = "http://a/"\nexpect.status = 404\n'
        ),
        "expected 404, got backend",
    ),
    "a pipe": (instead(os.mkfifo), "is no regular file"),
    "a NUL byte in a file's path": (added('admin_token_file = "/tmp/a\\u0000b"'), "control character"),
    "a folder": (instead(lambda file: file.mkdir()), "is a directory"),
    "an endless device": (instead(lambda file: file.symlink_to("/dev/zero")), "is no regular file"),
    "nothing": (instead(lambda file: None), "No such file"),
    "a link to itself": (instead(lambda file: file.symlink_to(file)), "symbolic links"),
    "bytes that are no UTF-8": (of_bytes(b"a = '\xff'"), "not valid TOML"),
    "UTF-16": (lambda file: file.write_text(file.read_text(), "utf-16"), "UTF-16"),
    "a byte order mark": (lambda file: file.write_text(file.read_text(), "utf-8-sig"), "BOM"),
    "a thousand brackets": (text("a = " + "[" * 100_000), "nested too deeply"),
    "a number of too many digits": (text("backlog = " + "9" * 5000), "not valid TOML"),
    "numbers out of all bounds": (added("backlog = 99999999999"), "backlog: input should be less"),
    "a thousand dots": (text("b" + ".a" * 100_000 + " = 1"), "nested too deeply"),
    "an endless time": (added("timeouts = {connect = inf}"), "timeouts.connect"),
    "16 MiB": (text("#" * (16 << 20)), "larger than"),
    "a token file that is a pipe": (added('admin_token_file = "{folder}/pipe"'), "is no regular file"),
    "an unknown user": (added('user = "no such user"'), "no user"),
    "many mistakes": (many_mistakes, " more, see the log"),
}


@pytest.fixture
def running(balancer: StartBalancer, origin: Origin, tmp_path: Path) -> tuple[Balancer, Path, int]:
    file, port = tmp_path / "pylb.toml", free_port()
    configure(file, origin, f"127.0.0.1:{port}", more="workers = {min = 1, max = 1}")
    return balancer("-c", str(file)), file, port


def test_every_bad_file_is_refused_and_nothing_else_happens(
    running: tuple[Balancer, Path, int], tmp_path: Path
) -> None:
    pylb, file, port = running
    os.mkfifo(tmp_path / "pipe")
    good = file.read_text()
    worker = pylb.workers()[0]["pid"]
    supervisor = psutil.Process(pylb.process.pid)
    for name, (spoil, says) in BAD.items():
        spoil(file)
        if file.is_file() and "{folder}" in (spoiled := file.read_bytes()[:500].decode(errors="replace")):
            file.write_text(good if "{folder}" not in spoiled else spoiled.replace("{folder}", str(tmp_path)))
        pylb.signal(signal.SIGHUP)

        def told(status: dict[str, Any], says: str = says) -> bool:
            return (status["reload"] or {}).get("ok") is False and says in "".join(status["reload"]["errors"])

        status = pylb.wait(name, told)
        errors = status["reload"]["errors"]
        assert len(errors) <= 20 and all(len(error) <= 300 for error in errors), name
        assert ask(socket.AF_INET, ("127.0.0.1", port)).startswith(b"HTTP/1.1 200 "), name
        if file.is_dir():
            file.rmdir()
        file.unlink(missing_ok=True)
        file.write_text(good)
    log = pylb.log.read_text()
    assert log.count("unknown key") >= 5000  # whole in the log
    assert "Traceback" not in log and "unexpectedly" not in log
    assert pylb.workers()[0]["pid"] == worker
    descriptors = supervisor.num_fds()
    pylb.signal(signal.SIGHUP)
    pylb.wait(
        "reloaded",
        lambda status: (status["reload"] or {}).get("ok") is True and status["generation"] == 2,
    )
    pylb.wait("alone", lambda status: len(status["workers"]) == 1)
    assert supervisor.num_fds() <= descriptors


def test_a_pipe_is_no_configuration_at_the_start_either(tmp_path: Path) -> None:
    from tests.test_cli import pylb

    pipe = tmp_path / "pylb.toml"
    os.mkfifo(pipe)
    for command in ("serve", "check"):
        done = pylb(command, "-c", str(pipe))
        assert done.returncode == 2 and done.stderr.count("\n") == 1
        assert "is no regular file" in done.stderr
