"""What every check is to the one who holds its connection: bytes to send, bytes that came, a verdict.

An exchange is made for one check and never used again. It opens nothing and has no clock: who holds the
connection bounds its time and the bytes that it is given (`LARGEST`). Pure.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

from pylb.excerpt import shown

LARGEST = 65536
"""Bytes that are read of an answer; what comes behind them is not looked at."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a check."""

    passed: bool
    reason: str
    """In words, as the log and status show it."""
    at_once: bool = False
    """Whether the server said it of itself, so that no further check is waited for."""
    weight: int | None = None
    """The share of its weight in percent that the server asks for; None: it says nothing of it."""


class Exchange:
    """One check by a protocol. Here: nothing is said, and it is enough that the connection stands."""

    ended_early = "the server closed the connection before it had answered"

    def __init__(self) -> None:
        self.verdict: Verdict | None = None
        """Set once it is known; nothing is sent or read any more, but for `bye`."""
        self.bye = b""
        """Sent before the connection is closed, so that the server sees an orderly end."""

    def begin(self) -> bytes:
        """The connection stands: what is sent first."""
        self.passed("it takes connections")
        return b""

    def came(self, data: bytes) -> bytes:
        """Bytes of the server: what is sent then."""
        return b""

    def ended(self) -> None:
        """The server sends nothing more, or `LARGEST` bytes have come."""
        self.failed(self.ended_early)

    def passed(self, reason: str) -> None:
        """The server works."""
        if self.verdict is None:
            self.verdict = Verdict(True, reason)

    def failed(self, reason: str) -> None:
        """The server doesn't."""
        if self.verdict is None:
            self.verdict = Verdict(False, reason)


class Buffered(Exchange, ABC):
    """An exchange that looks at all bytes that came and were not taken yet."""

    def __init__(self) -> None:
        super().__init__()
        self.data = b""

    def came(self, data: bytes) -> bytes:
        self.data += data
        return self.look()

    @abstractmethod
    def look(self) -> bytes:
        """Look at ``data``, and take from it what is understood: what is sent then."""

    def line(self) -> bytes | None:
        """Take a line, without its end; None where there is no whole one yet."""
        line, end, rest = self.data.partition(b"\n")
        if not end:
            return None
        self.data = rest
        return line.removesuffix(b"\r")


def quoted(data: bytes, most: int = 80) -> str:
    """What a server has sent, for a reason: shortened, and without control bytes."""
    return shown(data.decode("utf-8", "backslashreplace").strip(), most)
