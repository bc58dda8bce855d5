"""The host acts for a balancer under pressure, and what it found comes back however the controller ends."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from controller.act.actor import CHECK, Actor
from controller.act.kept import Kept
from controller.act.policy import VCPU_AFTER, VCPU_CALM, Balancer, Policy
from controller.address import parse
from controller.protocol import Hello, Report, encode
from controller.server import ControllerServer
from tests.controller.four_cores import until
from tests.controller.test_machines import Host

PRESSED = Balancer("lb", "pylb", 1, 2.0, 2)
CALM_ONE = Balancer("lb", "pylb", 1, 0.3, 2)


class Lever:
    """Weights in memory, by place; a machine that is started anew has another place."""

    def __init__(self) -> None:
        self.places = {"lb": "lb/1", "web": "web/1"}
        self.weights = {"lb/1": 100, "web/1": 200}
        self.error: Exception | None = None
        self.writes = 0
        self.written = threading.Event()

    def find(self, machine: str) -> str:
        self._fail()
        if machine not in self.places:
            raise FileNotFoundError(errno.ENOENT, f"no machine {machine!r}")
        return self.places[machine]

    def read(self, place: str) -> int:
        self._fail()
        if place not in self.weights:
            raise FileNotFoundError(errno.ENOENT, f"no {place}")
        return self.weights[place]

    def write(self, place: str, weight: int) -> None:
        self._fail()
        self.writes += 1
        self.weights[place] = weight
        self.written.set()

    def raised(self, place: str, usual: int, times: float) -> int:
        return int(usual * times)

    def _fail(self) -> None:
        if self.error is not None:
            raise self.error


class Guest:
    """A guest whose vCPUs 1 to 3 are offline."""

    def __init__(self) -> None:
        self.online = {0}
        self.failures = 0

    def vcpus(self, machine: str) -> tuple[int, list[int]]:
        if self.failures:
            self.failures -= 1
            raise TimeoutError("the guest's agent doesn't answer")
        return len(self.online), sorted({0, 1, 2, 3} - self.online)

    def set_online(self, machine: str, vcpus: Sequence[int], online: bool) -> None:
        self.online = self.online | set(vcpus) if online else self.online - set(vcpus)


class Scene:
    """An actor whose thread doesn't run: `step` does what it would do."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lever, self.guest = Lever(), Guest()
        self.pid: int | None = os.getpid()
        (folder / "boot").write_text("one\n")
        self.actor = self.begin()

    def begin(self, **together: list[str]) -> Actor:
        kept = Kept(self.folder / "kept", self.folder / "boot")
        vcpus = {"lb": self.guest}
        self.actor = Actor(Policy(together), self.lever, kept, 10, vcpus, lambda machine: self.pid)
        return self.actor

    def step(self, now: float, *balancers: Balancer) -> None:
        self.actor.look(now, balancers)
        self.actor.work(now)

    def kill(self) -> None:
        os.close(self.actor._kept._lock)  # as the kernel does

    def did(self) -> list[str]:
        return [f"{did['machine']}: {did['action']}: {did['reason']}" for did in self.actor.actions]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tmp_path)
    yield scene
    scene.kill()


def test_weights_follow_the_policy(scene: Scene) -> None:
    scene.kill()
    scene.begin(lb=["web"])
    scene.step(0.0, PRESSED)
    assert scene.lever.weights == {"lb/1": 1000, "web/1": 2000}
    assert {shown["machine"]: (shown["weight"], shown["usual"]) for shown in scene.actor.preferred} == {
        "lb": (1000, 100),
        "web": (2000, 200),
    }
    scene.step(4.0, CALM_ONE)
    assert scene.lever.weights == {"lb/1": 100, "web/1": 200}
    assert scene.did()[2:] == [
        "lb: weight 100 again: calm for 3 s",
        "web: weight 200 again: together with machine 'lb': calm for 3 s",
    ]
    assert scene.actor.preferred == []
    scene.step(5.0, CALM_ONE)
    assert scene.lever.writes == 4


