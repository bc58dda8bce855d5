"""The part of a connection that is no message's: its windows, its settings, and frames like PING and GOAWAY.

Floor: within `pylb.http2`, above streams, below the connection that reads frames.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import deque
from collections.abc import Callable
from typing import Any

from pylb.http2 import frames
from pylb.http2.codes import Code, Fault, Setting
from pylb.http2.decode import Decoder, Section
from pylb.http2.encode import EMPTY_TABLE
from pylb.http2.flood import Patience
from pylb.http2.frames import ACK, FRAME_BYTES, MOST
from pylb.http2.stream import WINDOW, Stream, Wire

BURST = 128 * 1024
"""Bytes that are written at once before it is looked whether the peer takes them."""
_REMEMBERED = 64  # streams that are over and whose number is known


class Control(Wire):
    """The protocol's state of one connection.

    Args:
        client: pylb opens the streams.
        header_bytes: the most of a header section (`Decoder.most`).
        streams: the most that the peer may have open at a time; where it is the client.
        settings: what is said to the peer at the beginning.
        window: up to which the connection's window grows.
        held: bytes that may have come without having been taken; above it the peer may send nothing more.
    """

    def __init__(
        self,
        client: bool,
        header_bytes: int,
        settings: dict[Setting, int],
        window: int,
        held: float = math.inf,
    ) -> None:
        self.out = []
        self.streams: dict[int, Any] = {}
        """Those that are open, by number."""
        self.decoder = Decoder(header_bytes)
        self.patience = Patience()
        self._client = client
        self._concurrent = settings.get(Setting.MAX_CONCURRENT_STREAMS, 0)
        self._met = False  # the peer's first SETTINGS have come
        self.over = False
        """Whether nothing more is to be read."""
        # Streams.
        self.last = 0
        """The highest number of a stream that the peer has opened."""
        self.next = 1
        """The number of the next stream that pylb opens."""
        self._closed: deque[int] = deque(maxlen=_REMEMBERED)
        self._reset_by_peer: deque[int] = deque(maxlen=_REMEMBERED)
        self._given_up: dict[int, None] = {}  # which pylb has reset, and of which something may still come
        # What is sent.
        self.window = WINDOW
        self.first_window = WINDOW
        self.write_paused = False
        self.ready = deque()
        self.queued = 0
        self.block_prefix = b""
        self.peer_streams = MOST
        """The most streams that the peer takes at a time."""
        self.peer_connects = False
        """Whether it knows the extended CONNECT (RFC 8441)."""
        # What comes.
        self._allowed = self._limit = WINDOW
        self._most_window = window
        self._owed = 0
        self._deferred = 0  # bytes that aren't given back since too many are held
        self.held = 0
        self._most_held = held
        if client:
            self.out.append(frames.PREFACE)
        self.out.append(frames.settings([(int(name), value) for name, value in settings.items()]))

    # What the codec is told, and does

    @abstractmethod
    def now(self) -> float:
        """The time in seconds."""

    @abstractmethod
    def flush(self) -> None:
        """Write what is in ``out``."""

    @abstractmethod
    def opened(self, number: int, section: Section, ended: bool, body: bytes = b"") -> None:
        """The peer opens a stream; ``body``: with its whole body, and END_STREAM behind it."""

    @abstractmethod
    def went_away(self, last: int, code: int) -> None:
        """The peer opens, or takes, no more streams; it has looked at none above ``last``."""

    @abstractmethod
    def failed(self, number: int, error: Exception) -> None:
        """An error of pylb's own has happened in what a frame of a stream (or of none: 0) has led to."""

    def settings_came(self) -> None:
        """The peer's settings have changed."""

    def pong(self, payload: bytes) -> None:
        """A PING is answered."""

    # Streams that are over, or never were

    def _is_idle(self, number: int) -> bool:
        """Whether a stream has never been opened (§5.1)."""
        if not number:
            return True
        if number & 1:
            return number >= self.next if self._client else number > self.last
        return True  # neither side opens those: pylb pushes nothing, and takes no push

    def _fails(self, stream: Stream, code: Code, why: str) -> None:
        """The peer has broken a rule of a stream; too many of those end the connection."""
        stream.broken(code, why)
        self.patience.reset(self.now())

    def refuse(self, number: int) -> None:
        """Say that nothing is done with a stream that the peer has opened."""
        self.out.append(frames.reset(number, Code.REFUSED_STREAM))
        self._given_up_too(number)
        self.soon()

    def forget(self, stream: Stream, reset: bool) -> None:
        number = stream.number
        if self.streams.get(number) is stream:
            del self.streams[number]
            if reset:
                self._given_up_too(number)
            else:
                self._closed.append(number)
        stream.waiting = False

    def _given_up_too(self, number: int) -> None:
        known = self._given_up
        known[number] = None
        if len(known) > 4 * _REMEMBERED:
            del known[next(iter(known))]

    # The window of what comes

    def _came(self, length: int) -> None:
        """Bytes of DATA have come, padding included, of whatever stream."""
        self._allowed -= length
        if self._allowed < 0:
            raise Fault(Code.FLOW_CONTROL_ERROR, "more DATA than the connection's window")
        if self.held > self._most_held:
            self._deferred += length
        else:
            self._taken(length)

    def _taken(self, length: int) -> None:
        self._owed += length
        if self._owed * 2 < self._limit:
            return
        more = self._owed
        if self._limit < self._most_window:
            more += self._limit
            self._limit *= 2
        self._owed = 0
        self._allowed += more
        self.out.append(frames.window_update(0, more))
        self.soon()

    def let_go(self, length: int) -> None:
        self.held -= length
        if self._deferred and self.held <= self._most_held:
            deferred, self._deferred = self._deferred, 0
            self._taken(deferred)

    # What is sent

    def pump(self) -> None:
        ready = self.ready
        burst = 0
        while ready and self.window > 0 and not self.write_paused:
            stream = ready.popleft()
            if not stream.waiting:
                continue  # it ended meanwhile
            before = self.window
            if stream.turn():
                ready.append(stream)
            else:
                stream.waiting = False
            burst += before - self.window
            if burst >= BURST:
                burst = 0
                self.flush()
        if self.out:
            self.soon()

    # Other frames

    def _priority(self, payload: bytes, flags: int, number: int) -> None:
        if not number:
            raise Fault(Code.PROTOCOL_ERROR, "PRIORITY of no stream")
        self.patience.noise(self.now())
        if len(payload) != 5:
            code = Code.FRAME_SIZE_ERROR
        elif int.from_bytes(payload[:4], "big") & MOST == number:
            code = Code.PROTOCOL_ERROR
        else:
            return
        stream = self.streams.get(number)
        if stream is not None:
            self._fails(stream, code, "a wrong PRIORITY")
        else:
            raise Fault(code, "a wrong PRIORITY")

    def _reset(self, payload: bytes, flags: int, number: int) -> None:
        if len(payload) != 4:
            raise Fault(Code.FRAME_SIZE_ERROR, "RST_STREAM of another length")
        if self._is_idle(number):
            raise Fault(Code.PROTOCOL_ERROR, "RST_STREAM of a stream that isn't open")
        stream: Stream | None = self.streams.get(number)
        if stream is None:
            self.patience.noise(self.now())
            return
        self._reset_by_peer.append(number)
        stream.was_reset(int.from_bytes(payload, "big"))

    def _settings(self, payload: bytes, flags: int, number: int) -> None:
        if number:
            raise Fault(Code.PROTOCOL_ERROR, "SETTINGS of a stream")
        if len(payload) % 6 or (flags & ACK and payload):
            raise Fault(Code.FRAME_SIZE_ERROR, "SETTINGS of another length")
        if self._met:
            self.patience.noise(self.now())
        if flags & ACK:
            if not self._met:
                raise Fault(Code.PROTOCOL_ERROR, "SETTINGS must come first")
            return
        self._met = True
        values = frames.read_settings(payload)
        if len(values) > 32:
            self.patience.noise(self.now(), len(values) // 32)
        # First: what they let go may be more than the peer takes before it knows that they are applied.
        self.out.append(frames.SETTINGS_ACK)
        self.soon()
        for name, value in values:
            if name == Setting.INITIAL_WINDOW_SIZE:
                self._first_window(value)
            elif name == Setting.HEADER_TABLE_SIZE:
                if value < 4096 and not self._shrunk:
                    self._shrunk = True
                    self.block_prefix = EMPTY_TABLE
            elif name == Setting.MAX_FRAME_SIZE:
                if not FRAME_BYTES <= value < 1 << 24:
                    raise Fault(Code.PROTOCOL_ERROR, "MAX_FRAME_SIZE")
            elif name == Setting.ENABLE_PUSH:
                if value > 1 or (value and self._client):
                    raise Fault(Code.PROTOCOL_ERROR, "ENABLE_PUSH")
            elif name == Setting.MAX_CONCURRENT_STREAMS:
                self.peer_streams = value
            elif name == Setting.ENABLE_CONNECT_PROTOCOL:
                if value > 1:
                    raise Fault(Code.PROTOCOL_ERROR, "ENABLE_CONNECT_PROTOCOL")
                self.peer_connects = bool(value)
        self.settings_came()

    _shrunk = False  # that pylb uses no table has been said, or will be with the next block

    def _first_window(self, value: int) -> None:
        """§6.9.2: the windows of open streams change by as much, and may become negative."""
        if value > MOST:
            raise Fault(Code.FLOW_CONTROL_ERROR, "INITIAL_WINDOW_SIZE")
        change = value - self.first_window
        self.first_window = value
        for stream in list(self.streams.values()):
            stream.window += change
            if stream.window > MOST:
                raise Fault(Code.FLOW_CONTROL_ERROR, "a window that is too large")
        if change > 0:
            for stream in list(self.streams.values()):
                self._let_send(stream)

    def _let_send(self, stream: Stream) -> None:
        """Have a stream send; an error there costs that stream alone."""
        try:
            stream.can_send()
        except Exception as error:
            self.failed(stream.number, error)

    def _push(self, payload: bytes, flags: int, number: int) -> None:
        raise Fault(Code.PROTOCOL_ERROR, "PUSH_PROMISE")

    def _ping(self, payload: bytes, flags: int, number: int) -> None:
        if number:
            raise Fault(Code.PROTOCOL_ERROR, "PING of a stream")
        if len(payload) != 8:
            raise Fault(Code.FRAME_SIZE_ERROR, "PING of another length")
        if flags & ACK:
            self.patience.noise(self.now())
            self.pong(payload)
        else:
            self.patience.answer(self.now())
            self.out.append(frames.ping(payload, True))
            self.soon()

    def _goaway(self, payload: bytes, flags: int, number: int) -> None:
        if number:
            raise Fault(Code.PROTOCOL_ERROR, "GOAWAY of a stream")
        if len(payload) < 8:
            raise Fault(Code.FRAME_SIZE_ERROR, "GOAWAY of another length")
        self.patience.noise(self.now())
        self.went_away(int.from_bytes(payload[:4], "big") & MOST, int.from_bytes(payload[4:8], "big"))

    def _window_update(self, payload: bytes, flags: int, number: int) -> None:
        if len(payload) != 4:
            raise Fault(Code.FRAME_SIZE_ERROR, "WINDOW_UPDATE of another length")
        more = int.from_bytes(payload, "big") & MOST
        self.patience.answer(self.now())
        if not number:
            self.window += more
            if not more or self.window > MOST:
                code = Code.FLOW_CONTROL_ERROR if more else Code.PROTOCOL_ERROR
                raise Fault(code, "a wrong WINDOW_UPDATE")
            self.pump()
            return
        stream: Stream | None = self.streams.get(number)
        if stream is None:
            if self._is_idle(number):
                raise Fault(Code.PROTOCOL_ERROR, "WINDOW_UPDATE of a stream that isn't open")
            return
        stream.window += more
        if not more:
            self._fails(stream, Code.PROTOCOL_ERROR, "WINDOW_UPDATE with nothing")
        elif stream.window > MOST:
            self._fails(stream, Code.FLOW_CONTROL_ERROR, "a window that is too large")
        else:
            stream.can_send()

    def _stray(self, payload: bytes, flags: int, number: int) -> None:
        raise Fault(Code.PROTOCOL_ERROR, "CONTINUATION without HEADERS")


OTHERS: dict[int, Callable[[Control, bytes, int, int], None]] = {
    frames.PRIORITY: Control._priority,
    frames.RST_STREAM: Control._reset,
    frames.SETTINGS: Control._settings,
    frames.PUSH_PROMISE: Control._push,
    frames.PING: Control._ping,
    frames.GOAWAY: Control._goaway,
    frames.WINDOW_UPDATE: Control._window_update,
    frames.CONTINUATION: Control._stray,
}
"""What each other kind of frame does, with its payload, its flags and its stream."""
