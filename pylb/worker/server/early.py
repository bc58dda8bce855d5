"""What a server has said before its connection broke, as 413 to a request that it doesn't want the rest of.

Writing the rest fails then, and the event loop doesn't read any more; but the kernel keeps what has come.

Floor: server side, below the codecs. Knows transports, and neither protocols nor exchanges.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator

_PIECE = 65536


def left_behind(transport: asyncio.Transport) -> Iterator[bytes]:
    """What the kernel holds of a connection that has just been lost, in pieces up to the size of its buffer.

    Nothing with TLS, whose records only the event loop can read.
    """
    sock = transport.get_extra_info("socket")
    if sock is None or transport.get_extra_info("ssl_object") is not None:
        return
    with contextlib.suppress(OSError):
        while data := os.read(sock.fileno(), _PIECE):
            yield data
