"""Addresses as users write them: ``127.0.0.1:8080``, ``[::1]:8080``, ``*:80``, ``unix:/run/x.sock``."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP host and port, or the path of a unix socket (then ``port`` is 0 and ``host`` empty)."""

    host: str
    port: int
    path: str = ""

    @property
    def is_unix(self) -> bool:
        return bool(self.path)

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Read one address.

    Raises:
        ValueError: with a sentence that says what is expected.
    """
    text = text.strip()
    if text.startswith("unix:"):
        path = text[5:]
        if not path:
            raise ValueError("unix: needs a path, as in unix:/run/pylb.sock")
        if len(path.encode()) > 107:
            raise ValueError(f"unix socket path is longer than 107 bytes: {path}")
        return Address("", 0, path)
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit():
        raise ValueError(f"{text!r} is not an address; write HOST:PORT, [IPV6]:PORT or unix:PATH")
    if int(port) > 65535:
        raise ValueError(f"port {port} is greater than 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError(f"[{host}] is not an IPv6 address") from None
    elif ":" in host:
        raise ValueError(f"write IPv6 addresses in brackets: [{host}]:{port}")
    elif host in ("", "*"):
        host = "0.0.0.0"
    elif host.replace(".", "").isdigit():
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise ValueError(f"{host} is not an IPv4 address") from None
    elif not _is_host_name(host):
        raise ValueError(f"{host!r} is not a host name")
    return Address(host, int(port))


def _is_host_name(host: str) -> bool:
    """Whether the resolver takes it; it raises for labels that are empty or too long (RFC 1035 §2.3.4)."""
    try:
        name = host.encode("idna").decode()
    except UnicodeError:
        return False
    return re.fullmatch(r"[A-Za-z0-9._-]+", name) is not None
