"""Checks of database servers: PostgreSQL and MySQL, by the first messages of their protocols. Pure.

Sources: PostgreSQL documentation §55.2 (message flow), §55.8 (error fields), appendix A (codes); MySQL
"Client/Server Protocol": handshake v10, HandshakeResponse41, ERR packet, COM_QUIT. No password is sent.
"""

from __future__ import annotations

import struct

from pylb.health.exchange import Buffered, quoted

_LONGEST = 16384  # bytes of a message


class PostgreSql(Buffered):
    """Asks to be let in as a user. A server that asks for a password, or refuses this user, does serve."""

    def __init__(self, user: str) -> None:
        super().__init__()
        self._user = user

    def begin(self) -> bytes:
        settings = b"user\0" + self._user.encode() + b"\0database\0postgres\0\0"
        return struct.pack("!LL", 8 + len(settings), 3 << 16) + settings

    def look(self) -> bytes:
        if len(self.data) < 5:
            return b""
        size = int.from_bytes(self.data[1:5], "big")
        kind = self.data[:1]
        if kind not in b"RENSKZ" or not 4 <= size <= _LONGEST:
            self.failed(f"what it answers is no PostgreSQL: {quoted(self.data)}")
        elif len(self.data) > size:
            payload, self.data = self.data[5 : 1 + size], self.data[1 + size :]
            self._take(kind, payload)
            if self.verdict is None:
                return self.look()
        return b""

    def _take(self, kind: bytes, payload: bytes) -> None:
        if kind == b"R" and payload != bytes(4):
            self.passed("it asks for a password")  # a Terminate in its place would be logged as an error
        elif kind == b"Z":  # ready for a query; until then it may find that it has too many connections
            self.bye = b"X\0\0\0\4"  # Terminate
            self.passed(f"it lets {self._user} in")
        elif kind == b"E":
            fields = {one[:1]: one[1:] for one in payload.split(b"\0") if one}
            code, says = fields.get(b"C", b""), quoted(fields.get(b"M", b""), 120)
            # Class 28 is about the user, 3D about the database: who finds that out is at work.
            if code[:2] in (b"28", b"3D"):
                self.passed(f"it answers, though it refuses: {says}")
            else:
                self.failed(f"it says {says} ({code.decode('ascii', 'replace')})")


_PROTOCOL_41, _SECURE_CONNECTION, _PLUGIN_AUTH = 0x200, 0x8000, 0x80000
_COM_QUIT = b"\1\0\0\0\1"


class MySql(Buffered):
    """Reads the greeting; with a user, which must have no password, logs in and says goodbye.

    Without a user the server counts an interrupted handshake (``max_connect_errors``, as HAProxy's manual
    warns under ``mysql-check``).
    """

    def __init__(self, user: str = "") -> None:
        super().__init__()
        self._user = user
        self._greeted = False

    def begin(self) -> bytes:
        return b""

    def look(self) -> bytes:
        if len(self.data) < 4 or self.verdict is not None:
            return b""
        size, sequence = int.from_bytes(self.data[:3], "little"), self.data[3]
        if not 0 < size <= _LONGEST:
            self.failed(f"what it answers is no MySQL: {quoted(self.data)}")
        elif len(self.data) >= 4 + size:
            packet, self.data = self.data[4 : 4 + size], self.data[4 + size :]
            return self._take(packet, sequence) + self.look()
        return b""

    def _take(self, packet: bytes, sequence: int) -> bytes:
        kind = packet[0]
        if kind == 0xFF:
            code = int.from_bytes(packet[1:3], "little")
            says = packet[9:] if packet[3:4] == b"#" else packet[3:]
            self.failed(f"it says {quoted(says, 120)} ({code})")
        elif not self._greeted:
            version, end, _ = packet[1:].partition(b"\0")
            if kind != 10 or not end:
                self.failed(f"what it answers is no MySQL: {quoted(packet)}")
            elif not self._user:
                self.passed(f"it is MySQL {quoted(version)}")
            else:
                self._greeted = True
                return self._login(sequence + 1)
        elif kind == 0xFE:  # asks for another method; without a password any is answered with nothing
            return struct.pack("<L", (sequence + 1 & 0xFF) << 24)
        elif kind == 0:
            self.bye = _COM_QUIT
            self.passed(f"it lets {self._user} in")
        else:
            self.failed(f"it doesn't let {self._user} in without a password")
        return b""

    def _login(self, sequence: int) -> bytes:
        able = _PROTOCOL_41 | _SECURE_CONNECTION | _PLUGIN_AUTH
        user = self._user.encode()
        packet = struct.pack("<LLB23x", able, _LONGEST, 33) + user + b"\0\0mysql_native_password\0"
        return struct.pack("<L", len(packet) | (sequence & 0xFF) << 24) + packet
