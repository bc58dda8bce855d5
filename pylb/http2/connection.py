"""One connection: reads frames and has the streams told, keeps the windows and the settings.

A codec inherits from `Connection` (and its streams from `Stream`), gives it what it reads, and writes what
gathers in ``out``. What breaks a rule of the connection raises `Fault` from `receive`; then a GOAWAY with its
code is to be written, and nothing more is read. What breaks a rule of a message is told to its stream alone.

Floor: the top of `pylb.http2`.
"""

from __future__ import annotations

import math

from pylb.http2 import frames
from pylb.http2.codes import Code, Fault, Setting
from pylb.http2.control import OTHERS, Control
from pylb.http2.decode import Section
from pylb.http2.frames import END_HEADERS, END_STREAM, FRAME_BYTES, MOST, PADDED, PRIORITY_FLAG
from pylb.http2.stream import Stream

_unpack = frames.HEADER.unpack_from
_PIECES = 64  # frames that a header block may come in


class Connection(Control):
    """The protocol's state of one connection, and the reader of its frames.

    Args: as of `Control`.
    """

    def __init__(
        self,
        client: bool,
        header_bytes: int,
        settings: dict[Setting, int],
        window: int,
        held: float = math.inf,
    ) -> None:
        super().__init__(client, header_bytes, settings, window, held)
        self._rest = b""  # of a frame that has not come as a whole
        self._preface = b"" if client else frames.PREFACE
        self._block: list[bytes] = []  # of a header block whose end has not come
        self._block_of = 0  # its stream
        self._block_ends = False
        self._longest_block = 4 * header_bytes
        self._waiting: dict[int, Section] = {}  # of requests whose body may have come with the same read

    def receive(self, data: bytes) -> None:
        """Read what has come.

        Raises:
            Fault: the connection has to end.
        """
        if self._rest:
            data, self._rest = self._rest + data, b""
        at = 0
        size = len(data)
        if self._preface:
            if not data.startswith(self._preface[:size]):
                raise Fault(Code.PROTOCOL_ERROR, "no preface")
            if size < len(self._preface):
                self._rest = data
                return
            at = len(self._preface)
            self._preface = b""
        while size - at >= 9:
            high, low, kind, flags, number = _unpack(data, at)
            length = high << 16 | low
            if length > FRAME_BYTES:
                if self._waiting:
                    self._open_waiting()
                raise Fault(Code.FRAME_SIZE_ERROR, "a frame that is too long")
            begin = at + 9
            if begin + length > size:
                break
            at = begin + length
            number &= MOST
            try:
                if self._block:
                    self._continued(data[begin:at], kind, flags, number)
                elif not self._met and kind != frames.SETTINGS:
                    raise Fault(Code.PROTOCOL_ERROR, "SETTINGS must come first")
                elif kind == 1:
                    if flags & (PADDED | PRIORITY_FLAG | END_HEADERS) == END_HEADERS:
                        at = self._headers(number, data[begin:at], flags & END_STREAM, data, at)
                    else:
                        self._unusual_headers(number, data[begin:at], flags)
                elif not kind:
                    if self._waiting and number in self._waiting:
                        self._first_data(data, begin, at, flags, number)
                    else:
                        self._data(data, begin, at, flags, number)
                else:
                    if self._waiting:
                        self._open_waiting()
                    handler = OTHERS.get(kind)
                    if handler is not None:
                        handler(self, data[begin:at], flags, number)
                    else:
                        self.patience.noise(self.now())  # §4.1: unknown ones are passed over
            except Fault:
                if self._waiting:
                    self._open_waiting()  # they had come before
                self.over = True
                raise
            except Exception as error:
                self.failed(number, error)
            if self.over:
                return
        if self._waiting:
            self._open_waiting()
        if at < size:
            self._rest = data[at:]

    # HEADERS and CONTINUATION (§6.2, §6.10)

    def _unusual_headers(self, number: int, payload: bytes, flags: int) -> None:
        padded = 1 if flags & PADDED else 0
        begin = padded + (5 if flags & PRIORITY_FLAG else 0)
        end = len(payload)
        if begin > end:
            raise Fault(Code.FRAME_SIZE_ERROR, "HEADERS without their priority, or their padding's length")
        if padded:
            end -= payload[0]
            if end < begin:
                raise Fault(Code.PROTOCOL_ERROR, "more padding than there is room for")
        if flags & PRIORITY_FLAG:
            other = int.from_bytes(payload[padded : padded + 4], "big") & MOST
            if other == number:
                raise Fault(Code.PROTOCOL_ERROR, "a stream that depends on itself")
        if flags & END_HEADERS:
            self._headers(number, payload[begin:end], flags & END_STREAM)
        elif not number:
            raise Fault(Code.PROTOCOL_ERROR, "HEADERS of no stream")
        else:
            self._block = [payload[begin:end]]
            self._block_of = number
            self._block_ends = bool(flags & END_STREAM)

    def _continued(self, payload: bytes, kind: int, flags: int, number: int) -> None:
        if kind != frames.CONTINUATION or number != self._block_of:
            raise Fault(Code.PROTOCOL_ERROR, "a frame within a header block")
        self._block.append(payload)
        if len(self._block) > _PIECES or sum(map(len, self._block)) > self._longest_block:
            raise Fault(Code.ENHANCE_YOUR_CALM, "a header block out of all proportion")
        if flags & END_HEADERS:
            block, self._block = b"".join(self._block), []
            self._headers(number, block, self._block_ends)

    def _headers(self, number: int, block: bytes, ended: int, data: bytes = b"", at: int = 0) -> int:
        """A header block has come, in ``data`` up to ``at``.

        Gives up to where that is read then: small messages often come as a whole, and cost less so. A
        request without its end waits for what else was read.
        """
        section = self.decoder.known.get(block) or self.decoder.read(block)
        if self._waiting and number in self._waiting:
            self.opened(number, self._waiting.pop(number), False)
        stream = self.streams.get(number)
        if stream is not None:
            if stream.peer_ended:
                self._fails(stream, Code.STREAM_CLOSED, "HEADERS after its end")
            elif ended or not self._client:
                stream.section(section, bool(ended))
            else:
                end, ended = self._data_behind(data, at, number)
                if end and end - at - 9 <= stream.allowed:
                    return self._response(stream, section, data, at, end, bool(ended))
                stream.section(section, False)
        elif self._client or number <= self.last or not number & 1:
            self._headers_of_none(number)
        else:
            self.last = number
            if len(self.streams) + len(self._waiting) >= self._concurrent:
                self.patience.noise(self.now())
                self.refuse(number)
            elif ended or at == len(data):
                self.opened(number, section, bool(ended))
            else:
                self._waiting[number] = section
        return at

    def _first_data(self, data: bytes, begin: int, end: int, flags: int, number: int) -> None:
        """DATA of a request whose head has come with the same read: often all that there is."""
        section = self._waiting.pop(number)
        if flags == END_STREAM and end > begin:
            self._came(end - begin)
            self.opened(number, section, False, data[begin:end])
        else:
            self.opened(number, section, False)
            self._data(data, begin, end, flags, number)

    def _open_waiting(self) -> None:
        """Nothing more of these requests has come with their heads."""
        waiting, self._waiting = self._waiting, {}
        for number, section in waiting.items():
            try:
                self.opened(number, section, False)
            except Exception as error:
                self.failed(number, error)

    def _data_behind(self, data: bytes, at: int, number: int) -> tuple[int, int]:
        """Where a usual frame with DATA of this stream ends that begins here, or 0; with its END_STREAM."""
        if len(data) - at < 10:
            return 0, 0
        high, low, kind, flags, of = _unpack(data, at)
        end = at + 9 + low
        # What is more than the window is for `_data` to tell.
        if kind or flags & ~END_STREAM or of != number or high or not 0 < low <= self._allowed:
            return 0, 0
        return (end, flags) if low <= FRAME_BYTES and end <= len(data) else (0, 0)

    def _response(self, stream: Stream, section: Section, data: bytes, at: int, end: int, ended: bool) -> int:
        """The head of a response has come, and DATA behind it; gives up to where it was read."""
        number = stream.number
        if not stream.message(section, data[at + 9 : end], ended):
            stream.section(section, False)
            return at
        length = end - at - 9
        self._came(length)
        if not ended and self.streams.get(number) is stream:
            self._credit(stream, length)
        return end

    def _credit(self, stream: Stream, length: int) -> None:
        """Bytes of DATA have come on a stream, and were told to it."""
        stream.allowed -= length
        if stream.paused:
            stream.held += length
            self.held += length
        else:
            stream.taken(length)

    def _headers_of_none(self, number: int) -> None:
        """HEADERS of a stream that isn't open and can't be opened."""
        if number in self._given_up:
            self.patience.noise(self.now())
        elif number in self._reset_by_peer:  # RFC 9113 §5.1: an error of that stream
            self.patience.noise(self.now())
            self.out.append(frames.reset(number, Code.STREAM_CLOSED))
            self.soon()
        elif self._is_idle(number):
            raise Fault(Code.PROTOCOL_ERROR, "HEADERS of a stream that the peer can't open")
        elif self._client or number in self._closed:
            raise Fault(Code.STREAM_CLOSED, "HEADERS of a stream that is over")
        else:
            raise Fault(Code.PROTOCOL_ERROR, "streams are opened out of their order")

    # DATA (§6.1)

    def _data(self, data: bytes, begin: int, end: int, flags: int, number: int) -> None:
        length = end - begin
        if flags & PADDED:
            if not length:
                raise Fault(Code.FRAME_SIZE_ERROR, "DATA without its padding's length")
            if data[begin] >= length:
                raise Fault(Code.PROTOCOL_ERROR, "more padding than there is")
            end -= data[begin]
            begin += 1
        if length:
            self._came(length)
        if number not in self.streams:
            if self._is_idle(number):
                raise Fault(Code.PROTOCOL_ERROR, "DATA of a stream that isn't open")
            self.patience.answer(self.now())
            if number not in self._given_up:
                self.out.append(frames.reset(number, Code.STREAM_CLOSED))
                self._given_up_too(number)
                self.soon()
            return
        stream: Stream = self.streams[number]
        if stream.peer_ended:
            self._fails(stream, Code.STREAM_CLOSED, "DATA after its end")
            return
        stream.allowed -= length
        if stream.allowed < 0:
            self._fails(stream, Code.FLOW_CONTROL_ERROR, "more DATA than its window")
            return
        ended = flags & END_STREAM
        if end > begin:
            stream.data(data[begin:end])
            if number not in self.streams:
                return  # it ended by that
        elif not ended:
            self.patience.noise(self.now())
        if length:
            if stream.paused:
                stream.held += length
                self.held += length
            else:
                stream.taken(length)
        if ended:
            stream.peer_ended = True
            stream.end_came()
