"""The admin address: who may do what, and what becomes of it when instances and generations change."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from bench.rig.balancer import free_port
from bench.rig.processes import titles
from pylb.config.address import Address
from pylb.config.load import ConfigError, load_file
from pylb.control import view
from tests.e2e.origin import Origin
from tests.e2e.test_running import configure, held_request, rest
from tests.supervisor.test_arbiter import Pylb
from tests.supervisor.test_survival import running as faulty
from tests.test_cli import pylb

ROOT = Path(__file__).parents[2]


class Instance:
    """A supervisor whose admin address is as its file says."""

    def __init__(self, file: Path, admin: Address, token: str | None = None, **environment: str) -> None:
        self.admin, self.token = admin, token
        self.log = file.with_name(f"log-{time.monotonic_ns()}")
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pylb", "serve", "-c", str(file)],
                stderr=log, cwd=ROOT, env={**os.environ, **environment},
            )  # fmt: skip

    def until(self, what: Callable[[], object]) -> None:
        deadline = time.monotonic() + 50
        while not what():
            assert time.monotonic() < deadline and self.process.poll() is None, self.log.read_text()
            time.sleep(0.02)

    def serves(self) -> bool:
        return "ready in" in self.log.read_text() and self.workers() == ["serving"]

    def workers(self) -> list[str]:
        try:
            status = view.fetch(self.admin, "GET", "/status", token=self.token)
        except OSError:
            return []
        return [worker["state"] for worker in status["workers"]]

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGQUIT)
        self.process.wait(25)


@pytest.fixture
def start() -> Iterator[Callable[..., Instance]]:
    started: list[Instance] = []

    def one(*arguments: object, **environment: str) -> Instance:
        started.append(Instance(*arguments, **environment))  # type: ignore[arg-type]
        return started[-1]

    yield one
    for instance in started:
        instance.end()


def ask(port: int, method: str, path: str, body: object = None, **fields: str) -> tuple[int, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=50)
    try:
        named = {name.replace("_", "-"): value for name, value in fields.items()}
        connection.request(method, path, None if body is None else json.dumps(body), named)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_on_tcp_a_page_can_neither_read_nor_scale(
    start: Callable[..., Instance], origin: Origin, tmp_path: Path
) -> None:
    file, port, admin = tmp_path / "pylb.toml", free_port(), free_port()
    configure(
        file, origin, f"127.0.0.1:{port}", more=f'admin = "127.0.0.1:{admin}"\nworkers = {{min = 1, max = 2}}'
    )
    one = start(file, Address("127.0.0.1", admin))
    one.until(one.serves)
    assert ask(admin, "GET", "/status")[0] == ask(admin, "GET", "/metrics")[0] == 200
    page = {"Content_Type": "text/plain", "Origin": "http://evil.example"}
    assert ask(admin, "POST", "/scale", {"n": 2}, **page)[0] == 403
    assert ask(admin, "GET", "/status", Origin="http://evil.example")[0] == 403
    assert ask(admin, "GET", "/status", Host=f"evil.example:{admin}")[0] == 403
    status, said = ask(admin, "POST", "/scale", {"n": 2}, Content_Type="application/json")
    assert status == 403 and "unix socket" in said and "admin_token_file" in said
    assert one.workers() == ["serving"]
    done = pylb("scale", "2", "--admin", f"127.0.0.1:{admin}")
    assert done.returncode == 2 and "unix socket" in done.stderr


def test_on_tcp_with_a_token(start: Callable[..., Instance], origin: Origin, tmp_path: Path) -> None:
    file, port, admin, token = tmp_path / "pylb.toml", free_port(), free_port(), tmp_path / "token"
    token.write_text("s3cret\n")
    more = f'admin = "0.0.0.0:{admin}"\nadmin_token_file = "{token}"\nworkers = {{min = 1, max = 2}}'
    configure(file, origin, f"127.0.0.1:{port}", more=more)
    one = start(file, Address("127.0.0.1", admin), "s3cret")
    one.until(one.serves)
    assert ask(admin, "GET", "/status")[0] == ask(admin, "GET", "/metrics")[0] == 401
    assert ask(admin, "GET", "/metrics", Authorization="Bearer s3cret")[0] == 200
    assert ask(admin, "POST", "/scale", {"n": 2}, Authorization="Bearer s3cret")[0] == 415
    where = ("--admin", f"127.0.0.1:{admin}")
    assert "the token" in pylb("status", *where).stderr
    assert pylb("status", *where, "--token-file", str(token)).returncode == 0
    done = pylb("scale", "2", *where, "--token-file", str(token))
    assert done.returncode == 0 and done.stdout == "pinned to 2 workers until 'scale auto'\n"
    one.until(lambda: one.workers() == ["serving", "serving"])
    # A reload brings another token.
    token.write_text("an0ther")
    one.process.send_signal(signal.SIGHUP)
    one.until(lambda: "generation 2 serves" in one.log.read_text())
    one.until(lambda: _status(admin, "an0ther") == 200 and _status(admin, "s3cret") == 401)


def _status(port: int, token: str) -> int:
    try:
        return ask(port, "GET", "/status", Authorization=f"Bearer {token}")[0]
    except OSError:
        return 0


def test_an_address_that_others_reach_needs_a_token(origin: Origin, tmp_path: Path) -> None:
    file = tmp_path / "pylb.toml"
    for admin in ("0.0.0.0:9000", "[::]:9000", "*:9000", "192.0.2.1:9000", "lb.example:9000"):
        configure(file, origin, "127.0.0.1:1", more=f'admin = "{admin}"')
        with pytest.raises(ConfigError, match="admin_token_file"):
            load_file(file)
    refused = pylb("serve", "--bind", "127.0.0.1:1", "--server", "127.0.0.1:2", "--admin", "0.0.0.0:9000")
    assert refused.returncode == 2 and refused.stderr.startswith("pylb: --admin: ")


def test_the_next_instance_starts_while_one_drains(
    start: Callable[..., Instance], origin: Origin, tmp_path: Path
) -> None:
    file, port, path = tmp_path / "pylb.toml", free_port(), tmp_path / "run" / "admin.sock"
    configure(file, origin, f"127.0.0.1:{port}", more="workers = {min = 1, max = 1}")
    runtime = {"PYLB_RUNTIME_DIR": str(path.parent)}
    old = start(file, Address("", 0, str(path)), **runtime)
    old.until(old.serves)
    aside = Address("", 0, f"{path}.{old.process.pid}")
    with held_request(origin, port) as sock:
        old.until(lambda: view.fetch(old.admin, "GET", "/status")["totals"]["in_flight"] == 1)
        old.process.send_signal(signal.SIGTERM)
        old.until(lambda: f"the admin socket is now at {aside}" in old.log.read_text())
        # One sees how it goes, also without knowing where it is.
        done = subprocess.run(
            [sys.executable, "-m", "pylb", "status", "--json"], cwd=ROOT, env={**os.environ, **runtime},
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert json.loads(done.stdout)["workers"][0]["state"] == "retiring"
        new = start(file, old.admin, **runtime)
        new.until(new.serves)
        assert view.fetch(aside, "GET", "/status")["workers"][0]["state"] == "retiring"
        done = pylb("scale", "1", "--admin", str(aside))
        assert done.returncode == 2 and "is stopping" in done.stderr
        origin.release()
        rest(sock)
    assert old.process.wait(25) == 0
    assert new.workers() == ["serving"] and not os.path.exists(aside.path)  # its own file, and no other
    assert path.exists()


def test_the_next_instance_gets_the_admin_port_while_one_drains(
    start: Callable[..., Instance], origin: Origin, tmp_path: Path
) -> None:
    file, port, admin = tmp_path / "pylb.toml", free_port(), free_port()
    configure(
        file, origin, f"127.0.0.1:{port}", more=f'admin = "127.0.0.1:{admin}"\nworkers = {{min = 1, max = 1}}'
    )
    address = Address("127.0.0.1", admin)
    old = start(file, address)
    old.until(old.serves)
    with held_request(origin, port) as sock:
        old.until(lambda: view.fetch(address, "GET", "/status")["totals"]["in_flight"] == 1)
        old.process.send_signal(signal.SIGTERM)
        old.until(lambda: f"the admin address {address} is given up" in old.log.read_text())
        old.until(lambda: not old.workers())
        new = start(file, address)
        new.until(new.serves)
        assert old.process.poll() is None
        origin.release()
        rest(sock)
    assert old.process.wait(25) == 0
    assert new.workers() == ["serving"]


def test_nobody_removes_anothers_socket(
    start: Callable[..., Instance], origin: Origin, tmp_path: Path
) -> None:
    file, front, path = tmp_path / "pylb.toml", tmp_path / "front.sock", tmp_path / "admin.sock"
    configure(file, origin, f"unix:{front}", more=f'admin = "unix:{path}"')
    one = start(file, Address("", 0, str(path)))
    one.until(one.serves)
    others = []
    for taken in (front, path):
        os.unlink(taken)
        others.append(socket.socket(socket.AF_UNIX))
        others[-1].bind(str(taken))
    one.process.send_signal(signal.SIGTERM)
    assert one.process.wait(25) == 0
    assert front.exists() and path.exists()
    for sock in others:
        sock.close()


def inodes_of(path: Path) -> set[str]:
    """Of the listening sockets that were bound to a path (man 5 proc, ``/proc/net/unix``)."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    return {line.split()[6] for line in lines if line.endswith(f" {path}")}


