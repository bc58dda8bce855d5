"""The PROXY protocol, versions 1 and 2 (HAProxy's ``doc/proxy-protocol.txt``). Pure: bytes in, bytes out."""

from __future__ import annotations

import ipaddress
import re
import struct
from dataclasses import dataclass

_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_V1 = re.compile(rb"PROXY (TCP4|TCP6) ([0-9a-fA-F.:]{2,39}) ([0-9a-fA-F.:]{2,39}) (\d{1,5}) (\d{1,5})\r\n")
_V1_MAX = 107  # bytes, §2.1
_V2_MAX = 16 + 4096  # bytes, pylb's own limit; addresses and some TLVs take a few hundred

TLV_ALPN = 0x01
TLV_AUTHORITY = 0x02
TLVS = {"alpn": TLV_ALPN, "authority": TLV_AUTHORITY}
"""Those that the configuration can name (§2.2)."""


class BadProxyHeader(Exception):
    """The connection does not begin with a valid header; it must be closed."""


@dataclass(frozen=True)
class ProxyHeader:
    """A header, understood. ``source`` is None when it tells no client (LOCAL, UNKNOWN, unix)."""

    length: int
    source: tuple[str, int] | None
    destination: tuple[str, int] | None
    tlvs: tuple[tuple[int, bytes], ...] = ()


def parse(data: bytes) -> ProxyHeader | None:
    """Read a header from the start of a connection; None when more bytes are needed.

    Raises:
        BadProxyHeader: there is none, or it is broken.
    """
    if data.startswith(_SIGNATURE):
        return _parse_v2(data)
    if data.startswith(b"PROXY"):
        return _parse_v1(data)
    if _SIGNATURE.startswith(data) or b"PROXY".startswith(data):
        return None
    raise BadProxyHeader("no PROXY header")


def _parse_v1(data: bytes) -> ProxyHeader | None:
    end = data.find(b"\r\n", 0, _V1_MAX)
    if end < 0:
        if len(data) >= _V1_MAX:
            raise BadProxyHeader("v1: line too long")
        return None
    line = data[: end + 2]
    if line.startswith(b"PROXY UNKNOWN") and line[13:14] in (b" ", b"\r"):
        return ProxyHeader(end + 2, None, None)
    match = _V1.fullmatch(line)
    if match is None:
        raise BadProxyHeader("v1: malformed")
    version = 4 if match[1] == b"TCP4" else 6
    return ProxyHeader(
        end + 2, _endpoint(match[2], match[4], version), _endpoint(match[3], match[5], version)
    )


def _endpoint(host: bytes, port: bytes, version: int) -> tuple[str, int]:
    try:
        address = ipaddress.ip_address(host.decode())
    except ValueError:
        raise BadProxyHeader("v1: bad address") from None
    if address.version != version or int(port) > 65535:
        raise BadProxyHeader("v1: bad address")
    return _written(address), int(port)


def _written(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """As the system writes it (RFC 5952 §5): a mapped one is ``::ffff:192.0.2.1``."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return str(address) if mapped is None else f"::ffff:{mapped}"


def _parse_v2(data: bytes) -> ProxyHeader | None:
    if len(data) < 16:
        return None
    kind, family, length = struct.unpack("!BBH", data[12:16])
    if kind not in (0x20, 0x21) or 16 + length > _V2_MAX:
        raise BadProxyHeader("v2: bad version, command or length")
    if len(data) < 16 + length:
        return None
    if kind == 0x20:  # LOCAL: the proxy's own connection; whatever else it says is of no importance (§2.2)
        return ProxyHeader(16 + length, None, None)
    body = data[16 : 16 + length]
    size = {1: 4, 2: 16}.get(family >> 4)
    if family & 15 > 2 or family >> 4 > 3:
        raise BadProxyHeader("v2: bad family")
    source = destination = None
    if size is not None:
        if len(body) < 2 * size + 4:
            raise BadProxyHeader("v2: too short for its addresses")
        ports = struct.unpack("!HH", body[2 * size : 2 * size + 4])
        source = _written(ipaddress.ip_address(body[:size])), ports[0]
        destination = _written(ipaddress.ip_address(body[size : 2 * size])), ports[1]
        body = body[2 * size + 4 :]
    else:
        body = body[216:] if family >> 4 == 3 else b""
    tlvs = []
    while body:
        if len(body) < 3 or len(body) < 3 + int.from_bytes(body[1:3], "big"):
            raise BadProxyHeader("v2: broken TLV")
        size = int.from_bytes(body[1:3], "big")
        tlvs.append((body[0], body[3 : 3 + size]))
        body = body[3 + size :]
    return ProxyHeader(16 + length, source, destination, tuple(tlvs))


def build_v1(source: tuple[str, int] | None, destination: tuple[str, int] | None) -> bytes:
    """A version 1 header; UNKNOWN when the addresses are not both IPv4 or both IPv6."""
    versions = _versions(source, destination)
    if versions is None or source is None or destination is None:
        return b"PROXY UNKNOWN\r\n"
    return f"PROXY TCP{versions} {source[0]} {destination[0]} {source[1]} {destination[1]}\r\n".encode()


def build_v2(
    source: tuple[str, int] | None,
    destination: tuple[str, int] | None,
    tlvs: tuple[tuple[int, bytes], ...] = (),
) -> bytes:
    """A version 2 header; LOCAL when there is nothing to tell."""
    version = _versions(source, destination)
    if version is None or source is None or destination is None:
        return _SIGNATURE + struct.pack("!BBH", 0x20, 0, 0)
    body = ipaddress.ip_address(source[0]).packed + ipaddress.ip_address(destination[0]).packed
    body += struct.pack("!HH", source[1], destination[1])
    for kind, value in tlvs:
        body += struct.pack("!BH", kind, len(value)) + value
    return _SIGNATURE + struct.pack("!BBH", 0x21, 0x11 if version == 4 else 0x21, len(body)) + body


def _versions(source: tuple[str, int] | None, destination: tuple[str, int] | None) -> int | None:
    if source is None or destination is None:
        return None
    try:
        versions = {ipaddress.ip_address(source[0]).version, ipaddress.ip_address(destination[0]).version}
    except ValueError:
        return None
    return versions.pop() if len(versions) == 1 else None
