"""Nothing that fails in the supervisor, and nothing that a child sends, ends its loop."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from bench.rig.balancer import free_port
from tests.supervisor.test_arbiter import RUN, Pylb

# Functions that fail while a file names them; the control plane first sends what another file holds.
BREAKABLE = """
from pylb.net.listeners import Listeners
from pylb.supervisor.channels import Channels
from pylb.supervisor.controlplane import ControlPlane
from pylb.supervisor.fleet import Fleet
from pylb.supervisor.indices import Indices
from pylb.supervisor.pins import Pins
from pylb.supervisor.reload import Reload
from pylb.supervisor.spreading import Spreading
import selectors

supervisor = os.getpid()

def breakable(owner, name):
    real = getattr(owner, name)
    def wrapped(*args, **more):
        try:
            with open(sys.argv[2] + ".broken") as file:
                broken = file.read().split()
        except FileNotFoundError:
            broken = []
        if name in broken and os.getpid() == supervisor:
            if name == "fork":
                raise BlockingIOError(11, "no process to be had")
            raise RuntimeError("broken: " + name)
        return real(*args, **more)
    setattr(owner, name, wrapped)

for owner, names in (
    (Fleet, ("drain_inboxes", "scale", "ready", "spawn", "reconcile", "busy")),
    (Spreading, ("level", "steer", "attach")),
    (Reload, ("check", "flipped")),
    (ControlPlane, ("tick", "tell")),
    (Pins, ("pin",)),
    (Indices, ("give",)),
    (Channels, ("read",)),
    (Arbiter, ("_signal",)),
    (Listeners, ("updated", "accept_queue")),
    (selectors.EpollSelector, ("select",)),
    (os, ("fork",)),
):
    for name in names:
        breakable(owner, name)

def mad(context):
    try:
        with open(sys.argv[2] + ".packets") as file:
            for packet in json.load(file):
                context.channel.send(bytes.fromhex(packet))
    except FileNotFoundError:
        pass
    control(context)
