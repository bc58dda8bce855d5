"""A bridge of this host that guests are joined to."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import Self

from bench.vm.calls import GuestError


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
        except BaseException:
            _ip("link", "del", self.name, check=False)
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        _ip("link", "del", self.name, check=False)

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
