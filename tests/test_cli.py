"""The command line: what users get wrong ends with one clear line."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from bench.rig.balancer import free_port

GOOD = """
[[frontend]]
name = "f"
bind = "127.0.0.1:1"
backend = "b"
[[backend]]
name = "b"
[[backend.server]]
address = "127.0.0.1:2"
"""


def pylb(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pylb", *arguments], capture_output=True, text=True, timeout=30
    )


def test_check_accepts_and_refuses(tmp_path: Path) -> None:
    file = tmp_path / "pylb.toml"
    file.write_text(GOOD)
    assert pylb("check", "-c", str(file)).returncode == 0
    file.write_text(GOOD + "wieght = 1\nadress = 2\n")
    done = pylb("check", "-c", str(file))
    assert done.returncode == 1
    assert done.stderr.count("\n") == 2
    assert "backend[0].server[0].wieght: unknown key" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-c", "/does/not/exist.toml"], "No such file"),
        ([], "--bind ADDRESS"),
        (["--bind", "nonsense", "--server", "127.0.0.1:2"], "HOST:PORT"),
        (["--bind", "203.0.113.1:8080", "--server", "127.0.0.1:2"], "203.0.113.1:8080"),
        (["--bind", "127.0.0.1:1", "--server", "127.0.0.1:2", "--balance", "magic"], "random, roundrobin"),
        (["--bind", "127.0.0.1:1", "--server", "127.0.0.1:2", "--workers", "many"], "MIN..MAX"),
        (["--bind", "127.0.0.1:1", "--server", "127.0.0.1:2", "-c", "x.toml"], "exclude"),
    ],
)
def test_serve_says_what_is_wrong_in_one_line(arguments: list[str], says: str, tmp_path: Path) -> None:
    done = pylb("serve", "--admin", f"unix:{tmp_path}/admin.sock", *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["serve", "--nonsense"], "no such option: --nonsense"),
        (["frob"], "no such command 'frob'"),
    ],
)
def test_a_command_line_that_is_none_is_one_line(arguments: list[str], says: str) -> None:
    done = pylb(*arguments)
    assert done.returncode == 2
    assert done.stderr == f"pylb: {says} (see --help)\n"


def test_without_arguments_there_is_help() -> None:
    done = pylb()
    assert done.returncode == 2
    assert "serve" in done.stdout and not done.stderr


@pytest.mark.parametrize(
    ("more", "arguments", "says"),
    [
        ("", ["--workers", "0"], "--workers.min: input should be greater than or equal to 1 (got 0)"),
        ("log = 5", ["--log-format", "json"], "{file}:1: log: expected a table (got 5)"),
        ("", ["--bind", "127.0.0.1:1"], "-c FILE and --bind/--server/--balance exclude each other"),
    ],
)
def test_options_over_a_file(more: str, arguments: list[str], says: str, tmp_path: Path) -> None:
    file = tmp_path / "pylb.toml"
    file.write_text(f"{more}\n{GOOD}")
    done = pylb("serve", "-c", str(file), *arguments)
    assert done.returncode == 2
    assert any(line.startswith(f"pylb: {says.format(file=file)}") for line in done.stderr.splitlines())


def test_a_port_in_use_is_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        bind = ["--bind", f"127.0.0.1:{port}", "--server", "127.0.0.1:2"]
        done = pylb("serve", "--admin", f"unix:{tmp_path}/admin.sock", *bind)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert str(port) in done.stderr


def test_status_without_a_balancer(tmp_path: Path) -> None:
    done = pylb("status", "--admin", f"unix:{tmp_path}/none.sock")
    assert done.returncode == 2
    assert "no balancer answers" in done.stderr


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGHUP])  # Ctrl-C, and a terminal that is closed
def test_the_demo_starts_says_what_to_try_and_leaves_nothing(tmp_path: Path, end: signal.Signals) -> None:
    bind = f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "pylb", "demo", "--bind", bind, "--admin", f"unix:{tmp_path}/admin.sock"]
    said = []
    # In a session of its own, so that the signal reaches all of it, as a terminal's does.
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        assert process.stderr is not None
        for line in process.stderr:
            said.append(line)
            if "ready in" in line:
                break
        children = psutil.Process(process.pid).children(recursive=True)
        refused = pylb("demo", "--bind", bind, "--admin", f"unix:{tmp_path}/other.sock")
        os.killpg(process.pid, end)
        said += process.stderr
    assert f"http://{bind}/" in "".join(said)
    assert process.returncode == 0
    assert len(children) >= 2
    assert psutil.wait_procs(children, timeout=50)[1] == []
    assert refused.returncode == 2
    assert refused.stderr.count("\n") == 1
    assert bind in refused.stderr


def test_the_demo_servers_do_not_outlive_it(tmp_path: Path) -> None:
    bind, admin = f"127.0.0.1:{free_port()}", f"unix:{tmp_path}/admin.sock"
    command = [sys.executable, "-m", "pylb", "demo", "--bind", bind, "--admin", admin]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "ready in" not in process.stderr.readline():
            assert process.poll() is None
        children = psutil.Process(process.pid).children(recursive=True)
        process.kill()
        assert psutil.wait_procs(children, timeout=50)[1] == []
