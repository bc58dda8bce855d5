"""Streams, windows, settings and floods; each trap by its name."""

from __future__ import annotations

import sys

import pytest

from pylb.http2 import frames
from pylb.http2.codes import Code, Fault
from pylb.http2.stream import MOST_WINDOW, WINDOW
from tests.http2.ends import GET, POST, End, Noting, block, frame, pair, server, talk

HEADERS, DATA, RST, SETTINGS = frames.HEADERS, frames.DATA, frames.RST_STREAM, frames.SETTINGS
PING = frames.PING
WINDOW_UPDATE, CONTINUATION = frames.WINDOW_UPDATE, frames.CONTINUATION


def word(value: int) -> bytes:
    return value.to_bytes(4, "big")


def updates(end: End, number: int) -> int:
    """How much more the peer may send, of what is to be written."""
    return sum(
        int.from_bytes(payload, "big")
        for kind, _, stream, payload in end.sent()
        if kind == WINDOW_UPDATE and stream == number
    )


def fault(end: End, data: bytes) -> Code:
    with pytest.raises(Fault) as caught:
        end.receive(data)
    return caught.value.code


def upload(end: End, number: int = 1) -> Noting:
    end.receive(frame(HEADERS, block(POST), 4, number))
    stream: Noting = end.streams[number]
    return stream


def test_a_message_each_way_in_any_pieces() -> None:
    for size in (1, 7, 100, 1 << 20):
        client, served = pair()
        stream = client.ask(POST, False)
        stream.write(b"x" * 40000)
        stream.finish_sending(block([(b"x-sum", b"1")]))
        data = client.take()
        for at in range(0, len(data), size):
            served.receive(data[at : at + size])
        talk(client, served)
        got = b"".join(note[2] for note in served.notes if note[1] == "data")
        assert got == b"x" * 40000
        assert served.notes[-2:] == [(1, "section", [(b"x-sum", b"1")], True), (1, "end")]
        served.streams[1].send_message(block([(b":status", b"200")]), b"hello")
        talk(client, served)
        status = [(b":status", b"200")]
        assert client.notes == [(1, "section", status, False), (1, "data", b"hello"), (1, "end")]
        assert not client.streams and not served.streams


# Windows


def test_receive_windows_start_at_64_kib_and_grow_while_the_client_reads() -> None:
    end = server()
    stream = upload(end)
    assert stream.allowed == WINDOW == 65535
    came = 0
    while came < 4 * MOST_WINDOW:
        size = min(16384, stream.allowed)
        end.receive(frame(DATA, b"x" * size, 0, 1))
        came += size
    assert stream._limit >= MOST_WINDOW
    slow = upload(end, 3)
    slow.pause_peer()
    while slow.allowed > 0:
        end.receive(frame(DATA, b"x" * min(16384, slow.allowed), 0, 3))
    end.take()
    slow.resume_peer()
    assert updates(end, 3) == WINDOW  # it has not grown


def test_a_stream_that_is_not_read_costs_the_others_nothing() -> None:
    end = server()
    stalled = [upload(end, number) for number in range(1, 41, 2)]
    for stream in stalled:
        stream.pause_peer()
        for size in (16384, 16384, 16384, 16383):
            end.receive(frame(DATA, b"x" * size, 0, stream.number))
    other = upload(end, 101)
    end.receive(frame(DATA, b"x" * 16384, 0, 101))
    assert other.allowed > 0 and end._allowed > 0


def test_above_the_bound_of_what_is_held_the_connection_waits() -> None:
    end = server(held=10_000)
    streams = [upload(end, number) for number in (1, 3, 5)]
    for stream in streams:
        stream.pause_peer()
    sent = 0
    for stream in streams:
        while stream.allowed > 0 and end._allowed > 0:
            size = min(16384, stream.allowed, end._allowed)
            end.receive(frame(DATA, b"x" * size, 0, stream.number))
            sent += size
    assert sent <= 3 * WINDOW and end._allowed == 0
    before = end._allowed
    end.take()
    for stream in streams:
        stream.resume_peer()
    assert end._allowed > before
    assert updates(end, 0) > 0