def test_what_was_found_is_on_disk_before_anything_is_changed(scene: Scene) -> None:
    seen: list[int] = []
    write = scene.lever.write

    def look_and_write(place: str, weight: int) -> None:
        seen.append(json.loads((scene.folder / "kept").read_text())["machines"]["lb"]["usual"])
        write(place, weight)

    scene.lever.write = look_and_write  # type: ignore[method-assign]
    scene.step(0.0, PRESSED)
    assert seen == [100]


@pytest.mark.parametrize("by_another", [None, 500])
def test_the_next_one_restores_what_a_killed_one_left(scene: Scene, by_another: int | None) -> None:
    scene.step(0.0, PRESSED)
    scene.kill()
    if by_another is not None:
        scene.lever.weights["lb/1"] = by_another
    scene.begin()
    scene.actor.work(0.0)
    assert scene.lever.weights["lb/1"] == (by_another or 100)
    what = "weight 100 again" if by_another is None else "weight 500 is left as it is"
    assert scene.did() == [f"lb: {what}: left by a controller that was killed"]
    assert json.loads((scene.folder / "kept").read_text())["machines"] == {}


def test_killed_between_saying_and_doing(scene: Scene) -> None:
    def killed(place: str, weight: int) -> None:
        raise KeyboardInterrupt

    scene.lever.write = killed  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        scene.step(0.0, PRESSED)
    del scene.lever.write
    scene.kill()
    scene.begin()
    scene.actor.work(0.0)
    assert scene.lever.weights["lb/1"] == 100


@pytest.mark.parametrize("kind", [OSError, RuntimeError])
def test_a_lever_that_fails_is_tried_again_ever_later(
    scene: Scene, caplog: pytest.LogCaptureFixture, kind: type[Exception]
) -> None:
    scene.lever.error = kind("libvirt: it has gone")
    tried = []
    find = scene.lever.find

    def counting(machine: str) -> str:
        tried.append(machine)
        return find(machine)

    scene.lever.find = counting  # type: ignore[method-assign]
    for second in range(121):
        scene.step(float(second), PRESSED)
    assert len(tried) == 8  # at 0, 1, 3, 7, 15, 31, 61, 91
    assert len(caplog.records) == 1
    assert scene.actor.preferred[0]["problem"] == "libvirt: it has gone"
    scene.lever.error = None
    scene.step(121.0, PRESSED)
    assert scene.lever.weights["lb/1"] == 1000
    assert scene.actor.preferred[0]["problem"] == ""


def test_a_machine_that_ends_or_starts_anew_while_preferred(scene: Scene) -> None:
    pressed = Balancer("lb", "pylb", 1, 2.0, 1)
    scene.step(0.0, pressed)
    del scene.lever.weights["lb/1"]
    scene.lever.weights["lb/2"], scene.lever.places["lb"] = 100, "lb/2"
    scene.step(CHECK, pressed)
    assert scene.lever.weights["lb/2"] == 1000
    del scene.lever.weights["lb/2"], scene.lever.places["lb"]
    scene.step(CHECK + 0.1)
    assert scene.did()[-1] == "lb: it has gone: its balancer's lease has ended"
    assert scene.actor.preferred == []


def test_vcpus_go_online_and_offline_again(scene: Scene) -> None:
    scene.guest.failures = 1  # as once in three times right after a plug
    for now in (0.0, VCPU_AFTER, VCPU_AFTER + 1.1):
        scene.step(now, PRESSED)
    assert scene.guest.online == {0, 1}
    assert scene.did()[-1] == "lb: vCPU 1 brought online: 2 cores are leased to its balancer or idle for it"
    scene.kill()
    scene.begin()
    scene.actor.work(0.0)
    assert scene.guest.online == {0}
    assert scene.lever.weights["lb/1"] == 100


