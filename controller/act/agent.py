"""vCPUs through QEMU's guest agent on a unix socket: brought online and taken offline.

Never plugged or unplugged: the latter ends QEMU 7.2 in its emulation. The agent may be
absent, or busy with what another one asked before: so each exchange begins with a synchronisation and has a
time limit. Source: the QEMU Guest Agent Protocol Reference (guest-sync-delimited, guest-get-vcpus,
guest-set-vcpus).
"""

from __future__ import annotations

import json
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

SECONDS = 2.0
"""Of one exchange."""
_LONGEST = 1 << 20
_MARK = b"\xff"  # sets the agent's parser back; before the answer to guest-sync-delimited the agent sends it


class Vcpus(Protocol):
    """Something that has guests bring vCPUs online. Both methods may raise OSError."""

    def vcpus(self, machine: str) -> tuple[int, list[int]]:
        """How many vCPUs the guest has online, and which others it can bring online."""

    def set_online(self, machine: str, vcpus: Sequence[int], online: bool) -> None:
        """Have the guest bring vCPUs online, or take them offline."""


class AgentVcpus:
    """Talks with agents, each at the socket that QEMU makes for it; by machine."""

    def __init__(self, sockets: Mapping[str, str]) -> None:
        self._sockets = sockets

    def vcpus(self, machine: str) -> tuple[int, list[int]]:
        (known,) = self._talk(machine, ("guest-get-vcpus", {}))
        try:
            online = sum(1 for vcpu in known if vcpu["online"])
            return online, [int(vcpu["logical-id"]) for vcpu in known if not vcpu["online"]]
        except (TypeError, KeyError, ValueError):
            raise OSError(f"the agent of machine {machine!r} answers nonsense") from None

    def set_online(self, machine: str, vcpus: Sequence[int], online: bool) -> None:
        wanted = [{"logical-id": vcpu, "online": online} for vcpu in vcpus]
        (done,) = self._talk(machine, ("guest-set-vcpus", {"vcpus": wanted}))
        if done != len(wanted):
            raise OSError(f"machine {machine!r} did so with {done} of {len(wanted)} vCPUs")

    def _talk(self, machine: str, *commands: tuple[str, Mapping[str, Any]]) -> list[Any]:
        until = time.monotonic() + SECONDS
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(SECONDS)
            sock.connect(self._sockets[machine])
            reader = _Reader(sock, until)
            number = secrets.randbelow(1 << 31)
            sock.sendall(_MARK + _command("guest-sync-delimited", {"id": number}))
            while reader.answer(after_mark=True) != number:  # an answer to one who has left since
                pass
            answers = []
            for name, arguments in commands:
                sock.sendall(_command(name, arguments))
                answers.append(reader.answer())
            return answers


def _command(name: str, arguments: Mapping[str, Any]) -> bytes:
    return json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n"


class _Reader:
    """Reads answers, a line each, until a moment."""

    def __init__(self, sock: socket.socket, until: float) -> None:
        self._sock, self._until, self._got = sock, until, b""

    def answer(self, after_mark: bool = False) -> Any:
        """What the next line returns; with ``after_mark`` that of the next marked line.

        Raises:
            OSError: it is an error, or comes too late.
        """
        if after_mark:
            self._up_to(_MARK)
        try:
            line = json.loads(self._up_to(b"\n"))
            if "error" in line:
                raise OSError(f"the agent refuses: {line['error'].get('desc', 'without a reason')}")
            return line["return"]
        except (ValueError, TypeError, KeyError, AttributeError):
            raise OSError("the agent answers nonsense") from None

    def _up_to(self, end: bytes) -> bytes:
        while end not in self._got:
            left = self._until - time.monotonic()
            if left <= 0 or len(self._got) > _LONGEST:
                raise TimeoutError("the guest's agent doesn't answer")
            self._sock.settimeout(left)
            data = self._sock.recv(65536)
            if not data:
                raise OSError("QEMU closed the agent's socket: somebody else uses it, or the machine ends")
            self._got += data
        found, _, self._got = self._got.partition(end)
        return found