@pytest.mark.parametrize("padding", [0, 200])
def test_padding_and_data_of_closed_streams_give_connection_credit_back(padding: int) -> None:
    end = server()
    upload(end).cancel(Code.CANCEL)
    end.take()
    given = 0
    payload = bytes([padding]) + b"x" * 1000 + bytes(padding) if padding else b"x" * 1001
    for _ in range(40):
        end.receive(frame(DATA, payload, 8 if padding else 0, 1))
        given += updates(end, 0)
    assert given > 0
    assert end._allowed == 65535 + given - 40 * len(payload)


def test_padding_of_open_streams_gives_credit_back() -> None:
    end = server()
    stream = upload(end)
    for _ in range(400):
        end.receive(frame(DATA, bytes([255]) + b"x" + bytes(255), 8, 1))
    assert stream.allowed > 0 and end._allowed > 0
    assert [note[2] for note in end.notes if note[1] == "data"] == [b"x"] * 400


def test_settings_that_make_windows_negative() -> None:
    """RFC 9113 §6.9.2."""
    end = server()
    end.receive(frame(HEADERS, block(GET), 5, 1))
    stream = end.streams[1]
    stream.send_head(block([(b":status", b"200")]))
    stream.write(b"x" * 60000)
    end.take()
    end.receive(frame(SETTINGS, b"\x00\x04" + word(100)))
    assert stream.window == 100 - 60000
    stream.write(b"y" * 50)
    assert all(kind != DATA for kind, *_ in end.sent())
    end.receive(frame(WINDOW_UPDATE, word(59900), 0, 1))
    assert stream.window == 0 and stream.queued == 50
    end.receive(frame(WINDOW_UPDATE, word(20), 0, 1))
    assert [payload for kind, _, _, payload in end.sent() if kind == DATA] == [b"y" * 20]
    end.receive(frame(SETTINGS, b"\x00\x04" + word(1000)))
    assert [payload for kind, _, _, payload in end.sent() if kind == DATA] == [b"y" * 30]


def test_settings_are_acknowledged_before_what_they_let_go() -> None:
    end = server()
    end.receive(frame(SETTINGS, b"\x00\x04" + word(0)) + frame(HEADERS, block(GET), 5, 1))
    end.streams[1].write(b"x" * 10)
    end.take()
    end.receive(frame(SETTINGS, b"\x00\x04" + word(10)))
    assert [kind for kind, *_ in end.sent()] == [SETTINGS, DATA]


def test_a_table_of_no_bytes_is_said_with_the_next_block_once() -> None:
    end = server()
    end.receive(frame(SETTINGS, b"\x00\x01" + word(0)) + frame(SETTINGS, b"\x00\x01" + word(4096)))
    for number in (1, 3):
        end.receive(frame(HEADERS, block(GET), 5, number))
        end.streams[number].send_message(block([(b":status", b"200")]), b"x")
    heads = [payload for kind, _, _, payload in end.sent() if kind == HEADERS]
    assert heads == [b"\x20\x88", b"\x88"]


def test_windows_that_grow_too_large() -> None:
    end = server()
    upload(end)
    end.receive(frame(WINDOW_UPDATE, word(frames.MOST), 0, 1))
    assert end.notes[-1] == (1, "broken", Code.FLOW_CONTROL_ERROR)
    assert fault(end, frame(WINDOW_UPDATE, word(frames.MOST))) is Code.FLOW_CONTROL_ERROR
    end = server()
    upload(end).window = 10
    end.streams[1].window = frames.MOST
    assert fault(end, frame(SETTINGS, b"\x00\x04" + word(70000))) is Code.FLOW_CONTROL_ERROR


