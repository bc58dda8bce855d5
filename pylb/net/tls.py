"""What is known of a TLS connection after its handshake, for the workers.

The contexts are made in `pylb.config.tls`; nothing is known of the configuration here.
"""

from __future__ import annotations

import ssl
from typing import Any


def asked_name(connection: ssl.SSLObject | None) -> str:
    """The server name that the client gave in its handshake; empty without one."""
    name: str = getattr(connection, "asked_name", "")
    return name


def subject(connection: ssl.SSLObject | None) -> bytes:
    """The subject of a client's verified certificate, ``CN=x,O=y``, or nothing."""
    certificate = connection.getpeercert() if connection is not None else None
    if not certificate:
        return b""
    short = {"commonName": "CN", "organizationName": "O", "organizationalUnitName": "OU", "countryName": "C"}
    parts = []
    groups: Any = certificate.get("subject", ())
    for group in groups:
        for name, value in group:
            # Whoever issued the certificate must not be able to write further header fields.
            clean = "".join(c if c.isprintable() and c not in ",\\" else f"\\{ord(c):x}" for c in str(value))
            parts.append(f"{short.get(str(name), str(name))}={clean}")
    return ",".join(parts).encode("ascii", "backslashreplace")
