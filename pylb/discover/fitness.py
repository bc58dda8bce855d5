"""Which addresses of an answer may become servers. Above `found`.

Whoever can write an answer (DNS, labels, JSON) must not be able to send requests to what only this machine
reaches: its own services on loopback, and what listens on link-local addresses, such as the metadata of
clouds on 169.254.169.254. So these are refused unless the configuration file allows them.
"""

from __future__ import annotations

import ipaddress

from pylb.config.address import Address, loopback, parse_server


def address_of(host: str, port: int | None) -> str:
    """A host and a port as a server's address.

    Raises:
        ValueError: there is no port, or together they are no address.
    """
    if port is None:
        raise ValueError(f"{host!r:.80} has no port; set port")
    return checked(f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}")


def checked(text: str, port: int | None = None) -> str:
    """A server's address as it is written; where it has no port, with this one.

    Raises:
        ValueError: it is no TCP address, or there is no port.
    """
    address = parse_server(text)
    if address.is_unix:
        raise ValueError(f"{text!r:.80} is a path, and an answer may name none")
    if address.port < 0:
        if port is None:
            raise ValueError(f"{text!r:.80} has no port; set port")
        address = Address(address.host, port)
    if not 0 < address.port <= 65535:
        raise ValueError(f"{text!r:.80}: a server's port is a number from 1 to 65535")
    if len(address.host) > 253:
        raise ValueError(f"{text!r:.80} is longer than a name can be")
    return str(_plain(address))


def _plain(address: Address) -> Address:
    """One spelling for each IP address, since an address is a server's name."""
    try:
        return Address(str(ipaddress.ip_address(address.host)), address.port)
    except ValueError:
        return Address(address.host.lower().rstrip("."), address.port)


def unfit(address: str, local: bool, names: bool) -> str:
    """Why an address can't be a server's; empty where it can.

    Args:
        address: as `checked` gives it.
        local: whether loopback and link-local addresses are allowed.
        names: whether a host name is, which the workers look up at each connection.
    """
    host = parse_server(address).host
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        if not names:
            return "it is a name, and only IP addresses are taken"
        lowered = host.lower()
        if not local and (loopback(Address(host, 1)) or lowered.endswith(".localhost")):
            return "it is this machine itself (allow_local)"
        return ""
    if isinstance(ip, ipaddress.IPv6Address):
        ip = ip.ipv4_mapped or ip
    if ip.is_unspecified or ip.is_multicast or ip in _NOWHERE:
        return "it is no address that a server can have"
    if local:
        return ""
    if ip.is_loopback:
        return "it is this machine itself (allow_local)"
    if ip.is_link_local:
        return "it is link-local (allow_local)"
    return ""


class _Nowhere:
    """0.0.0.0/8, "this network", which Linux connects to itself; and the broadcast address (RFC 6890)."""

    def __contains__(self, ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
        return ip.version == 4 and (ip.packed[0] == 0 or ip.packed == b"\xff\xff\xff\xff")


_NOWHERE = _Nowhere()