def held(pid: int) -> set[str]:
    """Inodes of the sockets that a process has open."""
    links = []
    for entry in os.scandir(f"/proc/{pid}/fd"):
        try:
            links.append(os.readlink(entry.path))
        except OSError:
            continue
    return {link[8:-1] for link in links if link.startswith("socket:[")}


def test_no_worker_inherits_an_admin_socket(tmp_path: Path) -> None:
    """While a reload to another admin address is under way, neither the old nor the pending one."""
    pylb = faulty(tmp_path)
    try:
        pylb.until(lambda: pylb.pids())
        new = tmp_path / "new.admin"
        pylb.crash.write_text("be slow")
        pylb.write(1, 3, admin=f"unix:{new}")
        pylb.signal(signal.SIGHUP)
        pylb.until(lambda: pylb.pids("starting"))
        admin = inodes_of(pylb.admin) | inodes_of(new)
        assert len(admin) == 2 <= len(held(pylb.process.pid) & admin)
        workers = [*pylb.pids("starting").values(), *pylb.pids().values()]
        assert len(workers) == 2
        for pid in workers:
            assert not held(pid) & admin
        # And a control plane that is forked meanwhile has the one in force only.
        control = control_of(pylb)
        control.kill()
        pylb.until(lambda: (found := control_of(pylb)) and found.pid != control.pid and held(found.pid))
        pylb.until(lambda: held(control_of(pylb).pid) & admin == inodes_of(pylb.admin))
    finally:
        pylb.signal(signal.SIGQUIT)
        pylb.process.wait(25)


def control_of(pylb: Pylb) -> psutil.Process:
    deadline = time.monotonic() + 50
    while time.monotonic() < deadline:
        pid = titles(pylb.process.pid).get("pylb: control")
        if pid is not None:
            with contextlib.suppress(psutil.NoSuchProcess):
                return psutil.Process(pid)
    raise AssertionError("no control plane")
