"""A stream's two directions: what waits for the peer's window, and what the peer may send.

A codec's stream inherits from `Stream`, and is told by it what has come. One object serves for one stream
after the other (`begin`).

Floor: within `pylb.http2` below the connection, which it knows as `Wire`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque

from pylb.http2 import frames
from pylb.http2.codes import Code
from pylb.http2.decode import Section
from pylb.http2.flood import ANSWERS, Patience
from pylb.http2.frames import FRAME_BYTES

WINDOW = 65535
"""Bytes that a peer may send ahead on a new stream or connection (RFC 9113 §6.9.2)."""
MOST_WINDOW = 256 * 1024
"""Up to which the window of a stream grows whose bytes are taken as fast as they come."""
TURN = 2 * frames.FRAME_BYTES
"""Bytes after which another stream has its turn."""
_SMALL = 2048  # bytes that are no burst, however many streams send them
_BOTH = frames.HEADER.pack


class Wire(ABC):
    """What a stream asks of its connection."""

    out: list[bytes | memoryview]
    """Frames to be written."""
    window: int
    """Bytes of DATA that the peer takes on the connection."""
    first_window: int
    """Likewise on a new stream."""
    write_paused: bool
    """Whether what was written is to be taken first."""
    ready: deque[Stream]
    """Streams that can send, in the order of their turns."""
    patience: Patience
    queued: int
    """Bytes that wait for windows, over all streams."""
    held: int
    """Bytes that have come and were not taken yet, over all streams."""
    block_prefix: bytes

    @abstractmethod
    def pump(self) -> None:
        """Give those that are ready their turns."""

    @abstractmethod
    def soon(self) -> None:
        """Write what there is at the end of this turn of the loop."""

    @abstractmethod
    def forget(self, stream: Stream, reset: bool) -> None:
        """A stream is over; ``reset``: by pylb, so that the peer may not know yet."""

    @abstractmethod
    def let_go(self, length: int) -> None:
        """So many of the bytes that were `held` are taken, or will never be."""


class Stream(ABC):
    """One stream, as the protocol has it."""

    __slots__ = (
        *("wire", "number"),
        # what is sent
        *("window", "queued", "_pieces", "_at", "waiting", "whole", "_trailers", "ended"),
        # what comes
        *("peer_ended", "allowed", "_limit", "_owed", "held", "paused", "_slow"),
    )

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self._pieces: deque[bytes] = deque()
        self.begin(0)

    def begin(self, number: int) -> None:
        """Be this stream from now on."""
        self.number = number
        self.window = self.wire.first_window
        self.queued = 0  # bytes in the pieces
        self._at = 0  # how much of the first one is sent
        self.waiting = False
        """Whether it is among those that are ready."""
        self.whole = False
        """Whether nothing more will be written."""
        self._trailers = b""
        self.ended = False
        """Whether END_STREAM is sent."""
        self.peer_ended = False
        """Whether it has come."""
        self.allowed = WINDOW
        """Bytes that the peer may still send."""
        self._limit = WINDOW
        self._owed = 0  # bytes that were taken and not given back yet
        self.held = 0  # bytes that have come while it was paused
        self.paused = False
        """Whether what comes is not to be given back."""
        self._slow = False  # it was, since its window has grown last

    # What the codec is told

    @abstractmethod
    def section(self, section: Section, ended: bool) -> None:
        """A further header section has come; ``ended``: with END_STREAM."""

    def message(self, section: Section, payload: bytes, ended: bool) -> bool:
        """The head of a response has come with a piece of its body, the last one if ``ended``.

        False, where that has to be told one by one: nothing was done then.
        """
        return False

    @abstractmethod
    def data(self, payload: bytes) -> None:
        """A piece of the body has come."""

    @abstractmethod
    def end_came(self) -> None:
        """The peer has sent END_STREAM."""

    @abstractmethod
    def was_reset(self, code: int) -> None:
        """The peer has given the stream up."""

    @abstractmethod
    def broken(self, code: Code, why: str) -> None:
        """The peer has broken a rule that is about this stream only (RFC 9113 §5.4.2)."""

    @abstractmethod
    def sent_end(self) -> None:
        """All was sent, END_STREAM included."""

    @abstractmethod
    def level(self) -> None:
        """More, or less, waits for the peer than before."""

    # What is sent

    def send_head(self, block: bytes, end: bool = False) -> None:
        """Send a header section; ``end``: there is nothing else."""
        wire = self.wire
        if wire.block_prefix:
            block, wire.block_prefix = wire.block_prefix + block, b""
        wire.out.append(frames.head(block, self.number, end))
        wire.soon()
        if end:
            self.whole = self.ended = True
            self.sent_end()

    def send_message(self, block: bytes, body: bytes, end: bool = True) -> None:
        """Send head and body, and the end; in one piece where all of it fits."""
        if self.sent_at_once(block, body, end):
            if end:
                self.whole = self.ended = True
                self.sent_end()
        elif body:
            self.send_head(block)
            self.write(body)
            if end:
                self.finish_sending()
        else:
            self.send_head(block, end)

    def sent_at_once(self, block: bytes, body: bytes, end: bool) -> bool:
        """Put head and body, if there is one, into what is written next; False where that may not be done."""
        wire = self.wire
        size = len(body)
        if (
            size > FRAME_BYTES
            or size > self.window
            or size > wire.window
            or wire.write_paused
            or wire.block_prefix
            or len(block) > FRAME_BYTES
        ):
            return False
        number = self.number
        if size:
            wire.out += (_BOTH(0, len(block), 1, 4, number), block, _BOTH(0, size, 0, end, number), body)
            self.window -= size
            wire.window -= size
            wire.patience.answers += ANSWERS + (size >> 10)
        else:
            wire.out += (_BOTH(0, len(block), 1, 5 if end else 4, number), block)
        wire.soon()
        return True

    def write(self, data: bytes) -> None:
        """Send a piece of the body when the peer takes it."""
        size = len(data)
        wire = self.wire
        if (
            0 < size <= _SMALL
            and not (self._pieces or wire.ready or wire.write_paused)
            and size <= self.window
            and size <= wire.window
        ):
            # It is nobody's turn.
            wire.out += (_BOTH(0, size, 0, 0, self.number), data)
            self.window -= size
            wire.window -= size
            wire.patience.answers += ANSWERS + (size >> 10)
            wire.soon()
        elif size:
            self._pieces.append(data)
            self.queued += size
            wire.queued += size
            self.can_send()

    def finish_sending(self, trailers: bytes = b"") -> None:
        """Send the end behind what was written, with a block of trailers or without."""
        self.whole = True
        self._trailers = trailers
        if not self._pieces:
            self._end()
        else:
            self.can_send()

    def can_send(self) -> None:
        """Have a turn, if there is something to send and the window is open."""
        if not self.waiting and self._pieces and self.window > 0:
            self.waiting = True
            self.wire.ready.append(self)
        self.wire.pump()

    def turn(self) -> bool:
        """Send what may be sent now; whether there could be more at once."""
        wire = self.wire
        pieces = self._pieces
        if not pieces:
            return False  # it stood in the line twice
        left = TURN
        sent = 0
        while pieces and left > 0:
            piece = pieces[0]
            at = self._at
            size = min(len(piece) - at, self.window, wire.window, frames.FRAME_BYTES, left)
            if size <= 0:
                break
            if at + size == len(piece):
                pieces.popleft()
                self._at = 0
            else:
                self._at = at + size
            end = self.whole and not pieces and not self._trailers
            wire.out.append(_BOTH(0, size, 0, end, self.number))
            wire.out.append(piece if size == len(piece) else memoryview(piece)[at : at + size])
            self.window -= size
            wire.window -= size
            wire.patience.answers += ANSWERS + (size >> 10)
            left -= size
            sent += size
        self.queued -= sent
        wire.queued -= sent
        if not pieces and self.whole:
            self.waiting = False
            if self._trailers:
                self._end()
            else:
                self.ended = True
                self.sent_end()
            return False
        if sent:
            self.level()
        return bool(pieces) and self.window > 0

    def _end(self) -> None:
        wire = self.wire
        if self._trailers:
            self.send_head(self._trailers, True)
        else:
            wire.out.append(frames.data_header(0, self.number, True))
            wire.soon()
            self.ended = True
            self.sent_end()

    def drop(self) -> None:
        """Send nothing of what waits."""
        self.wire.queued -= self.queued
        self.queued = 0
        self._at = 0
        self._pieces.clear()

    def cancel(self, code: int) -> None:
        """Send RST_STREAM. The stream is over for the protocol."""
        wire = self.wire
        wire.out.append(frames.reset(self.number, code))
        wire.soon()
        self.over(True)

    def over(self, reset: bool = False) -> None:
        """The stream is over for the protocol, whoever has ended it."""
        self.drop()
        held, self.held = self.held, 0
        if held:
            self.wire.let_go(held)
        self.wire.forget(self, reset)

    # What comes

    def taken(self, length: int) -> None:
        """So many bytes that have come are given back, when they are worth a frame."""
        self._owed += length
        if self._owed * 2 < self._limit or self.peer_ended:
            return
        more = self._owed
        if self._slow:
            self._slow = False
        elif self._limit < MOST_WINDOW:
            more += self._limit
            self._limit *= 2
        self._owed = 0
        self.allowed += more
        self.wire.out.append(frames.window_update(self.number, more))
        self.wire.soon()

    def pause_peer(self) -> None:
        """Give nothing back from now on."""
        self.paused = self._slow = True

    def resume_peer(self) -> None:
        """Give back what has come meanwhile, too."""
        self.paused = False
        held, self.held = self.held, 0
        if held:
            self.wire.let_go(held)
            self.taken(held)
