"""A bridge of this host that guests are joined to, and a network namespace for the load on them.

The load has a namespace of its own since a client with a connection per request uses up this host's ports:
each stays in TIME-WAIT for a minute, and long before there are none left, looking for a free one keeps a CPU
busy that the guests are meant to have.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import Self

from bench.vm.calls import GuestError

_CLIENTS = 254
_OF_CLIENTS = {"ip_local_port_range": "1024 65535", "tcp_tw_reuse": "1"}
"""Of the clients' namespace (kernel documentation, ip-sysctl): all ports, and each again after a second."""


class Network:
    """A bridge of this host with a subnet of its own, that guests are joined to."""

    def __init__(self) -> None:
        self.name = ""
        self._subnet = ""
        self._count = 0

    async def __aenter__(self) -> Self:
        for number in range(1, 250):
            self.name, self._subnet = f"pylb{number}", f"10.213.{number}"
            _drop_if_orphan(self.name)
            if _ip("link", "add", self.name, "type", "bridge", check=False):
                break
        else:
            raise GuestError("all 249 networks are in use")
        try:
            _ip("link", "set", self.name, "alias", str(os.getpid()))
            _ip("addr", "add", f"{self._subnet}.1/24", "dev", self.name)
            _ip("link", "set", self.name, "up")
            self._make_clients()
        except BaseException:
            self._remove()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        self._remove()

    def _make_clients(self) -> None:
        name = self.name
        _ip("netns", "del", name, check=False)  # a killed run's
        _ip("netns", "add", name)
        _ip("link", "add", f"{name}c", "type", "veth", "peer", "name", "eth0", "netns", name)
        _ip("link", "set", f"{name}c", "master", name, "up")
        _ip("-n", name, "addr", "add", f"{self._subnet}.{_CLIENTS}/24", "dev", "eth0")
        _ip("-n", name, "link", "set", "eth0", "up")
        for key, value in _OF_CLIENTS.items():
            _ip("netns", "exec", name, "sysctl", "-q", "-w", f"net.ipv4.{key}={value}")

    def _remove(self) -> None:
        _ip("netns", "del", self.name, check=False)  # its end of the link goes, and with it the other one
        _ip("link", "del", self.name, check=False)

    @property
    def clients(self) -> tuple[str, ...]:
        """What to write before a command, so that it runs where the clients are; see the module."""
        return "ip", "netns", "exec", self.name

    @property
    def host(self) -> str:
        """This host's address in it."""
        return f"{self._subnet}.1"

    def join(self) -> tuple[str, str, str]:
        """A new port: its device, and the address and MAC of the guest at it."""
        self._count += 1
        device, last = f"{self.name}t{self._count}", self._count + 1
        _ip("link", "del", device, check=False)  # a killed run's
        _ip("tuntap", "add", "dev", device, "mode", "tap")
        _ip("link", "set", device, "master", self.name, "up")
        octets = [int(part) for part in self._subnet.split(".")[1:]]
        return device, f"{self._subnet}.{last}", f"52:54:00:{octets[0]:02x}:{octets[1]:02x}:{last:02x}"

    def leave(self, device: str) -> None:
        """A guest has ended."""
        _ip("link", "del", device, check=False)


def _ip(*arguments: str, check: bool = True) -> bool:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True)
    if check and done.returncode:
        raise GuestError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done.returncode == 0


def _drop_if_orphan(bridge: str) -> None:
    """Remove a bridge whose process was killed; its name is in the bridge's alias."""
    with contextlib.suppress(OSError, ValueError):
        owner = int(Path(f"/sys/class/net/{bridge}/ifalias").read_text())
        if not Path(f"/proc/{owner}").exists():
            for port in os.listdir(f"/sys/class/net/{bridge}/brif"):
                _ip("link", "del", port, check=False)
            _ip("link", "del", bridge, check=False)
