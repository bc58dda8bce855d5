"""Preference by libvirt's scheduler parameters, and vCPUs by the agents whose channels libvirt holds.

Calls may block while libvirtd stands still; the actor's thread is there for that. Sources:
virDomainSetSchedulerParametersFlags (``cpu_shares``), virDomainGetGuestVcpus and virDomainSetGuestVcpus of
the reference; cpu_shares is the kernel's figure, so its limits are the cgroups' ones.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from controller.act.weights import CGROUPS, raised

_LIVE = 1  # VIR_DOMAIN_AFFECT_LIVE
_NO_DOMAIN = 42  # VIR_ERR_NO_DOMAIN
_AGENT_SECONDS = 3


def _open() -> Any:
    try:
        import libvirt
    except ImportError:
        raise OSError("libvirt's module for Python is missing: install libvirt-python") from None
    return libvirt.open("qemu:///system")


class LibvirtLever:
    """Sets machines' scheduler parameters, and asks their agents.

    Args:
        connect: opens a connection that may write, for tests.
        cgroups: where cgroups are mounted; their version says how large a weight may be.
    """

    def __init__(self, connect: Callable[[], Any] = _open, cgroups: Path = CGROUPS) -> None:
        self._connect = connect
        self._most = 10_000 if (cgroups / "cgroup.controllers").exists() else 262_144
        self._connection: Any = None

    def find(self, machine: str) -> str:
        domain = self._ask(lambda connection: connection.lookupByName(machine))
        return f"{domain.UUIDString()}/{domain.ID()}"  # the id is another one each time that it is started

    def read(self, place: str) -> int:
        return int(self._ask(lambda _: self._domain(place).schedulerParametersFlags(_LIVE)["cpu_shares"]))

    def write(self, place: str, weight: int) -> None:
        parameters = {"cpu_shares": weight}
        self._ask(lambda _: self._domain(place).setSchedulerParametersFlags(parameters, _LIVE))

    def raised(self, place: str, usual: int, times: float) -> int:
        return raised(usual, times, self._most)

    def vcpus(self, machine: str) -> tuple[int, list[int]]:
        """How many vCPUs the guest has online, and which others it can bring online."""
        known = self._ask(lambda _: self._with_agent(machine).guestVcpus(0))
        every, online, may = (numbers(known[key]) for key in ("vcpus", "online", "offlinable"))
        return len(online), sorted((every & may) - online)

    def set_online(self, machine: str, vcpus: Sequence[int], online: bool) -> None:
        """Have the guest bring vCPUs online, or take them offline."""
        text = ",".join(map(str, vcpus))
        self._ask(lambda _: self._with_agent(machine).setGuestVcpus(text, int(online), 0))

    def _with_agent(self, machine: str) -> Any:
        domain = self._connection.lookupByName(machine)
        domain.agentSetResponseTimeout(_AGENT_SECONDS, 0)
        return domain

    def _domain(self, place: str) -> Any:
        uuid, _, number = place.partition("/")
        domain = self._connection.lookupByUUIDString(uuid)
        if str(domain.ID()) != number:
            raise FileNotFoundError(errno.ENOENT, "the machine was started anew")
        return domain

    def _ask(self, question: Callable[[Any], Any]) -> Any:
        """Its answer; a connection that failed is made anew the next time.

        Raises:
            OSError: libvirt says no; FileNotFoundError where it knows no such machine.
        """
        try:
            if self._connection is None:
                self._connection = self._connect()
            return question(self._connection)
        except OSError:
            raise
        except Exception as error:  # libvirtError, which exists only where the module does
            code = getattr(error, "get_error_code", lambda: 0)()
            if code == _NO_DOMAIN:
                raise FileNotFoundError(errno.ENOENT, str(error)) from None
            self._connection = None
            raise OSError(f"libvirt: {error}") from None


def numbers(text: str) -> set[int]:
    """libvirt's lists of CPUs: ``0-2,5``."""
    found: set[int] = set()
    for part in filter(None, text.split(",")):
        first, _, last = part.partition("-")
        found.update(range(int(first), int(last or first) + 1))
    return found