def test_a_source_that_has_just_begun_knows_no_machines(scene: Scene) -> None:
    """The next start forgot the vCPUs of a machine that its source had not found yet."""
    for now in (0.0, VCPU_AFTER):
        scene.step(now, PRESSED)
    scene.kill()
    scene.begin()
    scene.pid = None
    scene.actor.work(0.0)
    assert scene.guest.online == {0, 1}
    scene.pid = os.getpid()
    scene.actor.work(1.0)
    assert scene.guest.online == {0}
    assert scene.did()[-1] == "lb: vCPU 1 taken offline: left by a controller that was killed"


def test_vcpus_that_the_guest_has_given_back_itself(scene: Scene) -> None:
    for now in (0.0, VCPU_AFTER):
        scene.step(now, PRESSED)
    scene.guest.online = {0, 3}
    scene.step(VCPU_AFTER + VCPU_CALM, CALM_ONE)
    assert scene.guest.online == {0, 3}
    assert scene.did()[-1] == "lb: weight 100 again: calm for 3 s"
    assert scene.actor.preferred == []


def test_a_machine_started_anew_keeps_its_vcpus(scene: Scene) -> None:
    for now in (0.0, VCPU_AFTER):
        scene.step(now, PRESSED)
    scene.pid = 1
    scene.step(VCPU_AFTER + VCPU_CALM)
    assert scene.guest.online == {0, 1}


def test_the_end_restores_with_its_thread(scene: Scene) -> None:
    scene.actor.start()
    scene.actor.look(0.0, [PRESSED])
    assert scene.lever.written.wait(50)  # by the thread
    scene.actor.close()
    assert scene.lever.weights["lb/1"] == 100
    assert not (scene.folder / "kept").exists()
    assert scene.did()[-1] == "lb: weight 100 again: the controller ends"
    scene.begin()


