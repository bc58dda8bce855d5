"""Both ends of a connection whose streams note what they are told."""

from __future__ import annotations

from typing import Any

from pylb.http2 import encode, frames
from pylb.http2.codes import Code, Setting
from pylb.http2.connection import Connection
from pylb.http2.decode import Section
from pylb.http2.stream import Stream

Header = tuple[bytes, bytes]
GET: list[Header] = [(b":method", b"GET"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/")]
POST: list[Header] = [(b":method", b"POST"), *GET[1:]]


def pairs(section: Section) -> list[Header] | None:
    """The fields of a section."""
    fields = section.fields
    return None if fields is None else [(name, value) for _, name, value, _, _ in fields]


class Noting(Stream):
    """A stream that notes what it is told, in its connection."""

    __slots__ = ("end",)

    def __init__(self, end: End) -> None:
        self.end = end
        super().__init__(end)

    def note(self, *what: Any) -> None:
        """Note."""
        self.end.notes.append((self.number, *what))

    def section(self, section: Section, ended: bool) -> None:
        self.peer_ended = ended
        self.note("section", pairs(section), ended)
        if ended:
            self.end_came()

    def message(self, section: Section, payload: bytes, ended: bool) -> bool:
        self.section(section, False)
        self.data(payload)
        if ended:
            self.peer_ended = True
            self.end_came()
        return True

    def data(self, payload: bytes) -> None:
        self.note("data", payload)

    def end_came(self) -> None:
        self.note("end")
        if self.ended:
            self.over()

    def was_reset(self, code: int) -> None:
        self.note("reset", code)
        self.over()

    def broken(self, code: Code, why: str) -> None:
        self.note("broken", code)
        self.cancel(code)

    def sent_end(self) -> None:
        if self.peer_ended:
            self.over()

    def level(self) -> None:
        """Of no interest."""


class End(Connection):
    """One end; ``clock`` is its time."""

    def __init__(self, client: bool, header_bytes: int = 20000, **how: Any) -> None:
        self.notes: list[tuple[Any, ...]] = []
        self.clock = 1.0
        self.errors: list[Exception] = []
        settings = {} if client else {Setting.MAX_CONCURRENT_STREAMS: 100}
        super().__init__(client, header_bytes, settings, **{"window": 1 << 20, **how})

    def now(self) -> float:
        return self.clock

    def soon(self) -> None:
        """Whoever tests takes what is there."""

    def flush(self) -> None:
        """Likewise."""

    def opened(self, number: int, section: Section, ended: bool, body: bytes = b"") -> None:
        stream = self.streams[number] = Noting(self)
        stream.begin(number)
        stream.peer_ended = ended
        stream.note("section", pairs(section), ended)
        if body:
            stream.data(body)
            stream.peer_ended = True
            stream.end_came()

    def went_away(self, last: int, code: int) -> None:
        self.notes.append((0, "goaway", last, code))

    def failed(self, number: int, error: Exception) -> None:
        raise error

    def take(self) -> bytes:
        """What is to be written."""
        out = b"".join(self.out)
        self.out.clear()
        return out

    def sent(self) -> list[tuple[int, int, int, bytes]]:
        """The same as frames: kind, flags, stream, payload."""
        data = self.take()
        found = []
        at = len(frames.PREFACE) if data.startswith(frames.PREFACE) else 0
        while at < len(data):
            high, low, kind, flags, number = frames.HEADER.unpack_from(data, at)
            end = at + 9 + (high << 16 | low)
            found.append((kind, flags, number, data[at + 9 : end]))
            at = end
        return found

    def ask(self, fields: list[Header] = GET, ended: bool = True) -> Noting:
        """Open a stream."""
        stream = Noting(self)
        stream.begin(self.next)
        self.streams[self.next] = stream
        self.next += 2
        stream.send_head(block(fields), ended)
        return stream


def block(fields: list[Header]) -> bytes:
    """A header block."""
    return b"".join([encode.field(name, value) for name, value in fields])


def frame(kind: int, payload: bytes = b"", flags: int = 0, number: int = 0) -> bytes:
    """A frame of any kind."""
    size = len(payload)
    return frames.HEADER.pack(size >> 16, size & 0xFFFF, kind, flags, number) + payload


def server(**how: Any) -> End:
    """The end towards a client, who has said its preface and settings."""
    end = End(False, **how)
    end.receive(frames.PREFACE + frame(frames.SETTINGS))
    end.take()
    return end


def pair() -> tuple[End, End]:
    """A client and a server that know each other."""
    client, served = End(True), End(False)
    talk(client, served)
    return client, served


def talk(one: End, other: End) -> None:
    """Bytes go to and fro until both have said all."""
    while one.out or other.out:
        other.receive(one.take())
        one.receive(other.take())
