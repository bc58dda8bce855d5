"""The server name that a TLS client asks for, read from its first message without answering it.

Pure. RFC 8446 §4.1.2 (ClientHello), §5.1 (records) and RFC 6066 §3 (server_name).
"""

from __future__ import annotations

_LIMIT = 65536
"""Bytes of a ClientHello that are waited for."""


class NotTls(Exception):
    """The bytes are no TLS ClientHello."""


def server_name(data: bytes) -> str | None:
    """The name in lower case, ``""`` if the client gives none, None if more bytes are needed.

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
                return _name(hello[4:wanted])


def _check_prefix(data: bytes, position: int) -> None:
    """Raise NotTls where no further bytes can make a ClientHello of these."""
    if len(data) > position and data[position] != 22:
        raise NotTls
    if len(data) > _LIMIT:
        raise NotTls


def _name(body: bytes) -> str:
    try:
        position = 34  # version and random
        position += 1 + body[position]  # session id
        position += 2 + int.from_bytes(body[position : position + 2], "big")  # cipher suites
        position += 1 + body[position]  # compression methods
        end = position + 2 + int.from_bytes(body[position : position + 2], "big")
        position += 2
        if end > len(body):
            raise NotTls
        while position + 4 <= end:
            kind = int.from_bytes(body[position : position + 2], "big")
            length = int.from_bytes(body[position + 2 : position + 4], "big")
            value = body[position + 4 : position + 4 + length]
            position += 4 + length
            if kind == 0:
                name_length = int.from_bytes(value[3:5], "big")
                if len(value) < 5 or value[2] != 0 or len(value) < 5 + name_length:
                    raise NotTls
                return value[5 : 5 + name_length].decode("ascii").lower().rstrip(".")
    except (IndexError, UnicodeDecodeError):
        raise NotTls from None
    return ""
