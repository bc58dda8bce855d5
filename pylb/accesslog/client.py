"""Who asks, behind proxies that are trusted (pure).

Floor: pure.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Sequence

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_VALUE = re.compile(rb"\nx-forwarded-for:([^\r]*)", re.IGNORECASE)
_PORT = re.compile(r"\[(.+)\](?::[0-9]+)?|([0-9.]+):[0-9]+")


def client_behind(peer: str, raw: bytes, trusted: Sequence[Network]) -> str:
    """The rightmost address that isn't a trusted proxy's, of those in ``X-Forwarded-For`` and the peer's.

    What stands left of it is whatever that client has written. Where all are trusted, the leftmost one.

    Args:
        peer: the address of who is connected; a trusted one.
        raw: the head of its request.
    """
    client = peer
    for element in reversed(b",".join(_VALUE.findall(raw)).decode("latin-1").split(",")):
        text = element.strip(" \t")
        port = _PORT.fullmatch(text)
        if port is not None:
            text = port[1] or port[2]
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return client  # whoever has added that is the last who is known
        client = text
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        if not any(address in network for network in trusted):
            return client
    return client
