"""Where the frames of a WebSocket end, however the bytes come."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from websockets.frames import Close, Frame, Opcode
from websockets.streams import StreamReader

from pylb.http.websocket import GOING_AWAY, Frames, close_frame

_BYTES = bytes(index * 37 % 256 for index in range(256))
LENGTHS = st.one_of(st.integers(0, 300), st.sampled_from([125, 126, 127, 65535, 65536, 70_000]))
FRAMES = st.lists(
    st.tuples(
        st.sampled_from([Opcode.CONT, Opcode.TEXT, Opcode.BINARY, Opcode.PING, Opcode.PONG]),
        LENGTHS,
        st.booleans(),  # the last one of its message
    ),
    max_size=8,
)


def serialized(frames: list[tuple[Opcode, int, bool]], mask: bool) -> list[bytes]:
    made = []
    for opcode, length, last in frames:
        control = opcode in (Opcode.PING, Opcode.PONG)
        # Payload that looks like heads of frames, were it read as one.
        payload = (_BYTES * (length // 256 + 1))[: length % 126 if control else length]
        made.append(Frame(opcode, payload, fin=last or control).serialize(mask=mask))
    return made


@given(FRAMES, st.booleans(), st.data())
def test_ends_are_found_whatever_the_splitting(
    frames: list[tuple[Opcode, int, bool]], mask: bool, data: st.DataObject
) -> None:
    parts = serialized(frames, mask)
    ends = {0}
    for part in parts:
        ends.add(max(ends) + len(part))
    stream = b"".join(parts)
    cuts = data.draw(st.lists(st.integers(0, len(stream)) | st.sampled_from(sorted(ends)), max_size=20))
    one = Frames()
    before = 0
    for cut in sorted({*cuts, len(stream)}):
        one.feed(stream[before:cut])
        assert one.between is (cut in ends)
        before = cut
    assert one.between and not one.closed


@given(st.lists(LENGTHS, max_size=3), st.booleans())
def test_byte_by_byte(lengths: list[int], mask: bool) -> None:
    parts = serialized([(Opcode.BINARY, length % 3000, True) for length in lengths], mask)
    one = Frames()
    for part in parts:
        for index in range(len(part)):
            one.feed(part[index : index + 1])
            assert one.between is (index == len(part) - 1)


@given(FRAMES, st.booleans(), st.integers(0, 6))
def test_a_close_is_seen(frames: list[tuple[Opcode, int, bool]], mask: bool, split: int) -> None:
    close = Frame(Opcode.CLOSE, Close(1000, "bye").serialize()).serialize(mask=mask)
    stream = b"".join(serialized(frames, mask)) + close
    one = Frames()
    one.feed(stream[: len(stream) - split])
    assert one.between is (split == 0)
    one.feed(stream[len(stream) - split :])
    assert one.closed and one.between


@given(st.binary(max_size=200))
def test_nonsense_is_followed_without_an_error(data: bytes) -> None:
    one = Frames()
    for index in range(0, len(data), 3):
        one.feed(data[index : index + 3])


def parsed(data: bytes, masked: bool) -> Frame:
    reader = StreamReader()
    reader.feed_data(data)
    reader.feed_eof()
    parser = Frame.parse(reader.read_exact, mask=masked)
    try:
        while True:
            next(parser)
    except StopIteration as stop:
        assert isinstance(stop.value, Frame)
        return stop.value


@given(st.binary(min_size=4, max_size=4))
def test_a_close_frame_is_what_others_read(mask: bytes) -> None:
    for data, masked in ((close_frame(GOING_AWAY), False), (close_frame(GOING_AWAY, mask), True)):
        frame = parsed(data, masked)
        assert frame.opcode is Opcode.CLOSE and frame.fin
        assert Close.parse(frame.data).code == GOING_AWAY
        one = Frames()
        one.feed(data)
        assert one.between and one.closed
