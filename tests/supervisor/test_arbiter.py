"""The supervisor as a process of its own, with small workers that answer with their pid."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import selectors
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.rig.balancer import free_port
from pylb.config.load import quick
from pylb.net import channel
from pylb.scoreboard import Field
from pylb.supervisor.arbiter import Arbiter
from pylb.supervisor.processes import Backoff
from pylb.supervisor.slots import assign
from pylb.supervisor.stopping import AGAIN
from pylb.worker.context import WorkerContext


def fake_worker(context: WorkerContext) -> None:
    """One short connection at a time: accept, answer with pid, slot and generation, close."""
    told = Path(os.environ["CRASH"])
    slow = False
    if told.exists() and context.generation > 1:
        slow = told.read_text() == "be slow"
        if not slow:
            raise RuntimeError("told to crash")
    selector = selectors.DefaultSelector()
    selector.register(context.channel, selectors.EVENT_READ)
    listening: dict[socket.socket, None] = {}
    ready = False

    def serve(sock: socket.socket) -> None:
        while True:
            try:
                client, _ = sock.accept()
            except BlockingIOError:
                return
            with client:
                client.sendall(f"{os.getpid()} {context.slot} {context.generation}\n".encode())
            context.board.row(context.row)[Field.ACCEPTED] += 1

    while True:
        for key, _ in selector.select():
            if key.fileobj is not context.channel:
                if key.fileobj in listening:
                    serve(key.fileobj)
                continue
            message = channel.recv(context.channel)
            if message is None or message["op"] == "retire":
                for sock in listening:
                    serve(sock)
                if message is None or os.environ.get("LINGER") is None:
                    return
                for sock in listening:
                    selector.unregister(sock)
                listening = {}
            if message["op"] == "servers" and message["part"] == message["parts"]:
                context.board.row(context.row)[Field.LISTS] = message["version"]
            if message["op"] == "listen":
                groups = context.listeners.values()
                wanted = {group[slot]: None for group in groups for slot in message["slots"]}
                for sock in listening.keys() - wanted.keys():
                    serve(sock)
                    selector.unregister(sock)
                for sock in wanted.keys() - listening.keys():
                    selector.register(sock, selectors.EVENT_READ)
                listening = wanted
                if not ready and not slow:
                    ready = True
                    channel.send(context.channel, {"op": "ready"})


RUN = """
import os, sys, signal, json
sys.path[:0] = sys.argv[1].split(":")
from test_arbiter import fake_worker
from pylb import log
from pylb.config.address import parse_address
from pylb.config.load import ConfigError
from pylb.config.model import Config
from pylb.net import channel
from pylb.scoreboard import ControlField, Field, State
from pylb.supervisor.arbiter import Arbiter

def config():
    with open(sys.argv[2]) as file:
        raw = json.load(file)
    if raw is None:
        problems = ["backend[0].name: missing", "workers.min: too small"]
        raise ConfigError(problems, ["pylb.toml:3", "pylb.toml:7"])
    return Config.model_validate(raw)

def control(context):
    channel.send(context.channel, {"op": "ready"})
    context.channel.setblocking(True)
    while message := channel.recv(context.channel):
        if message["op"] == "servers":
            if message["part"] == message["parts"]:
                context.board.control[ControlField.LISTS] = message["version"]
            continue
        with open(sys.argv[2] + ".state.new", "w") as file:
            json.dump(message, file)
        os.rename(sys.argv[2] + ".state.new", sys.argv[2] + ".state")

log.setup()
arbiter = Arbiter(config(), config, fake_worker, control)
if "ROWS" in os.environ:  # all others are taken
    for row in range(int(os.environ["ROWS"]), arbiter.board.rows):
        arbiter.board.row(row)[Field.STATE] = State.SERVING
