"""Who may talk to the controller, and how that is known. Knows sockets, but neither leases nor messages."""

from __future__ import annotations

import socket
import ssl
import struct
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Access:
    """Who may talk to the controller.

    Over a unix socket the same user, root and ``uids``; over TCP whoever knows ``token`` or, with ``tls``
    made by `server_tls`, shows a certificate of the CA.
    """

    token: str = ""
    tls: ssl.SSLContext | None = None
    uids: frozenset[int] = frozenset()


def server_tls(cert: str, key: str, ca: str | None) -> ssl.SSLContext:
    """TLS for the listener; with ``ca`` peers must show a certificate that it signed."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(cert, key)
    if ca:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(ca)
    return context


def credentials(sock: socket.socket) -> tuple[int, int]:
    """Process and user at the other end of a unix socket (man 7 unix, SO_PEERCRED)."""
    size = struct.calcsize("3i")
    pid, uid, _ = struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
    return pid, uid


