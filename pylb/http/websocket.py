"""WebSocket frames (RFC 6455 §5.2), as far as a relay needs them: where they end, and the Close frame.

Pure: bytes are passed in as they come, split anywhere.
"""

from __future__ import annotations

import base64
import hashlib

GOING_AWAY = 1001
"""RFC 6455 §7.4.1: an endpoint goes away, such as a server that goes down."""

_CLOSE = 8
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


def accept(key: bytes) -> bytes:
    """What a server answers to a client's ``Sec-WebSocket-Key`` (RFC 6455 §4.2.2)."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


class Frames:
    """Follows the frames of one direction."""

    __slots__ = ("_left", "_head", "closed")

    def __init__(self, state: tuple[int, bytes, bool] = (0, b"", False)) -> None:
        """``state`` is that of another one, to go on from there."""
        # Bytes of the present frame that are to come; first bytes of a frame whose head isn't whole yet.
        self._left, self._head, self.closed = state
        """``closed``: a Close frame has begun, behind which no other may follow (§5.5.1)."""

    @property
    def state(self) -> tuple[int, bytes, bool]:
        """What must be known of it to go on elsewhere."""
        return self._left, self._head, self.closed

    @property
    def between(self) -> bool:
        """Whether all that came are whole frames."""
        return not self._left and not self._head

    def feed(self, data: bytes) -> None:
        """Further bytes have come."""
        start = self._left
        size = len(data)
        if start > size:
            self._left = start - size
            return
        if self._head:
            data = self._head + data
            size = len(data)
            self._head = b""
        while size - start >= 2:
            second = data[start + 1]
            length = second & 0x7F
            payload = start + (6 if second & 0x80 else 2)
            if length >= 126:
                extended = 2 if length == 126 else 8
                payload += extended
                length = int.from_bytes(data[start + 2 : start + 2 + extended], "big")
            if payload > size:
                break
            if data[start] & 0x0F == _CLOSE:
                self.closed = True
            start = payload + length
        if start < size:
            self._head = data[start:]
            start = size
        self._left = start - size


def close_frame(code: int, mask: bytes = b"") -> bytes:
    """A Close frame; with four random bytes as ``mask`` for a server (§5.1), without for a client."""
    payload = code.to_bytes(2, "big")
    if not mask:
        return bytes((0x80 | _CLOSE, len(payload))) + payload
    masked = bytes(byte ^ key for byte, key in zip(payload, mask, strict=False))
    return bytes((0x80 | _CLOSE, 0x80 | len(payload))) + mask + masked
