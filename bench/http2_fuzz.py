"""``python -m bench.http2_fuzz --minutes 20``: does pylb's HTTP/2 read what the libraries h2 and hpack read?

Inputs are header blocks that hpack has encoded, one after the other on a connection and now and then damaged,
and streams of frames on a few streams, likewise. For each:

- nothing but a `Fault` may come out of pylb's reader;
- what the library reads, pylb must read as the same sections, bodies and ends;
- the same bytes cut at random places must be read alike.

Where the library ends a connection pylb may end a stream, or pass a frame over: its rules for malformed
messages are others. A finding is printed with its seed (``--seed`` repeats it) and makes the exit code 1.
"""

from __future__ import annotations

import random
import sys
from dataclasses import asdict
from typing import Any

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import hpack

from bench.rig import fuzzing
from bench.rig.report import in_words, write
from pylb.http2 import frames
from pylb.http2.codes import Fault
from pylb.http2.decode import Decoder
from tests.http2.ends import GET, POST, End, block, frame, pairs

Header = tuple[bytes, bytes]
_NAMES = [b":path", b"cookie", b"x-a", b"x-b", b"accept", b"authorization", b"date", b"via", b":method"]
_VALUES = [b"", b"GET", b"/", b"a", b"a" * 60, b"text/html,*/*;q=0.8", b"\x00\xff", b"0123456789abcdef"]
_VALUES += [b"x" * 300]
_KINDS = [*range(11), frames.DATA, frames.DATA, frames.HEADERS, frames.HEADERS, frames.HEADERS]
_PAYLOADS = [b"", b"hello", b"\x03abc\0\0\0", b"\0\0\0\5", bytes(8), b"x" * 300, b"\0\4\0\0\0\7"]
_WHOLE = 1 << 20
_STRICTER = (
    *("a frame that is too long", "PUSH_PROMISE", "SETTINGS must come first", "that isn't open"),
    *("CONTINUATION without HEADERS", "more padding than there is room for"),
)
"""Where the library is content, or waits for the rest of a frame, and RFC 9113 isn't."""


class Finding(Exception):
    """An input that was read wrongly."""


def blocks(source: random.Random) -> list[bytes]:
    """Header blocks of a connection."""
    encoder = hpack.Encoder()
    found = []
    for _ in range(source.randint(1, 5)):
        if source.random() < 0.15:
            encoder.header_table_size = source.choice((0, 40, 100, 1000, 4096))
        fields = [(source.choice(_NAMES), source.choice(_VALUES)) for _ in range(source.randint(0, 6))]
        data = bytearray(encoder.encode(fields, huffman=source.random() < 0.7))
        while data and source.random() < 0.25:
            data[source.randrange(len(data))] = source.randrange(256)
        found.append(bytes(data))
        if source.random() < 0.3:
            found.append(source.choice(found))
    return found


def check_blocks(source: random.Random) -> None:
    """Raises `Finding`."""
    ours, theirs = Decoder(_WHOLE), hpack.Decoder(max_header_list_size=_WHOLE)
    for data in blocks(source):
        try:
            expected = [(bytes(name), bytes(value)) for name, value in theirs.decode(data, raw=True)]
        except Exception:
            expected = None
        try:
            got = pairs(ours.read(data))
        except Fault:
            got = None
        if got != expected and not (expected is None and got is not None):
            raise Finding(f"{data.hex()}: {got} instead of {expected}")
        if got is None or expected is None:
            return