def test_who_sends_more_than_its_window() -> None:
    end = server()
    stream = upload(end)
    stream.pause_peer()
    for size in (16384, 16384, 16384, 16384):
        end.receive(frame(DATA, b"x" * size, 0, 1))
    assert end.notes[-1] == (1, "broken", Code.FLOW_CONTROL_ERROR)
    end = server(held=-1)
    for number in (1, 3):
        upload(end, number)
    sizes = [16384] * 3 + [16383]
    end.receive(b"".join(frame(DATA, b"x" * size, 0, 1) for size in sizes))
    assert fault(end, frame(DATA, b"x", 0, 3)) is Code.FLOW_CONTROL_ERROR


def test_streams_take_turns() -> None:
    """A response of 100 KiB beside a long download is complete after about as much of that."""
    end = server()
    for number in (1, 3):
        end.receive(frame(HEADERS, block(GET), 5, number))
        end.receive(frame(WINDOW_UPDATE, word(1 << 24), 0, number))
    long, short = end.streams[1], end.streams[3]
    long.send_head(block([(b":status", b"200")]))
    long.write(b"x" * (10 << 20))
    end.take()
    short.send_message(block([(b":status", b"200")]), b"y" * 102400)
    beside = 0
    while not short.ended:
        end.receive(frame(WINDOW_UPDATE, word(65535)))
        for kind, _, number, payload in end.sent():
            beside += len(payload) if kind == DATA and number == 1 else 0
    assert beside <= 200 << 10


# Messages


def test_several_1xx_and_then_the_response() -> None:
    client, served = pair()
    client.ask()
    talk(client, served)
    stream = served.streams[1]
    for status in (b"100", b"103", b"103"):
        stream.send_head(block([(b":status", status)]))
    stream.send_message(block([(b":status", b"200")]), b"x")
    talk(client, served)
    seen = [note[2][0][1] for note in client.notes if note[1] == "section"]
    assert seen == [b"100", b"103", b"103", b"200"]


def test_push_promise_is_a_connection_error() -> None:
    client, served = pair()
    client.ask()
    assert fault(client, frame(frames.PUSH_PROMISE, word(2) + b"\x82", 4, 1)) is Code.PROTOCOL_ERROR
    assert fault(served, frame(frames.PUSH_PROMISE, word(2) + b"\x82", 4, 1)) is Code.PROTOCOL_ERROR


def test_priority_is_ignored() -> None:
    end = server()
    end.receive(frame(frames.PRIORITY, word(3) + b"\x10", 0, 5))
    end.receive(frame(HEADERS, word(1 << 31 | 3) + b"\x10" + block(GET), 0x25, 1))
    end.receive(frame(HEADERS, b"\x02" + word(0) + b"\x10" + block(GET) + b"\0\0", 0x2D, 3))
    assert [note[0] for note in end.notes] == [1, 3]


def test_the_numbers_of_65536_closed_streams_cost_no_memory() -> None:
    end = server()
    data = block(GET)
    for number in range(1, 2 * 65536, 2):
        end.receive(frame(HEADERS, data, 5, number))
        if number % 4 == 1:
            end.streams[number].send_message(b"\x88", b"x")
        else:
            end.streams[number].cancel(Code.CANCEL)
        if not number % 101:
            end.take()
        end.notes.clear()
    assert sys.getsizeof(end._closed) + sys.getsizeof(end._given_up) < 32_000
    assert not end.streams and not end.ready


def test_headers_of_a_stream_that_the_peer_has_reset_are_an_error_of_that_stream() -> None:
    """RFC 9113 §5.1; the others of the connection go on."""
    end = server()
    other = upload(end)
    upload(end, 3)
    end.receive(frame(RST, word(Code.CANCEL), 0, 3))
    end.take()
    end.receive(frame(HEADERS, block(GET), 5, 3))
    assert (RST, 3, word(Code.STREAM_CLOSED)) in [
        (kind, number, payload) for kind, _, number, payload in end.sent()
    ]
    end.receive(frame(DATA, b"x", 1, 1))
    assert other.peer_ended


