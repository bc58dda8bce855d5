"""Weights and vCPUs, with files, agents and libvirt as their documents describe them."""

from __future__ import annotations

import json
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from controller.act.agent import AgentVcpus
from controller.act.kept import Found, Kept
from controller.act.libvirtlever import LibvirtLever
from controller.act.settings import make_actor
from controller.act.weights import CgroupLever

# cgroup files


class Cgroups:
    """Machines, by name, with processes 100, 101, … in cgroups of version 1 or 2."""

    def __init__(self, folder: Path, version: int, **paths: str) -> None:
        self.folder, self.version = folder, version
        self.machines = {name: 100 + number for number, name in enumerate(paths)}
        for name, path in paths.items():
            (folder / f"proc/{self.machines[name]}").mkdir(parents=True)
            line = f"0::{path}\n" if version == 2 else f"4:memory:/\n3:cpu,cpuacct:{path}\n"
            (folder / f"proc/{self.machines[name]}/cgroup").write_text(line)
            scope = self.file(path.partition("/libvirt")[0])
            scope.parent.mkdir(parents=True, exist_ok=True)
            scope.write_text("100\n" if version == 2 else "1024\n")
        self.lever = CgroupLever(self.machines.get, lambda: self.machines, folder / "proc", folder / "cg")

    def file(self, path: str) -> Path:
        name = "cpu.weight" if self.version == 2 else "cpu.shares"
        mount = "" if self.version == 2 else "cpu,cpuacct"
        return self.folder / "cg" / mount / path.lstrip("/") / name


@pytest.mark.parametrize(
    ("version", "usual", "ten", "most"), [(1, 1024, 10240, 262144), (2, 100, 1000, 10000)]
)
def test_weights_in_cgroup_files(tmp_path: Path, version: int, usual: int, ten: int, most: int) -> None:
    scope = "/machine.slice/machine-qemu-1-lb.scope"
    cgroups = Cgroups(tmp_path, version, lb=f"{scope}/libvirt/emulator", web="/machine.slice/web.scope")
    lever = cgroups.lever
    place = lever.find("lb")
    assert lever.read(place) == usual
    assert [lever.raised(place, usual, times) for times in (10, 1e9)] == [ten, most]
    assert lever.raised(place, most, 10) == most
    lever.write(place, ten)
    assert cgroups.file(scope).read_text() == f"{ten}\n"
    with pytest.raises(FileNotFoundError, match="nobody"):
        lever.find("nobody")


@pytest.mark.parametrize(
    ("own", "other", "says"),
    [
        ("/", "/user.slice", "no cgroup of its own"),
        ("/user.slice", "/user.slice", "machine 'web' is in it"),
        ("/user.slice", "/user.slice/web.scope", "machine 'web' is in it"),
    ],
)
def test_a_cgroup_that_others_are_in_is_left_alone(tmp_path: Path, own: str, other: str, says: str) -> None:
    cgroups = Cgroups(tmp_path, 1, lb=own, web=other)
    with pytest.raises(PermissionError, match=says):
        cgroups.lever.find("lb")
    for path in {other} - {own}:
        assert cgroups.lever.read(cgroups.lever.find("web")) == int(cgroups.file(path).read_text())


def test_the_controllers_own_cgroup_is_left_alone(tmp_path: Path) -> None:
    cgroups = Cgroups(tmp_path, 2, lb="/a.scope")
    (tmp_path / f"proc/{os.getpid()}").symlink_to(tmp_path / "proc/100")
    with pytest.raises(PermissionError, match="the controller is in it"):
        cgroups.lever.find("lb")


# The file of what was found


