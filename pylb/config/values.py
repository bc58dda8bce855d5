"""The types of the configuration's values: how they are written, what is refused, what they become.

Pure, and below all sections. Durations become seconds (float), sizes bytes (int). A value that can't be used
raises ValueError with a sentence that says what is expected; pydantic adds the key.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field

from controller.address import parse as parse_controller
from pylb.config.address import (
    Address,
    each_port,
    is_host_name,
    parse_address,
    parse_server,
    refuse_in_path,
)
from pylb.config.declaration import Kind

_DURATION = re.compile(r"^(\d{1,15}(?:\.\d{1,15})?)(ms|s|m|h)$", re.ASCII)
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
_SIZE = re.compile(r"^(\d{1,15})(B|KiB|MiB|GiB)$", re.ASCII)
_BYTES = {"B": 1, "KiB": 1024, "MiB": 1024**2, "GiB": 1024**3}

# Bounds that no sensible value reaches, and small enough for the sums and products that are made of values.
_LONGEST = 1e9  # seconds: 31 years
_LARGEST_HEAD = 1 << 30  # bytes; HTTP/2 announces the size of a header list as a 32-bit number
_LARGEST_BODY = 1 << 60  # bytes


def _duration(value: Any) -> Any:
    if isinstance(value, str):
        match = _DURATION.match(value.strip())
        if match is None:
            raise ValueError('expected seconds or a duration such as "500ms", "30s", "2m" or "1h"')
        return float(match[1]) * _SECONDS[match[2]]
    return value


def _size(value: Any) -> Any:
    if isinstance(value, str):
        match = _SIZE.match(value.strip())
        if match is None:
            raise ValueError('expected bytes or a size such as "16KiB" or "1MiB"')
        return int(match[1]) * _BYTES[match[2]]
    return value


def _spelled_duration(seconds: float) -> str:
    return f"{seconds:g}"


def _spelled_size(size: int) -> str:
    for unit in ("GiB", "MiB", "KiB"):
        if size and size % _BYTES[unit] == 0:
            return f'"{size // _BYTES[unit]}{unit}"'
    return str(size)


def _address(value: Any) -> Any:
    return parse_address(value) if isinstance(value, str) else value


def _server(value: Any) -> Any:
    return parse_server(value) if isinstance(value, str) else value


def _can_be_bound(address: Address) -> Address:
    # pylb's IPv6 sockets take IPv6 only (IPV6_V6ONLY, man 7 ipv6), so that *:80 and [::]:80 can be two binds.
    try:
        mapped = ipaddress.IPv6Address(address.host).ipv4_mapped
    except ValueError:
        return address
    if mapped is not None:
        raise ValueError(f"{address} is an IPv4 address; write {mapped}:{address.port}")
    return address


def _can_be_connected_to(address: Address) -> Address:
    if not address.is_unix and address.port == 0:
        raise ValueError("a server's port is a number from 1 to 65535")
    return address


def _controller_address(value: str) -> str:
    refuse_in_path(value)
    parse_controller(value)
    return value


def _path(value: str) -> str:
    if not value:
        raise ValueError("expected a path")
    refuse_in_path(value)
    return value


def _network(value: str) -> str:
    try:
        ipaddress.ip_network(value)
    except ValueError as error:
        raise ValueError(f"{error}; expected a network such as 10.0.0.0/8 or ::1") from None
    return value


def _host(value: str) -> str:
    if not is_host_name(value):
        try:
            ipaddress.ip_address(value)
        except ValueError:
            raise ValueError("expected a host name or an IP address") from None
    return value


_DURATIONS = Kind("duration", "durations", "DURATION", _spelled_duration)
_SIZES = Kind("size", "sizes", "SIZE", _spelled_size)
_ADDRESSES = Kind("address", "addresses", "ADDRESS", lambda address: f'"{address}"')

Seconds = Annotated[
    float, BeforeValidator(_duration), Field(gt=0, le=_LONGEST, allow_inf_nan=False), _DURATIONS
]
SecondsOrZero = Annotated[
    float, BeforeValidator(_duration), Field(ge=0, le=_LONGEST, allow_inf_nan=False), _DURATIONS
]
Size = Annotated[int, BeforeValidator(_size), Field(gt=0, le=_LARGEST_HEAD), _SIZES]
SizeOrZero = Annotated[int, BeforeValidator(_size), Field(ge=0, le=_LARGEST_BODY), _SIZES]
BindAddress = Annotated[Address, BeforeValidator(_address), AfterValidator(_can_be_bound), _ADDRESSES]
ServerAddress = Annotated[Address, BeforeValidator(_server), AfterValidator(_can_be_connected_to), _ADDRESSES]
ControllerAddress = Annotated[
    str, AfterValidator(_controller_address), Kind("controller's address", metavar="ADDRESS")
]
FilePath = Annotated[str, AfterValidator(_path), Kind("path", "paths", "PATH")]
Network = Annotated[str, AfterValidator(_network), Kind("network", "networks", "NETWORK")]
HostName = Annotated[str, AfterValidator(_host), Kind("host name or IP address", metavar="HOST")]


def one_or_more(value: Any) -> Any:
    """A list as such, anything else as the only element of one."""
    return value if isinstance(value, list | tuple) else [value]


ONE_OR_MORE = BeforeValidator(one_or_more)
"""Of a list that may be written as its only element."""


def binds(value: Any) -> Any:
    """A list of addresses, of which one may be a range of ports, with an element for each."""
    found: list[Any] = []
    for one in one_or_more(value):
        found += each_port(one) if isinstance(one, str) else [one]
    return found


BINDS = BeforeValidator(binds)
"""Of a list of addresses that may be ranges, or written as its only element."""