def stream(source: random.Random) -> bytes:
    """Frames from a client."""
    data = frames.PREFACE + frame(frames.SETTINGS)
    next_ = 1
    for _ in range(source.randint(1, 9)):
        kind = source.choice(_KINDS)
        number = source.choice((1, 1, 1, 3, 3, 5, next_, next_, 0, 2))
        flags = source.choice((0, 0, 1, 4, 5, 5, 8, 9, 13, 0x24, 0x25))
        payload = source.choice(_PAYLOADS)
        if kind == frames.HEADERS:
            good = source.random() < 0.9
            payload = block(source.choice((GET, POST, [(b"x-sum", b"1")]))) if good else payload
            flags = source.choice((4, 5)) if good else flags
            if number == next_ and good:
                next_ += 2
        data += frame(kind, payload, flags, number)
    damaged = bytearray(data)
    while source.random() < 0.2:
        damaged[source.randrange(24, len(damaged))] = source.randrange(256)
    return bytes(damaged)


def read(data: bytes, source: random.Random | None = None) -> tuple[list[tuple[Any, ...]], str]:
    """What pylb reads, in one piece or in random ones, and why that ends the connection, if it does."""
    end = End(False, _WHOLE)
    at = 0
    try:
        while at < len(data):
            until = len(data) if source is None else at + source.randint(1, 40)
            end.receive(data[at:until])
            at = until
    except Fault as fault:
        return _plain(end.notes), str(fault)
    return _plain(end.notes), ""


def _plain(notes: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """By stream: in which order requests begin that one read has brought is pylb's own affair."""
    found: list[tuple[Any, ...]] = []
    for number, what, *rest in notes:
        if what in ("section", "data"):
            found.append((number, rest[0]))
    return by_stream(found)


def by_stream(found: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """What has come, the streams one after the other."""
    return sorted(found, key=lambda one: int(one[0]))


def expected_of(data: bytes) -> tuple[list[tuple[Any, ...]], bool]:
    """What the library reads, and whether it ends the connection."""
    config = h2.config.H2Configuration(
        client_side=False,
        header_encoding=None,
        validate_inbound_headers=False,
        normalize_inbound_headers=False,  # it puts cookies behind all other fields
    )
    library = h2.connection.H2Connection(config)
    library.initiate_connection()
    found: list[tuple[Any, ...]] = []
    try:
        for event in library.receive_data(data):
            if isinstance(event, h2.events.RequestReceived | h2.events.TrailersReceived):
                found.append((event.stream_id, [tuple(field) for field in event.headers or []]))
            elif isinstance(event, h2.events.DataReceived) and event.data:
                found.append((event.stream_id, event.data))
    except h2.exceptions.ProtocolError:
        return [], True
    except Exception:  # an error of its own
        return [], True
    return by_stream(found), False


def check_frames(source: random.Random) -> None:
    """Raises `Finding`."""
    data = stream(source)
    got, ended = read(data)
    cut, ended_too = read(data, source)
    if (got, ended) != (cut, ended_too):
        raise Finding(f"{data.hex()}: cut into pieces {cut} instead of {got}")
    expected, refused = expected_of(data)
    if not refused and (ended or got != expected) and not ended.endswith(_STRICTER):
        raise Finding(f"{data.hex()}: {ended} {got} instead of {expected}")


def check(seed: str) -> None:
    """The input of a seed; raises `Finding`, or whatever else comes out."""
    source = random.Random(seed)
    if source.random() < 0.6:
        check_blocks(source)
    else:
        check_frames(source)


def main() -> None:
    chosen = fuzzing.options(__doc__).parse_args()
    if chosen.seed:
        check(chosen.seed)
        return
    found = fuzzing.fuzz(check, chosen)
    if chosen.more is not None:
        found = fuzzing.with_earlier(found, chosen.more, check)
    lines = [
        "# HTTP/2: header blocks and frames, judged by hpack and h2",
        "",
        f"Written by `python -m bench.http2_fuzz`. {in_words()}.",
        "",
        f"{found.inputs:,} inputs in {found.minutes:.1f} minutes over {found.runs} runs: "
        f"**{len(found.findings)} findings**.",
    ]
    write("http2_fuzz", asdict(found), lines, chosen.out)
    sys.exit(bool(found.findings))


if __name__ == "__main__":
    main()
