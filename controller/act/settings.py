"""The file of ``--act FILE``, and the actor that it describes.

It is TOML and may be empty, which means what is written here, without the two tables::

    lever = "cgroups"  # how weights are set: cgroups, or libvirt
    times = 10         # how many times as large the weight of a preferred machine is
    state = "/run/pylb-controller.acts"  # what was found, for the next start after a kill

    [together]         # machines that have preference with a balancer's machine
    lb = ["web-1", "web-2"]

    [agents]           # machines that get vCPUs, by their guest agent's unix socket, or by libvirt
    lb = "/run/vm/lb.agent"
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from controller.act.actor import Actor
from controller.act.agent import AgentVcpus, Vcpus
from controller.act.kept import Kept
from controller.act.libvirtlever import LibvirtLever
from controller.act.policy import Policy
from controller.act.weights import CgroupLever, Lever
from controller.sources.table import read_document

STATE = "/run/pylb-controller.acts"


@runtime_checkable
class Machines(Protocol):
    """What the actor asks of a source; both may be called from another thread."""

    def process(self, machine: str) -> int | None:
        """The process that runs a machine."""

    def needs(self) -> Mapping[str, Any]:
        """By machine, of all that there are."""


_LEVERS: dict[str, Callable[[Machines], Lever]] = {
    "cgroups": lambda machines: CgroupLever(machines.process, machines.needs),
    "libvirt": lambda machines: LibvirtLever(),
}


def make_actor(path: Path, machines: Machines) -> Actor:
    """The actor that a file describes.

    Raises:
        ValueError: the file is missing or wrong; names it and the key.
        OSError: the state can't be kept.
    """
    document = read_document(path)
    unknown = document.keys() - {"lever", "times", "state", "together", "agents"}
    if unknown:
        raise ValueError(f"{path}: {min(unknown)}: unknown key")
    name = document.get("lever", "cgroups")
    if name not in _LEVERS:
        raise ValueError(f"{path}: lever: expected one of {', '.join(_LEVERS)}")
    times = document.get("times", 10)
    if type(times) not in (int, float) or not math.isfinite(times) or not 1 < times <= 10_000:
        raise ValueError(f"{path}: times: expected a number above 1, at most 10000")
    state = document.get("state", STATE)
    if not isinstance(state, str) or not state.startswith("/"):
        raise ValueError(f"{path}: state: expected an absolute path")
    together = _table(path, document, "together")
    for machine, others in together.items():
        if not isinstance(others, list) or not all(isinstance(other, str) for other in others):
            raise ValueError(f"{path}: together.{machine}: expected a list of machines")
    agents = _table(path, document, "agents")
    for machine, socket in agents.items():
        if socket != "libvirt" and (not isinstance(socket, str) or not socket.startswith("/")):
            raise ValueError(f'{path}: agents.{machine}: expected the path of a unix socket, or "libvirt"')
    lever = _LEVERS[name](machines)
    by_libvirt = lever if isinstance(lever, LibvirtLever) else LibvirtLever()
    by_socket = AgentVcpus({machine: socket for machine, socket in agents.items() if socket != "libvirt"})
    vcpus: dict[str, Vcpus] = {
        machine: by_libvirt if socket == "libvirt" else by_socket for machine, socket in agents.items()
    }
    return Actor(Policy(together), lever, Kept(Path(state)), float(times), vcpus, machines.process)


def _table(path: Path, document: dict[str, Any], key: str) -> dict[str, Any]:
    table = document.get(key, {})
    if not isinstance(table, dict):
        raise ValueError(f"{path}: {key}: expected a table")
    return table
