"""Who else listens on a TCP port: the sockets that the kernel's tables show and that aren't pylb's.

With ``SO_REUSEPORT`` another program of the same user could share a port with pylb unnoticed, and take a
part of the connections. A trial bind without that option (`listeners`) finds it at the start. At a reload
the trial fails on pylb's own sockets, too (``127.0.0.1:80`` is in the way of ``*:80``); then these tables
are read.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
from collections.abc import Iterable, Iterator

_LISTEN = "0A"  # TCP_LISTEN (include/net/tcp_states.h), as /proc/net/tcp has it
_TABLES = {socket.AF_INET: "/proc/net/tcp", socket.AF_INET6: "/proc/net/tcp6"}


def inodes(sockets: Iterable[socket.socket]) -> frozenset[int]:
    """The inode numbers of open sockets, by which the kernel's tables name them."""
    return frozenset(os.fstat(sock.fileno()).st_ino for sock in sockets if sock.fileno() >= 0)


def listening(lines: Iterable[str]) -> Iterator[tuple[str, int, int]]:
    """(address, port, inode) of each listening socket of a table (man 5 proc, ``/proc/net/tcp``).

    The kernel shows these first, so the reading ends with them, however many connections there are.
    """
    for number, line in enumerate(lines):
        if number == 0:
            continue
        fields = line.split()
        if len(fields) < 10 or fields[3] != _LISTEN:
            return
        address, _, port = fields[1].partition(":")
        yield _host(address), int(port, 16), int(fields[9])


def _host(text: str) -> str:
    """An address, given as hexadecimal words in the machine's byte order."""
    words = (int(text[start : start + 8], 16) for start in range(0, len(text), 8))
    packed = b"".join(struct.pack("=I", word) for word in words)
    return str(ipaddress.ip_address(packed))


def overlap(one: str, other: str) -> bool:
    """Whether two addresses of one family can't be listened on by two programs at once."""
    if one == other:
        return True
    first, second = ipaddress.ip_address(one.partition("%")[0]), ipaddress.ip_address(other.partition("%")[0])
    return first == second or first.is_unspecified or second.is_unspecified


def stranger(family: int, host: str, port: int, own: frozenset[int]) -> bool:
    """Whether a socket other than ``own`` listens on an address that overlaps this one.

    Raises:
        OSError: the kernel's table can't be read.
    """
    with open(_TABLES[socket.AddressFamily(family)]) as table:
        return any(
            port == used and inode not in own and overlap(host, address)
            for address, used, inode in listening(table)
        )