def test_frames_of_streams_that_pylb_has_reset_are_passed_over() -> None:
    """They were on their way. The table of HPACK has to stay right."""
    end = server()
    upload(end).cancel(Code.CANCEL)
    end.take()
    end.receive(frame(DATA, b"x", 0, 1) + frame(HEADERS, b"\x40\x01a\x01b", 5, 1) + frame(RST, word(8), 0, 1))
    assert end.sent() == []
    end.receive(frame(HEADERS, block(GET) + b"\xbe", 5, 3))
    assert end.notes[-1][2][-1] == (b"a", b"b")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (frame(DATA, b"x", 0, 0), Code.PROTOCOL_ERROR),
        (frame(DATA, b"x", 0, 5), Code.PROTOCOL_ERROR),
        (frame(DATA, b"x", 0, 2), Code.PROTOCOL_ERROR),
        (frame(DATA, b"\x05xx", 8, 1), Code.PROTOCOL_ERROR),
        (frame(HEADERS, block(GET), 5, 0), Code.PROTOCOL_ERROR),
        (frame(HEADERS, block(GET), 5, 2), Code.PROTOCOL_ERROR),
        (frame(HEADERS, b"\xff", 5, 3), Code.COMPRESSION_ERROR),
        (frame(DATA, b"", 8, 1), Code.FRAME_SIZE_ERROR),
        (frame(HEADERS, b"\x09\x82", 0xD, 3), Code.PROTOCOL_ERROR),
        (frame(HEADERS, b"\x05" + word(1) + b"\x10\x82\x82", 0x2C, 3), Code.PROTOCOL_ERROR),
        (frame(HEADERS, b"\x00" + word(1), 0x2C, 3), Code.FRAME_SIZE_ERROR),
        (frame(HEADERS, b"", 0xD, 3), Code.FRAME_SIZE_ERROR),
        (frame(frames.PRIORITY, b"\0\0\0\1", 0, 1001), Code.FRAME_SIZE_ERROR),
        (frame(frames.PUSH_PROMISE, b"\xff", 8, 1), Code.PROTOCOL_ERROR),
        (frame(HEADERS, b"\x82", 0x24, 3), Code.FRAME_SIZE_ERROR),
        (frame(HEADERS, word(3) + b"\x10\x82", 0x24, 3), Code.PROTOCOL_ERROR),
        (frame(HEADERS, b"\x82", 0, 3) + frame(DATA, b"x", 0, 1), Code.PROTOCOL_ERROR),
        (frame(HEADERS, b"\x82", 0, 3) + frame(CONTINUATION, b"", 0, 5), Code.PROTOCOL_ERROR),
        (frame(CONTINUATION, b"", 4, 1), Code.PROTOCOL_ERROR),
        (frame(frames.PRIORITY, word(3) + b"\x10", 0, 0), Code.PROTOCOL_ERROR),
        (frame(RST, word(8), 0, 0), Code.PROTOCOL_ERROR),
        (frame(RST, word(8), 0, 9), Code.PROTOCOL_ERROR),
        (frame(RST, b"xxx", 0, 1), Code.FRAME_SIZE_ERROR),
        (frame(SETTINGS, b"", 0, 1), Code.PROTOCOL_ERROR),
        (frame(SETTINGS, b"x", 0, 0), Code.FRAME_SIZE_ERROR),
        (frame(SETTINGS, b"\0\4" + word(1), 1, 0), Code.FRAME_SIZE_ERROR),
        (frame(SETTINGS, b"\0\2" + word(2)), Code.PROTOCOL_ERROR),
        (frame(SETTINGS, b"\0\4" + word(1 << 31)), Code.FLOW_CONTROL_ERROR),
        (frame(SETTINGS, b"\0\5" + word(16383)), Code.PROTOCOL_ERROR),
        (frame(PING, b"x" * 7), Code.FRAME_SIZE_ERROR),
        (frame(PING, b"x" * 8, 0, 1), Code.PROTOCOL_ERROR),
        (frame(frames.GOAWAY, b"x" * 8, 0, 1), Code.PROTOCOL_ERROR),
        (frame(frames.GOAWAY, b"x"), Code.FRAME_SIZE_ERROR),
        (frame(WINDOW_UPDATE, word(0)), Code.PROTOCOL_ERROR),
        (frame(WINDOW_UPDATE, word(1), 0, 7), Code.PROTOCOL_ERROR),
        (frame(WINDOW_UPDATE, b"x", 0, 1), Code.FRAME_SIZE_ERROR),
        (frame(DATA, b"x" * 16385, 0, 1), Code.FRAME_SIZE_ERROR),
    ],
)
def test_errors_of_the_connection(data: bytes, code: Code) -> None:
    end = server()
    upload(end)
    assert fault(end, data) is code


