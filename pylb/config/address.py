"""Addresses as users write them: ``127.0.0.1:8080``, ``[::1]:8080``, ``*:80``, ``unix:/run/x.sock``.

The lowest floor of the configuration, beside `declaration`. Reading an address is pure; `resolve` and
`place` look names up, which may wait.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
from dataclasses import dataclass, replace

MOST_PORTS = 1024
"""In a range; all binds together are bounded, too (`links`)."""
_PORTS = re.compile(r"(.*):(\d{1,5})-(\d{1,5})", re.ASCII)


CLIENTS_PORT = -1
"""The port of a server that is connected to at the port to which the client has connected."""


@dataclass(frozen=True, slots=True)
class Address:
    """A TCP host and port, or the path of a unix socket (then ``port`` is 0 and ``host`` empty).

    A server's port may be `CLIENTS_PORT`.
    """

    host: str
    port: int
    path: str = ""

    @property
    def is_unix(self) -> bool:
        return bool(self.path)

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == CLIENTS_PORT else f"{host}:{self.port}"


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
        refuse_in_path(path)
        if len(os.fsencode(path)) > 107:
            raise ValueError(f"unix socket path is longer than 107 bytes: {path}")
        return Address("", 0, path)
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdigit():
        raise ValueError(f"{text!r} is not an address; write HOST:PORT, [IPV6]:PORT or unix:PATH")
    if len(port) > 20 or int(port) > 65535:
        raise ValueError(f"port {port} is greater than 65535")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
        try:
            parsed = ipaddress.IPv6Address(host)
        except ValueError:
            raise ValueError(f"[{host}] is not an IPv6 address") from None
        if parsed.scope_id is not None and not parsed.is_link_local:
            raise ValueError(f"[{host}]: only a link-local address (fe80::…) has a zone")
    elif ":" in host:
        raise ValueError(f"write IPv6 addresses in brackets: [{host}]:{port}")
    elif host in ("", "*"):
        host = "0.0.0.0"
    elif host.replace(".", "").isdigit():
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise ValueError(f"{host} is not an IPv4 address") from None
    elif not is_host_name(host):
        raise ValueError(f"{host!r} is not a host name")
    return Address(host, int(port))


def parse_server(text: str) -> Address:
    """A server's address, which may go without a port: its port is the client's then.

    Raises:
        ValueError: as `parse_address`.
    """
    text = text.strip()
    bare = text.endswith("]") or ":" not in text
    if not bare or not text:
        return parse_address(text)
    if text == "*":
        raise ValueError("a server has an address, and * is none")
    return replace(parse_address(f"{text}:0"), port=CLIENTS_PORT)


def each_port(text: str) -> list[str]:
    """The addresses that ``HOST:FIRST-LAST`` stands for; any other text as it is.

    Raises:
        ValueError: with a sentence that says what is expected.
    """
    match = _PORTS.fullmatch(text.strip())
    if match is None or text.strip().startswith("unix:"):
        return [text]
    first, last = int(match[2]), int(match[3])
    if not 0 < first <= last <= 65535:
        raise ValueError(f"{match[2]}-{match[3]} is no range of ports from 1 to 65535, the lower one first")
    if last - first >= MOST_PORTS:
        raise ValueError(f"{match[2]}-{match[3]} are {last - first + 1} ports, at most {MOST_PORTS}")
    return [f"{match[1]}:{port}" for port in range(first, last + 1)]


def refuse_in_path(path: str) -> None:
    """Raise ValueError for a path that no file can have, or that would spoil the log's lines."""
    if any(ord(character) < 32 or ord(character) == 127 for character in path):
        raise ValueError(f"{path!r} holds a control character, such as a NUL byte")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ValueError(f"{path!r} holds a character that no file name can have") from None


Place = tuple[str, int]
"""A numeric host and a port, or the real path of a unix socket and -1."""


def resolve(address: Address) -> list[tuple[int, tuple[str | int, ...]]]:
    """(family, socket address) of each address that a TCP host and port stand for; the first is listened on.

    Raises:
        OSError: the host name can't be resolved.
    """
    family = socket.AF_INET6 if ":" in address.host else socket.AF_UNSPEC
    found = socket.getaddrinfo(address.host, address.port, family, socket.SOCK_STREAM, 0, socket.AI_PASSIVE)
    return [(kind, (*target[:2], *target[2:])) for kind, _, _, _, target in found]


def place(address: Address) -> Place:
    """Where an address is listened on, whichever way it is spelled; raises as `resolve`."""
    if address.is_unix:
        return _real(address.path), -1
    _, target = resolve(address)[0]
    return str(target[0]), address.port


def _real(path: str) -> str:
    """The path of a socket's file without links, dots and the like; the file itself isn't followed."""
    folder, name = os.path.split(path)
    return os.path.join(os.path.realpath(folder or "."), name)


def loopback(address: Address) -> bool:
    """Whether only this machine reaches an address: a unix socket, a loopback address, or ``localhost``."""
    if address.is_unix:
        return True
    try:
        return ipaddress.ip_address(address.host.partition("%")[0]).is_loopback
    except ValueError:
        return address.host.lower().rstrip(".") == "localhost"


def is_host_name(host: str) -> bool:
    """Whether it can be looked up; the resolver raises for labels empty or too long (RFC 1035 §2.3.4)."""
    try:
        name = host.encode("idna").decode()
    except UnicodeError:
        return False
    return re.fullmatch(r"[A-Za-z0-9._-]+", name) is not None and not host.startswith(".")