raise SystemExit(arbiter.run())
"""


class Pylb:
    def __init__(self, folder: Path, run: str = RUN, **environment: str) -> None:
        self.file = folder / "config.json"
        self.crash = folder / "crash"
        self.admin = folder / "admin.sock"
        self.port = free_port()
        self.write(1, 3)
        paths = f"{Path(__file__).parent}:{Path(__file__).parents[2]}"
        environment = {**os.environ, "CRASH": str(self.crash), **environment}
        self.log = folder / "log"
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(run), paths, str(self.file)],
                stderr=output, env=environment,
            )  # fmt: skip

    def write(self, low: int, high: int, **more: object) -> None:
        config = {
            "frontends": [{"name": "f", "bind": [f"127.0.0.1:{self.port}"], "backend": "b"}],
            "backends": [{"name": "b", "servers": [{"address": "127.0.0.1:1"}]}],
            "workers": {"min": low, "max": high},
            "admin": f"unix:{self.admin}",
            **more,
        }
        self.file.write_text(json.dumps(config))

    def state(self) -> dict[str, object]:
        try:
            loaded = json.loads(Path(f"{self.file}.state").read_text())
        except FileNotFoundError:
            return {}
        assert isinstance(loaded, dict)
        return loaded

    def ask(self) -> tuple[int, int, int]:
        with socket.create_connection(("127.0.0.1", self.port), 50) as sock:
            pid, slot, generation = sock.makefile().readline().split()
        return int(pid), int(slot), int(generation)

    def pids(self, state: str = "serving") -> dict[int, int]:
        workers = self.state().get("workers", [])
        assert isinstance(workers, list)
        return {worker["slot"]: worker["pid"] for worker in workers if worker["state"] == state}

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def until(self, what: Callable[[], object], seconds: float = 50) -> None:
        deadline = time.monotonic() + seconds
        while not what():
            assert time.monotonic() < deadline, self.log.read_text()
            assert self.process.poll() is None, self.log.read_text()
            time.sleep(0.01)


@pytest.fixture
def pylb(tmp_path: Path) -> Iterator[Pylb]:
    running = Pylb(tmp_path)
    try:
        running.until(lambda: running.pids())
        yield running
    finally:
        with contextlib.suppress(ProcessLookupError):
            running.signal(signal.SIGQUIT)
        running.process.wait(25)


def test_grow_shrink_without_a_lost_connection(pylb: Pylb) -> None:
    for number, count in [(signal.SIGTTIN, 2), (signal.SIGTTIN, 3), (signal.SIGTTOU, 2), (signal.SIGTTOU, 1)]:
        pylb.signal(number)
        seen = {pylb.ask()[1] for _ in range(100)}  # each is answered, whatever happens meanwhile
        pylb.until(lambda count=count: len(pylb.pids()) == count)  # type: ignore[misc]
        seen = {pylb.ask()[1] for _ in range(100)}
        assert seen == set(range(count))
    assert pylb.state()["pinned"] == 1
    pylb.signal(signal.SIGTTOU)
    assert pylb.ask()[1] == 0


def test_a_killed_worker_is_replaced(pylb: Pylb) -> None:
    pylb.signal(signal.SIGTTIN)
    pylb.until(lambda: len(pylb.pids()) == 2)
    before = pylb.pids()
    os.kill(before[1], signal.SIGKILL)
    for _ in range(50):
        pylb.ask()
    pylb.until(lambda: len(pylb.pids()) == 2 and pylb.pids()[1] != before[1])
    assert pylb.pids()[0] == before[0]
    assert "died: SIGKILL" in pylb.log.read_text()


def test_reload_replaces_every_worker_and_keeps_the_count(pylb: Pylb) -> None:
    pylb.signal(signal.SIGTTIN)
    pylb.until(lambda: len(pylb.pids()) == 2)
    before = set(pylb.pids().values())
    pylb.write(1, 3, backlog=100)
    pylb.signal(signal.SIGHUP)
    for _ in range(100):
        pylb.ask()
    pylb.until(lambda: pylb.state().get("generation") == 2 and len(pylb.pids()) == 2)
    assert not before & set(pylb.pids().values())
    assert pylb.ask()[2] == 2


def test_mistakes_are_refused(pylb: Pylb) -> None:
    pylb.file.write_text("null")
    pylb.signal(signal.SIGHUP)
    pylb.until(lambda: pylb.state().get("reload", {}).get("ok") is False)  # type: ignore[attr-defined]
    assert "pylb.toml:7: workers.min: too small" in pylb.log.read_text()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        pylb.write(1, 3, frontends=[{"name": "f", "bind": [address], "backend": "b"}])
        pylb.signal(signal.SIGHUP)
        pylb.until(lambda: f"cannot listen on {address}" in pylb.log.read_text())
    assert pylb.ask()[2] == 1


def test_a_generation_that_cannot_start_is_given_up(pylb: Pylb) -> None:
    pylb.crash.touch()
    pylb.signal(signal.SIGHUP)
    pylb.until(lambda: "don't start" in pylb.log.read_text())
    assert pylb.ask()[2] == 1
    pylb.crash.unlink()
    pylb.signal(signal.SIGHUP)
    pylb.until(lambda: pylb.ask()[2] == 3)


def test_a_stop_during_a_reload_leaves_nothing(pylb: Pylb, tmp_path: Path) -> None:
    for name in ("old", "new"):
        bind = [f"127.0.0.1:{pylb.port}", f"unix:{tmp_path}/{name}.front"]
        admin = f"unix:{tmp_path}/{name}.admin"
        pylb.write(1, 3, frontends=[{"name": "f", "bind": bind, "backend": "b"}], admin=admin)
        pylb.signal(signal.SIGHUP)
        if name == "old":
            pylb.until(lambda: pylb.state().get("generation") == 2)
            pylb.crash.write_text("be slow")
        else:
            pylb.until(lambda: pylb.pids("starting"))
    assert len(list(tmp_path.glob("*.front"))) == len(list(tmp_path.glob("*.admin"))) == 2
    pylb.signal(signal.SIGTERM)
    assert pylb.process.wait(25) == 0
    assert not [*tmp_path.glob("*.front"), *tmp_path.glob("*.admin")]


def test_servers_may_change_for_ever(pylb: Pylb) -> None:
    for generation in range(2, 5):  # 600 in all, more than the scoreboard has room for
        servers = [{"address": f"127.0.0.{generation}:{port}"} for port in range(1, 201)]
        pylb.write(1, 3, backends=[{"name": "b", "servers": servers}])
        pylb.signal(signal.SIGHUP)
        pylb.until(lambda generation=generation: pylb.state().get("generation") == generation)  # type: ignore[misc]
        pylb.until(lambda: not pylb.pids("retiring"))
    assert "refused" not in pylb.log.read_text()


def test_a_reload_waits_for_a_row_and_says_so(tmp_path: Path) -> None:
    pylb = Pylb(tmp_path, LINGER="", ROWS="2")
    try:
        pylb.until(lambda: pylb.pids())
        first = pylb.pids()[0]
        pylb.signal(signal.SIGHUP)
        pylb.until(lambda: pylb.state().get("generation") == 2 and pylb.pids("retiring") == {0: first})
        pylb.signal(signal.SIGHUP)
        pylb.until(lambda: "no row" in str(pylb.state().get("reload")))
        assert pylb.log.read_text().count("no row") == 1
        assert pylb.ask()[2] == 2
        os.kill(first, signal.SIGKILL)
        pylb.until(lambda: pylb.state().get("generation") == 3)
        assert pylb.state()["reload"] == {"ok": True, "errors": []}
        assert pylb.ask()[2] == 3
    finally:
        pylb.signal(signal.SIGQUIT)
        pylb.process.wait(25)


def test_no_descriptor_for_a_child_is_no_end(pylb: Pylb) -> None:
    limits = resource.prlimit(pylb.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pylb.process.pid, resource.RLIMIT_NOFILE, (3, limits[1]))
    for child in psutil.Process(pylb.process.pid).children():
        child.kill()
    pylb.until(lambda: "cannot start a worker: " in pylb.log.read_text())
    pylb.until(lambda: "cannot start the control plane: " in pylb.log.read_text())
    resource.prlimit(pylb.process.pid, resource.RLIMIT_NOFILE, limits)
    pylb.ask()


def test_a_stop_signal_that_comes_twice_at_once_is_one(tmp_path: Path) -> None:
    config = quick(["127.0.0.1:0"], ["127.0.0.1:9"], admin=f"unix:{tmp_path}/admin.sock")
    arbiter = Arbiter(config, lambda: config)
    now = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arbiter.stop, "_kill", lambda: now.append(True))
        for _ in range(2):
            arbiter._signal(signal.SIGTERM)
        assert not now
        assert arbiter.stop._ordered_at is not None
        arbiter.stop._ordered_at -= AGAIN
        arbiter._signal(signal.SIGTERM)
        assert now
    arbiter.control.admin.sock.close()
    arbiter.inboxes.close()


def test_stop_leaves_nothing(pylb: Pylb) -> None:
    pids = list(pylb.pids().values())
    pylb.signal(signal.SIGTERM)
    assert pylb.process.wait(25) == 0
    assert not pylb.admin.exists()
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_workers_leave_when_the_supervisor_is_killed(pylb: Pylb) -> None:
    pylb.signal(signal.SIGTTIN)
    pylb.until(lambda: len(pylb.pids()) == 2)
    pids = list(pylb.pids().values())
    pylb.signal(signal.SIGKILL)
    pylb.process.wait(25)
    deadline = time.monotonic() + 50
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@given(st.integers(1, 64), st.data())
def test_every_slot_has_exactly_one_reader(slots: int, data: st.DataObject) -> None:
    serving = data.draw(st.sets(st.integers(0, slots - 1), min_size=1))
    lists = assign(slots, {slot: 1000 + slot for slot in serving})
    assert sorted(slot for slots_read in lists.values() for slot in slots_read) == list(range(slots))
    assert all(slot in lists[1000 + slot] for slot in serving)


def test_backoff_starts_at_once_and_is_bounded() -> None:
    backoff = Backoff()
    delays = [backoff.died(0, 0.01) for _ in range(10)]
    assert delays[:4] == [0.0, 0.1, 0.2, 0.4] and delays[-1] == 5.0
    assert backoff.died(0, 60.0) == 0.0