def test_what_was_found_is_for_this_boot_and_one_controller(tmp_path: Path) -> None:
    boot = tmp_path / "boot"
    boot.write_text("one\n")
    path = tmp_path / "kept"
    kept = Kept(path, boot)
    kept.machines = {"lb": Found("place", 1024, 10240, [1, 2], 77), "web": Found()}
    kept.save()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(OSError, match="another controller"):
        Kept(path, boot)
    kept.close()
    again = Kept(path, boot)
    assert again.machines == {"lb": Found("place", 1024, 10240, [1, 2], 77)}
    again.close()
    boot.write_text("two\n")
    after_boot = Kept(path, boot)
    assert after_boot.machines == {}
    after_boot.close()
    assert not path.exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"boot": "one", "machines": 3}', '{"boot": "one", "machines": {"a": {}}}']
)
def test_another_file_is_no_state(tmp_path: Path, text: str) -> None:
    (tmp_path / "boot").write_text("one\n")
    (tmp_path / "kept").write_text(text)
    (tmp_path / "kept").chmod(0o600)
    with pytest.raises(ValueError, match="remove it"):
        Kept(tmp_path / "kept", tmp_path / "boot")
    (tmp_path / "kept").write_text('{"boot": "one", "machines": {}}')
    (tmp_path / "kept").chmod(0o666)
    with pytest.raises(OSError, match="somebody else may write it"):
        Kept(tmp_path / "kept", tmp_path / "boot")
    (tmp_path / "kept").chmod(0o600)
    Kept(tmp_path / "kept", tmp_path / "boot").close()  # nothing is left open or locked


# QEMU's guest agent


