"""Checks by protocols of lines: Redis and SMTP. Pure.

Sources: Redis "RESP protocol specification"; RFC 5321 §3.1, §4.2.
"""

from __future__ import annotations

from pylb.health.exchange import Buffered, quoted

_LONGEST = 4096  # bytes of an answer


class Redis(Buffered):
    """``PING``. A server that asks for a password does serve; one that loads its data doesn't yet."""

    def begin(self) -> bytes:
        return b"*1\r\n$4\r\nPING\r\n"

    def look(self) -> bytes:
        line = self.line()
        if line is None:
            if len(self.data) > _LONGEST:
                self.failed(f"what it answers is no Redis: {quoted(self.data)}")
        elif line == b"+PONG":
            self.passed("it answers PONG")
        elif line.startswith(b"-NOAUTH"):
            self.passed("it asks for a password")
        elif line.startswith(b"-"):
            self.failed(f"it says {quoted(line[1:])}")
        else:
            self.failed(f"what it answers is no Redis: {quoted(line)}")
        return b""


class Smtp(Buffered):
    """Waits for the greeting, says ``EHLO``, and goodbye."""

    ended_early = "the server closed the connection before it had greeted"

    def __init__(self, name: str = "localhost") -> None:
        super().__init__()
        self._name = name
        self._greeted = False

    def begin(self) -> bytes:
        return b""

    def look(self) -> bytes:
        out = b""
        while self.verdict is None:
            line = self.line()
            if line is None:
                if len(self.data) > _LONGEST:
                    self.failed(f"what it answers is no SMTP: {quoted(self.data)}")
                break
            if not line[:3].isdigit() or line[3:4] not in (b"", b" ", b"-"):
                self.failed(f"what it answers is no SMTP: {quoted(line)}")
            elif line[3:4] == b"-":
                continue  # further lines follow
            elif line[:1] != b"2":
                self.bye = b"QUIT\r\n"
                self.failed(f"it says {quoted(line)}")
            elif self._greeted:
                self.bye = b"QUIT\r\n"
                self.passed(f"it says {quoted(line)}")
            else:
                self._greeted = True
                out += f"EHLO {self._name}\r\n".encode()
        return out
