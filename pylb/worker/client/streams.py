"""What a stream of HTTP/2 asks of the connection towards its client.

Floor: client side, below the streams.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from pylb.http2.stream import Wire
from pylb.worker.core import Core
from pylb.worker.facts import Client
from pylb.worker.frontend import Bind

SPARE = 100
"""Streams that a connection keeps to use them again; a quarter of it while none is open."""


class Streams(Wire):
    """A connection, as its streams know it."""

    core: Core
    bind: Bind
    facts: Client
    streams: dict[int, Any]
    spare: list[Any]
    """Streams that are over and serve again."""

    @property
    @abstractmethod
    def unsent(self) -> int:
        """Bytes that were written and that the client has not taken yet."""

    @abstractmethod
    def now(self) -> float:
        """The time in seconds."""

    @abstractmethod
    def answered(self, stream: Any) -> None:
        """A stream is over, in the usual way; it serves again."""
