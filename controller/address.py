"""Addresses of a controller: ``unix:PATH``, ``tcp:HOST:PORT``, ``vsock:CID:PORT``, ``serial:PATH``, and
``hvsock:PATH:PORT`` for a host with machines of Firecracker or Cloud Hypervisor.

Their guests connect to ``vsock:2:PORT``; on the host that is the unix socket ``PATH_PORT``, where PATH is the
``uds_path`` or ``socket`` of the machine's vsock device (docs/vsock.md of Firecracker, of Cloud Hypervisor).
"""

from __future__ import annotations

import socket
from dataclasses import dataclass

_LONGEST_PATH = 107  # bytes (man 7 unix)


@dataclass(frozen=True, slots=True)
class Address:
    """``kind`` is unix, tcp, vsock, serial or hvsock; ``host`` the path, the host or the CID."""

    kind: str
    host: str
    port: int = 0

    @property
    def path(self) -> str:
        """Of the unix socket's file; "" for other kinds."""
        if self.kind == "hvsock":
            return f"{self.host}_{self.port}"
        return self.host if self.kind == "unix" else ""

    def __str__(self) -> str:
        if self.kind in ("unix", "serial"):
            return f"{self.kind}:{self.host}"
        return f"{self.kind}:{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def parse(text: str) -> Address:
    """Read an address.

    Raises:
        ValueError: saying what is expected.
    """
    kind, _, rest = text.partition(":")
    if kind == "unix" and rest and len(rest.encode()) <= _LONGEST_PATH:
        return Address("unix", rest)
    if kind == "serial" and rest and "\0" not in rest:
        return Address("serial", rest)
    host, _, port = rest.rpartition(":")
    if kind in ("tcp", "vsock") and host and port.isascii() and port.isdigit() and int(port) < 2**32:
        if kind == "tcp" and int(port) > 65535:
            raise ValueError(f"{text}: port {port} is greater than 65535")
        if kind == "vsock" and host != "*" and not _is_cid(host):
            raise ValueError(f"{text}: the CID of a vsock address is a number below 2**32, or *")
        host = host.strip("[]")
        try:
            host.encode("idna")
        except UnicodeError:
            raise ValueError(f"{text}: {host!r} is not a host name") from None
        return Address(kind, host, int(port))
    if kind == "hvsock" and host and port.isascii() and port.isdigit() and int(port) < 2**32:
        address = Address("hvsock", host, int(port))
        if len(address.path.encode()) <= _LONGEST_PATH:
            return address
    raise ValueError(
        f"{text!r} is no controller address; write unix:PATH, tcp:HOST:PORT, vsock:CID:PORT, serial:PATH or, "
        "to listen for Firecracker's machines, hvsock:PATH:PORT"
    )


def _is_cid(text: str) -> bool:
    return text.isascii() and text.isdigit() and int(text) < 2**32


def vsock_pair(address: Address) -> tuple[int, int]:
    """CID and port as the kernel takes them (man 7 vsock); ``*`` is any CID."""
    return (socket.VMADDR_CID_ANY if address.host == "*" else int(address.host), address.port)