def test_a_lever_that_stands_still_doesnt_hold_up_the_end(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("controller.act.actor.PATIENCE", 0.05)
    scene.step(0.0, PRESSED)
    scene.lever.error = OSError("libvirt: time is up")
    scene.actor.start()
    scene.actor.close()
    assert "not restored: lb; the next start does that" in caplog.text
    scene.lever.error = None
    scene.begin()
    scene.actor.work(0.0)
    assert scene.lever.weights["lb/1"] == 100


async def test_the_server_says_what_balancers_report(scene: Scene, tmp_path: Path) -> None:
    server = ControllerServer(Host(), actor=scene.actor)
    await server.start(parse(f"unix:{tmp_path}/c.sock"))
    with socket.socket(socket.AF_UNIX) as peer:
        peer.connect(f"{tmp_path}/c.sock")
        peer.send(encode(Hello("pylb", 1, 8)) + encode(Report(1, 0.5, 3.0)))
        await until(lambda: scene.lever.weights["lb/1"] == 1000)
        await until(lambda: server.status().preferred)
        status = server.status()
        assert status.preferred[0]["machine"] == status.actions[0]["machine"] == "lb"
        assert "could use 3.0 cores; the machine uses 1.25 and waits for 0.50" in status.actions[0]["reason"]
    await until(lambda: scene.lever.weights["lb/1"] == 100)  # its lease has ended
    await server.close()
    scene.begin()


# A real controller, with cgroup files

_CONTROLLER = """
import sys
from pathlib import Path
from controller import __main__, act
from controller.act import weights
from controller.sources import hypervisor
from controller.sources.procreader import ProcReader
root = Path(sys.argv.pop(1))
weights.PROC, weights.CGROUPS = root / "proc", root / "cgroups"
hypervisor.READERS["proc"] = lambda: ProcReader(root / "proc", root / "cgroups")
__main__.app()
"""


@pytest.fixture
def controller(tmp_path: Path) -> Iterator[Callable[[], subprocess.Popen[bytes]]]:
    """Starts controllers for a host on which this process is QEMU with one vCPU in a cgroup of its own."""
    pid = os.getpid()
    thread = tmp_path / f"proc/{pid}/task/{pid}"
    thread.mkdir(parents=True)
    (tmp_path / "proc/stat").write_text("cpu 0 0 0 0 0\ncpu0 0 0 0 0 0\n")
    (thread.parent.parent / "comm").write_text("qemu-system-x86\n")
    (thread.parent.parent / "cmdline").write_bytes(b"qemu\0-name\0lb\0")
    (thread.parent.parent / "cgroup").write_text("0::/lb.scope\n")
    (thread.parent.parent / "stat").write_text(f"{pid} (qemu) S {'0 ' * 30}\n")
    (thread / "comm").write_text("CPU 0/TCG\n")
    (thread / "schedstat").write_text("1 1 1\n")
    (tmp_path / "cgroups/lb.scope").mkdir(parents=True)
    (tmp_path / "cgroups/lb.scope/cpu.weight").write_text("100\n")
    (tmp_path / "host.toml").write_text("")
    (tmp_path / "act.toml").write_text(f'state = "{tmp_path}/kept"\n')
    started: list[subprocess.Popen[bytes]] = []

    def begin() -> subprocess.Popen[bytes]:
        arguments = ["--listen", f"unix:{tmp_path}/c.sock", "--act", f"{tmp_path}/act.toml"]
        source = ["--source", f"hypervisor:{tmp_path}/host.toml"]
        command = [sys.executable, "-c", _CONTROLLER, str(tmp_path), *arguments, *source]
        with (tmp_path / "log").open("ab") as log:
            started.append(subprocess.Popen(command, stderr=log))
        return started[-1]

    yield begin
    for process in started:
        process.kill()
        process.wait()


class Pressed:
    """A balancer that goes on reporting pressure, for as long as something is waited for."""

    def __init__(self, folder: Path) -> None:
        self._path = f"{folder}/c.sock"
        self._weight = folder / "cgroups/lb.scope/cpu.weight"
        self._sock: socket.socket | None = None

    def preferred(self) -> bool:
        """Report, and say whether its machine has preference."""
        if self._sock is None:
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.connect(self._path)
            except OSError:  # it doesn't listen yet
                sock.close()
                return False
            self._sock = sock
            sock.send(encode(Hello("pylb", 1, 4)))
        self._sock.send(encode(Report(1, 0.9, 2.0)))
        return self._weight.read_text() == "1000\n"

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_real_controllers_end_restores_the_weight(
    tmp_path: Path, controller: Callable[[], subprocess.Popen[bytes]], number: signal.Signals
) -> None:
    weight = tmp_path / "cgroups/lb.scope/cpu.weight"
    process = controller()
    balancer = Pressed(tmp_path)
    await until(balancer.preferred)
    if number is signal.SIGTERM:
        await status_shows_it(tmp_path, balancer)
    process.send_signal(number)
    process.wait()
    balancer.close()
    if number is signal.SIGKILL:
        assert weight.read_text() == "1000\n"
        controller()
        await until(lambda: weight.read_text() == "100\n")
        await until(lambda: "weight 100 again: left by a controller that was killed" in _log(tmp_path))
    else:
        assert weight.read_text() == "100\n"
        assert "machine lb: weight 1000 instead of 100: balancer 'pylb' has 1 worker" in _log(tmp_path)
        assert "machine lb: weight 100 again: the controller ends" in _log(tmp_path)


async def status_shows_it(folder: Path, balancer: Pressed) -> None:
    command = [sys.executable, "-m", "controller", "status", "--address", f"unix:{folder}/c.sock"]
    wide = os.environ | {"COLUMNS": "300"}
    status = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, env=wide)
    answer = asyncio.create_task(status.communicate())
    await until(lambda: balancer.preferred() and answer.done())
    out = answer.result()[0].decode()
    assert "preferred: lb: weight 1000 instead of 100: balancer 'pylb' has 1 worker" in out
    assert "lb: weight 1000 instead of 100: balancer" in out.splitlines()[-1]


def _log(folder: Path) -> str:
    return (folder / "log").read_text()


def test_acting_needs_a_source_that_knows_machines(tmp_path: Path) -> None:
    (tmp_path / "act.toml").write_text("")
    command = [sys.executable, "-m", "controller", "--act", f"{tmp_path}/act.toml"]
    done = subprocess.run([*command, "--listen", f"unix:{tmp_path}/c"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "--act needs --source hypervisor:FILE" in done.stderr