def test_a_wrong_priority_is_an_error_of_the_stream_that_it_is_of() -> None:
    """RFC 9113 §6.3."""
    for payload, code in ((b"1234", Code.FRAME_SIZE_ERROR), (word(1) + b"\x10", Code.PROTOCOL_ERROR)):
        end = server()
        upload(end)
        end.receive(frame(frames.PRIORITY, payload, 0, 1))
        assert end.notes[-1] == (1, "broken", code)


def test_bytes_that_are_no_preface() -> None:
    for data in (b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nXX"):
        assert fault(End(False), data) is Code.PROTOCOL_ERROR
    assert fault(End(False), frames.PREFACE + frame(PING, b"x" * 8)) is Code.PROTOCOL_ERROR


def test_streams_beyond_the_limit_are_refused() -> None:
    end = server()
    for number in range(1, 205, 2):
        end.receive(frame(HEADERS, block(GET), 5, number))
    refused = [(number, payload) for kind, _, number, payload in end.sent() if kind == RST]
    assert refused == [(201, word(7)), (203, word(7))]


# Floods


def test_pings_and_window_updates_that_answer_data_are_no_flood() -> None:
    """As grpc-go's, one for each frame of DATA that it has received."""
    end = server()
    end.receive(frame(HEADERS, block(GET), 5, 1))
    stream = end.streams[1]
    stream.send_head(block([(b":status", b"200")]))
    for _ in range(5000):
        stream.write(b"0123456789")
        update = frame(WINDOW_UPDATE, word(10)) + frame(WINDOW_UPDATE, word(10), 0, 1)
        end.receive(frame(PING, b"x" * 8) + update)
        end.take()


@pytest.mark.parametrize(
    "data",
    [
        frame(PING, b"x" * 8),
        frame(PING, b"x" * 8, 1),
        frame(SETTINGS),
        frame(SETTINGS, b"", 1),
        frame(DATA, b"", 0, 1),
        frame(WINDOW_UPDATE, word(1)),
        frame(frames.PRIORITY, word(3) + b"\x10", 0, 5),
        frame(77, b""),
        frame(frames.GOAWAY, bytes(8)),
    ],
)
def test_a_flood_ends_the_connection(data: bytes) -> None:
    end = server()
    upload(end)
    assert fault(end, data * 2000) is Code.ENHANCE_YOUR_CALM
    end = server()
    upload(end)
    for _ in range(30):
        end.receive(data * 100)  # so many a second are none
        end.clock += 1
        end.take()


def test_cancellations_are_judged_by_their_share() -> None:
    end = server()
    number = 1
    for _ in range(10):  # seconds
        for turn in range(160):
            end.receive(frame(HEADERS, block(GET), 5, number))
            stream = end.streams[number]
            if turn % 4:
                stream.send_message(b"\x88", b"x")
                end.patience.good += 1
            else:
                stream.over(True)
                end.patience.reset(end.clock)
            number += 2
        end.clock += 1
        end.take()


def test_a_flood_of_continuation_ends_the_connection() -> None:
    for piece in (b"", b"\x00\x01a\x01b"):
        end = server()
        data = frame(HEADERS, b"\x82", 0, 1) + frame(CONTINUATION, piece, 0, 1) * 10_000
        assert fault(end, data) is Code.ENHANCE_YOUR_CALM