class Agent:
    """A guest's agent: answers from a list, a connection at a time, as QEMU's socket does."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self.online = {0: True, 1: False, 2: False}
        self.before = b""
        """Sent before the first answer: what somebody else asked for."""
        self.answer: Callable[[dict[str, Any]], object] = self._as_a_guest
        self.asked: list[str] = []
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.bind(self.path)
        self._sock.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._sock.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._sock.close()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._sock.accept()
            except OSError:
                return
            with peer, peer.makefile("rb") as lines:
                peer.sendall(self.before)
                for line in lines:
                    command = json.loads(line.lstrip(b"\xff"))
                    self.asked.append(command["execute"])
                    if command["execute"] == "guest-sync-delimited":
                        peer.sendall(b'\xff{"return": %d}\n' % command["arguments"]["id"])
                    else:
                        peer.sendall(json.dumps(self.answer(command)).encode() + b"\n")

    def _as_a_guest(self, command: dict[str, Any]) -> object:
        if command["execute"] == "guest-get-vcpus":
            known = [{"logical-id": n, "online": on, "can-offline": n > 0} for n, on in self.online.items()]
            return {"return": known}
        for vcpu in command["arguments"]["vcpus"]:
            self.online[vcpu["logical-id"]] = vcpu["online"]
        return {"return": len(command["arguments"]["vcpus"])}


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    agent = Agent(tmp_path / "agent")
    yield agent
    agent.close()


def test_vcpus_by_the_agent(agent: Agent) -> None:
    lever = AgentVcpus({"lb": agent.path})
    agent.before = b'{"return": [1, 2]}\nhalf a li\xff{"return": 5}\n'  # for somebody who has gone
    assert lever.vcpus("lb") == (1, [1, 2])
    lever.set_online("lb", [1], True)
    assert lever.vcpus("lb") == (2, [2])
    lever.set_online("lb", [1], False)
    assert lever.vcpus("lb") == (1, [1, 2])


def test_an_agent_that_refuses_or_talks_nonsense(agent: Agent) -> None:
    lever = AgentVcpus({"lb": agent.path})
    for answer, says in (
        ({"error": {"desc": "no such command"}}, "no such command"),
        ({"return": 7}, "nonsense"),
        ([], "nonsense"),
        ({"return": [{"online": True}, {}]}, "nonsense"),
    ):
        agent.answer = lambda command, answer=answer: answer  # type: ignore[misc]
        with pytest.raises(OSError, match=says):
            lever.vcpus("lb")
    agent.answer = lambda command: {"return": 1}
    with pytest.raises(OSError, match="1 of 2"):
        lever.set_online("lb", [1, 2], True)


def test_an_agent_that_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("controller.act.agent.SECONDS", 0.05)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        deaf.listen()
        with pytest.raises(TimeoutError):
            AgentVcpus({"lb": str(tmp_path / "deaf")}).vcpus("lb")


# libvirt


class LibvirtError(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(f"error {code}")
        self.code = code

    def get_error_code(self) -> int:
        return self.code


class Domain:
    def __init__(self) -> None:
        self.number = 3
        self.shares = 1024
        self.online = {0}
        self.timeout = 0

    def UUIDString(self) -> str:
        return "8f1e"

    def ID(self) -> int:
        return self.number

    def schedulerParametersFlags(self, flags: int) -> dict[str, int]:
        assert flags == 1
        return {"cpu_shares": self.shares, "vcpu_quota": -1}

    def setSchedulerParametersFlags(self, parameters: dict[str, int], flags: int) -> int:
        assert flags == 1
        self.shares = parameters["cpu_shares"]
        return 0

    def agentSetResponseTimeout(self, seconds: int, flags: int) -> int:
        self.timeout = seconds
        return 0

    def guestVcpus(self, flags: int) -> dict[str, str]:
        assert 0 < self.timeout < 10
        return {"vcpus": "0-3", "online": ",".join(map(str, sorted(self.online))), "offlinable": "1-3"}

    def setGuestVcpus(self, vcpus: str, state: int, flags: int) -> int:
        changed = {int(vcpu) for vcpu in vcpus.split(",")}
        self.online = self.online | changed if state else self.online - changed
        return 0


class Connection:
    def __init__(self) -> None:
        self.domain = Domain()
        self.error: Exception | None = None

    def lookupByName(self, name: str) -> Domain:
        if self.error is not None:
            raise self.error
        if name != "lb":
            raise LibvirtError(42)
        return self.domain

    def lookupByUUIDString(self, uuid: str) -> Domain:
        assert uuid == "8f1e"
        return self.lookupByName("lb")


def test_by_libvirt(tmp_path: Path) -> None:
    connections: list[Connection] = []

    def connect() -> Connection:
        connections.append(Connection())
        return connections[-1]

    lever = LibvirtLever(connect, tmp_path)
    place = lever.find("lb")
    assert lever.read(place) == 1024
    lever.write(place, lever.raised(place, 1024, 10))
    assert lever.read(place) == 10240
    assert lever.vcpus("lb") == (1, [1, 2, 3])
    lever.set_online("lb", [1, 2], True)
    assert lever.vcpus("lb") == (3, [3])
    lever.set_online("lb", [1], False)
    assert lever.vcpus("lb") == (2, [1, 3])
    with pytest.raises(FileNotFoundError):
        lever.find("nobody")
    connections[0].error = LibvirtError(38)
    with pytest.raises(OSError, match="libvirt: error 38"):
        lever.read(place)
    assert lever.find("lb") == place  # by a new connection
    assert len(connections) == 2
    connections[-1].domain.number = 4
    with pytest.raises(FileNotFoundError):
        lever.read(place)


def test_without_libvirts_module() -> None:
    def connect() -> Any:
        raise OSError("libvirt's module for Python is missing")

    with pytest.raises(OSError, match="module for Python is missing"):
        LibvirtLever(connect).find("lb")


# The file


class NoMachines:
    def process(self, machine: str) -> int | None:
        return None

    def needs(self) -> dict[str, Any]:
        return {}


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("when = 3", "when: unknown key"),
        ('lever = "xen"', "lever: expected one of cgroups, libvirt"),
        ("times = true", "times: expected a number"),
        ("times = 1", "times: expected a number"),
        ('state = "here"', "state: expected an absolute path"),
        ('[together]\nlb = "web"', "together.lb: expected a list"),
        ("agents = 3", "agents: expected a table"),
        ('[agents]\nlb = "here"', "agents.lb: expected the path"),
    ],
)
def test_mistakes_in_the_file(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "act.toml").write_text(text)
    with pytest.raises(ValueError, match=f"act.toml: {says}"):
        make_actor(tmp_path / "act.toml", NoMachines())


def test_a_whole_file(tmp_path: Path) -> None:
    (tmp_path / "act.toml").write_text(
        f'lever = "libvirt"\ntimes = 2.5\nstate = "{tmp_path}/kept"\n'
        '[together]\nlb = ["web"]\n[agents]\nlb = "libvirt"\nweb = "/run/web.agent"\n'
    )
    actor = make_actor(tmp_path / "act.toml", NoMachines())
    assert actor._policy.together == {"lb": ["web"]}
    assert [type(vcpus) for vcpus in actor._vcpus.values()] == [LibvirtLever, AgentVcpus]
    actor.close()