"""


def running(folder: Path) -> Pylb:
    script = RUN.replace("log.setup()", BREAKABLE + "\nlog.setup()")
    return Pylb(folder, script.replace("fake_worker, control)", "fake_worker, mad)"))


@pytest.fixture
def pylb(tmp_path: Path) -> Iterator[Pylb]:
    one = running(tmp_path)
    try:
        one.until(lambda: one.pids())
        yield one
    finally:
        heal(one)
        with contextlib.suppress(ProcessLookupError):
            one.signal(signal.SIGQUIT)
        one.process.wait(25)


def break_(pylb: Pylb, *names: str) -> None:
    new = Path(f"{pylb.file}.broken.new")
    new.write_text(" ".join(names))
    new.rename(f"{pylb.file}.broken")


def heal(pylb: Pylb) -> None:
    Path(f"{pylb.file}.broken").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("level", "levelling"),
        ("steer", "steering"),
        ("drain_inboxes", "emptying inboxes"),
        ("accept_queue", "looking at the accept queues"),
        ("check", "the reload's tick"),
        ("tick", "the control plane's tick"),
        ("tell", "the state's message"),
        ("busy", "ticking"),
        ("select", "waiting for events"),
    ],
)
def test_a_part_that_fails_lets_the_others_go_on(pylb: Pylb, name: str, part: str) -> None:
    break_(pylb, name)
    pylb.until(lambda: f"{part} failed unexpectedly" in pylb.log.read_text())
    before = pylb.ask()[0]
    os.kill(before, signal.SIGKILL)
    assert pylb.ask()[0] != before  # the accept queue waits for the next worker
    assert pylb.log.read_text().count(f"{part} failed unexpectedly") == 1  # not again and again
    heal(pylb)
    pylb.signal(signal.SIGTTIN)
    pylb.until(lambda: len(pylb.pids()) == 2)
    pylb.signal(signal.SIGTERM)
    assert pylb.process.wait(25) == 0


@pytest.mark.parametrize(
    ("name", "number", "part"),
    [
        ("_signal", signal.SIGHUP, "signal HUP"),
        ("pin", signal.SIGTTIN, "signal TTIN"),
        ("scale", signal.SIGTTOU, "signal TTOU"),
    ],
)
def test_an_order_that_fails_is_no_end(pylb: Pylb, name: str, number: int, part: str) -> None:
    break_(pylb, name)
    pylb.signal(number)
    pylb.until(lambda: f"{part} failed unexpectedly" in pylb.log.read_text())
    heal(pylb)
    pylb.signal(signal.SIGTTIN)
    pylb.until(lambda: len(pylb.pids()) == 2)


def refused(pylb: Pylb) -> list[str]:
    """Why the last reload was refused; empty while none was."""
    result = pylb.state().get("reload")
    assert result is None or isinstance(result, dict)
    return result["errors"] if result and not result["ok"] else []


def listening(port: int) -> bool:
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize("name", ["updated", "give", "attach", "spawn", "reconcile"])
def test_a_reload_that_fails_anywhere_leaves_all_as_it_was(pylb: Pylb, tmp_path: Path, name: str) -> None:
    pylb.signal(signal.SIGTTIN)
    pylb.until(lambda: len(pylb.pids()) == 2)
    before = pylb.pids()
    port, front, admin = free_port(), tmp_path / "new.front", tmp_path / "new.admin"
    bind = [f"127.0.0.1:{port}", f"unix:{front}"]
    pylb.write(
        *(3, 3),
        frontends=[{"name": "f", "bind": bind, "backend": "b"}],
        backends=[{"name": "b", "servers": [{"address": "127.0.0.1:2"}]}],
        admin=f"unix:{admin}",
    )
    break_(pylb, name)
    pylb.signal(signal.SIGHUP)
    pylb.until(lambda: refused(pylb) == [f"broken: {name}"])
    assert not listening(port) and not front.exists() and not admin.exists() and pylb.admin.exists()
    state = pylb.state()
    assert (state["generation"], state["target"], state["pinned"], pylb.pids()) == (1, 2, 2, before)
    heal(pylb)
    assert {pylb.ask()[2] for _ in range(20)} == {1}
    pylb.signal(signal.SIGHUP)
    pylb.until(lambda: len(pylb.pids()) == 3 and not refused(pylb) and front.exists())
    assert listening(port) and admin.exists() and not listening(pylb.port) and not pylb.admin.exists()


def test_a_reload_whose_last_step_fails_has_happened(pylb: Pylb) -> None:
    """The new workers serve by then, so there is no way back; the loop goes on."""
    break_(pylb, "flipped")
    pylb.signal(signal.SIGHUP)
    pylb.until(lambda: "broken: flipped" in pylb.log.read_text())
    heal(pylb)
    pylb.until(lambda: pylb.ask()[2] == 2)


def test_what_a_child_sends_is_checked(tmp_path: Path) -> None:
    packets = [
        *(b"{", b"[]", b"3", b"null", b"\xff\xfe", b"[" * 100_000, b"{}", b'{"op": 3}', b'{"op": ["pin"]}'),
        *(b'{"op": "scale"}', b'{"op": "scale", "n": true, "reason": ""}', b'{"op": "scale", "n": 3}'),
        *(b'{"op": "scale", "n": 1e400, "reason": ""}', b'{"op": "scale", "n": 3, "reason": {}}'),
        b'{"op": "pin", "id": 1, "n": ' + b"9" * 3000 + b"}",
        b'{"op": "pin", "id": 1, "n": ' + b"9" * 5000 + b"}",
        b'{"op": "pin", "n": 3}',
    ]
    for _ in range(10):
        packets.append(b'{"op": "scale", "n": ' + b"[" * 20_000)
    packets.append(json.dumps({"op": "pin", "id": 1, "n": 2}).encode())
    (tmp_path / "config.json.packets").write_text(json.dumps([packet.hex() for packet in packets]))
    pylb = running(tmp_path)
    try:
        pylb.until(lambda: len(pylb.pids()) == 2)  # the one order that makes sense was carried out
        text = pylb.log.read_text()
        assert text.count("are passed over") == 1 and "Traceback" not in text
    finally:
        pylb.signal(signal.SIGTERM)
        assert pylb.process.wait(25) == 0


def test_a_pin_says_what_was_done(tmp_path: Path) -> None:
    order = json.dumps({"op": "pin", "id": 7, "n": 9}).encode()
    (tmp_path / "config.json.packets").write_text(json.dumps([order.hex()]))
    pylb = running(tmp_path)
    try:
        said = "pinned to 3 workers until 'scale auto' (9 were asked for, but workers.max is 3)"
        pylb.until(lambda: pylb.state().get("pin") == [7, 200, said])
        pylb.signal(signal.SIGTTIN)
        pylb.until(lambda: "pinned to 3 (4 were asked for, but workers.max is 3)" in pylb.log.read_text())
    finally:
        pylb.signal(signal.SIGTERM)
        assert pylb.process.wait(25) == 0


def test_no_process_to_be_had_is_no_end(pylb: Pylb) -> None:
    break_(pylb, "fork")
    for child in psutil.Process(pylb.process.pid).children():
        child.kill()
    for what in ("a worker", "the control plane"):
        pylb.until(lambda what=what: f"cannot start {what}: " in pylb.log.read_text())  # type: ignore[misc]
    pylb.signal(signal.SIGHUP)
    pylb.until(lambda: "reload: starting generation 2" in pylb.log.read_text())
    heal(pylb)
    pylb.until(lambda: pylb.ask()[2] == 2)
    pylb.signal(signal.SIGTERM)
    assert pylb.process.wait(25) == 0
