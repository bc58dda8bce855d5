"""``python -m bench.fuzz --minutes 20``: does anything reach a server that it could read differently?

Streams of requests, put together from good and bad parts and then damaged at random, go through the real
client and server connections of a worker (without sockets, see ``tests/http/wire.py``). For each:

- what servers got must be read by h11 without an error, and as exactly the requests that pylb counted;
- the same bytes cut at random places must give the same requests and the same answers.

A finding is printed with its seed and bytes (``--seed`` repeats it) and makes the exit code 1.
"""

from __future__ import annotations

import random
import sys
from dataclasses import asdict, dataclass

import h11

from bench.rig import fuzzing
from bench.rig.command import console
from bench.rig.report import in_words, write
from tests.http.wire import Wire

_LINES = [
    *(b"GET / HTTP/1.1", b"POST /p HTTP/1.1", b"HEAD /h HTTP/1.1", b"GET http://a/ HTTP/1.1"),
    *(b"OPTIONS * HTTP/1.1", b"PUT /" + b"x" * 300 + b" HTTP/1.1", b"GET /\xff HTTP/1.1", b"GET / HTTP/2.0"),
    b"GET / HTTP/1.0",
]
_FIELDS = [
    *(b"Host: a", b"Host: a", b"Host: a", b"Host: b", b"Content-Length: 5", b"Content-Length: 0"),
    *(b"Content-Length: 11", b"content-length:5", b"Transfer-Encoding: chunked", b"X-Gone: 1", b"A: \xe9"),
    *(b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding : chunked", b"transfer-encoding:chunked"),
    *(b"Connection: close", b"Connection: keep-alive, X-Gone", b"Connection: content-length", b"TE: a"),
    *(b"Connection: upgrade", b"Upgrade: websocket", b"Upgrade: h2c", b"Expect: 100-continue", b"A:"),
    *(b"X-Forwarded-For: 1.2.3.4", b"Keep-Alive: timeout=5", b"A: b\r\n c", b"A: b\nContent-Length: 3"),
    b"A\x00: b",
]
_GOOD = [b"A: b", b"X-Gone: 1", b"Connection: X-Gone", b"TE: trailers", b"Cookie: c=d; e=f", b"A: \xe9"]
_BODIES = [
    *(b"hello", b"", b"5\r\nhello\r\n0\r\n\r\n", b"5;a=b\r\nhello\r\n0\r\nT: v\r\n\r\n", b"0\r\n\r\n"),
    *(b"5\r\nhelloX\r\n0\r\n\r\n", b"05\r\nhello\r\n0\r\n\r\n", b"5\nhello\r\n0\r\n\r\n", b"hello world"),
    b"f" * 16 + b"\r\n",
]
_BITS = [
    *(b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\x00", b"0", b"chunked", b",", b";", b"\r\n\r\n", b"\x0b"),
    *(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"Content-Length: 1\r\n", b"Transfer-Encoding: chunked\r\n"),
    *(b"HTTP/1.1", b"-", b"+", b"Host: a\r\n", b"\xff"),
]


@dataclass(frozen=True)
class Seen:
    """What came of a stream."""

    requests: list[bytes]
    statuses: list[int]
    answered: int


class Finding(Exception):
    """A stream that was handled wrongly."""


def stream(source: random.Random) -> bytes:
    """A few requests, more or less damaged."""
    data = b""
    for _ in range(source.randint(1, 4)):
        good = source.random() < 0.7
        fields = source.choices(_GOOD if good else _FIELDS, k=source.randint(0, 4))
        if good or source.random() < 0.8:
            fields.insert(source.randint(0, len(fields)), b"Host: a")
        body = b""
        if source.random() < 0.6:
            framing, body = source.choice(
                [(b"Content-Length: 5", b"hello"), (b"Transfer-Encoding: chunked", source.choice(_BODIES))]
            )
            fields.insert(source.randint(0, len(fields)), framing)
        elif source.random() < 0.3:
            body = source.choice(_BODIES)
        data += b"\r\n".join([source.choice(_LINES[: 6 if good else None]), *fields, b"", b""]) + body
    for _ in range(source.choice((0, 0, 1, 1, 2, 4))):
        place = source.randint(0, len(data))
        kind = source.random()
        if kind < 0.5:
            data = data[:place] + source.choice(_BITS) + data[place:]
        elif kind < 0.75:
            data = data[:place] + data[place + source.randint(1, 8) :]
        else:
            data = data[:place] + bytes([source.randrange(256)]) + data[place + 1 :]
    return data


def run(pieces: list[bytes]) -> Seen:
    """Give the pieces to a worker's connection, answering what is complete."""
    wire = Wire()
    answered = 0
    for piece in pieces:
        wire.client_sends(piece)
        while wire.answer():
            answered += 1
    try:
        requests = wire.complete_requests()
    except h11.RemoteProtocolError as error:
        raise Finding(f"h11 can't read what was passed on: {error}") from None
    return Seen(sorted(requests), wire.statuses(), answered)


def check(data: bytes, source: random.Random) -> None:
    """Raises Finding if the stream is handled wrongly."""
    whole = run([data])
    if len(whole.requests) != whole.answered:
        raise Finding(f"pylb counted {whole.answered} requests, h11 read {len(whole.requests)}")
    cuts = sorted({0, len(data), *(source.randint(0, len(data)) for _ in range(source.choice((1, 3, 30))))})
    cut = run([data[start:end] for start, end in zip(cuts, cuts[1:], strict=False)])
    if cut != whole:
        raise Finding(f"cut at {cuts}: {cut} instead of {whole}")


def check_seed(seed: str) -> None:
    """The stream of a seed."""
    source = random.Random(seed)
    check(stream(source), source)


def main() -> None:
    chosen = fuzzing.options(__doc__).parse_args()
    if chosen.seed:
        console.print(stream(random.Random(chosen.seed)))
        check_seed(chosen.seed)
        return
    found = fuzzing.fuzz(check_seed, chosen)
    if chosen.more is not None:
        found = fuzzing.with_earlier(found, chosen.more, check_seed)
    lines = [
        "# Damaged streams of requests, judged by h11",
        "",
        f"Written by `python -m bench.fuzz`. {in_words()}.",
        "",
        f"{found.inputs:,} streams of 1 to 4 requests in {found.minutes:.1f} minutes, each in one piece and "
        f"cut at random places: **{len(found.findings)} findings**.",
    ]
    write("fuzz", asdict(found), lines, chosen.out)
    sys.exit(bool(found.findings))


if __name__ == "__main__":
    main()
