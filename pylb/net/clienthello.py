"""What a TLS client asks for, read from its first message without answering it.

Pure. RFC 8446 §4.1.2 (ClientHello), §5.1 (records), RFC 6066 §3 (server_name) and RFC 7301 §3.1 (ALPN).
"""

from __future__ import annotations

from dataclasses import dataclass

_LIMIT = 65536
"""Bytes of a ClientHello that are waited for."""


class NotTls(Exception):
    """The bytes are no TLS ClientHello."""


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What the first message says."""

    name: str = ""
    """The server name in lower case; empty if the client gives none."""
    alpn: tuple[bytes, ...] = ()
    """The protocols that it offers, the preferred one first."""


def client_hello(data: bytes) -> ClientHello | None:
    """The message at the beginning of a connection; None if more bytes are needed.

    Raises:
        NotTls: this is no (or a broken) ClientHello.
    """
    hello = b""
    position = 0
    while True:
        # The handshake message may be spread over several records.
        if len(data) - position < 5:
            _check_prefix(data, position)
            return None
        if data[position] != 22 or data[position + 1] != 3:
            raise NotTls
        length = int.from_bytes(data[position + 3 : position + 5], "big")
        if not 0 < length <= 16384 + 256:
            raise NotTls
        if len(data) - position - 5 < length:
            _check_prefix(data, position)
            return None
        hello += data[position + 5 : position + 5 + length]
        position += 5 + length
        if hello[0] != 1:
            raise NotTls
        if len(hello) >= 4:
            wanted = 4 + int.from_bytes(hello[1:4], "big")
            if wanted > _LIMIT:
                raise NotTls
            if len(hello) >= wanted:
                return _message(hello[4:wanted])


def _check_prefix(data: bytes, position: int) -> None:
    """Raise NotTls where no further bytes can make a ClientHello of these."""
    if len(data) > position and data[position] != 22:
        raise NotTls
    if len(data) > _LIMIT:
        raise NotTls


def _message(body: bytes) -> ClientHello:
    name = ""
    alpn: tuple[bytes, ...] = ()
    try:
        position = 34  # version and random
        position += 1 + body[position]  # session id
        position += 2 + int.from_bytes(body[position : position + 2], "big")  # cipher suites
        position += 1 + body[position]  # compression methods
        end = position + 2 + int.from_bytes(body[position : position + 2], "big")
        position += 2
        if end > len(body):
            raise NotTls
        seen: set[int] = set()
        while position + 4 <= end:
            kind = int.from_bytes(body[position : position + 2], "big")
            length = int.from_bytes(body[position + 2 : position + 4], "big")
            value = body[position + 4 : position + 4 + length]
            position += 4 + length
            if kind in seen:  # the server might go by the other one (RFC 8446 §4.2 forbids it)
                raise NotTls
            seen.add(kind)
            if kind == 0:
                name = _name(value)
            elif kind == 16:
                alpn = _protocols(value)
    except (IndexError, UnicodeDecodeError):
        raise NotTls from None
    return ClientHello(name, alpn)


def _name(value: bytes) -> str:
    length = int.from_bytes(value[3:5], "big")
    if len(value) < 5 or value[2] != 0 or len(value) < 5 + length:
        raise NotTls
    return value[5 : 5 + length].decode("ascii").lower().rstrip(".")


def _protocols(value: bytes) -> tuple[bytes, ...]:
    if len(value) < 2 or len(value) != 2 + int.from_bytes(value[:2], "big"):
        raise NotTls
    found = []
    position = 2
    while position < len(value):
        length = value[position]
        if not 0 < length < len(value) - position:
            raise NotTls
        found.append(value[position + 1 : position + 1 + length])
        position += 1 + length
    return tuple(found)
