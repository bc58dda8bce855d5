"""The exchanges of checks: bytes of a server are played, whole and byte by byte, to a verdict."""

from __future__ import annotations

import re
import struct

import hpack
import pytest

from pylb.health.exchange import LARGEST, Exchange, Verdict
from pylb.health.expect import Expected, Request
from pylb.health.http2 import frame
from pylb.health.protocols import PROTOCOLS, Settings


def play(exchange: Exchange, answer: bytes, piece: int = 1 << 20, end: bool = True) -> Verdict | None:
    """Let a server send ``answer`` in pieces and close; what came of it."""
    exchange.begin()
    for at in range(0, len(answer), piece):
        if exchange.verdict is None:
            exchange.came(answer[at : at + piece])
    if exchange.verdict is None and end:
        exchange.ended()
    return exchange.verdict


def postgres(kind: bytes, payload: bytes) -> bytes:
    return kind + struct.pack("!L", 4 + len(payload)) + payload


def mysql(sequence: int, payload: bytes) -> bytes:
    return struct.pack("<L", len(payload) | sequence << 24) + payload


GREETING = mysql(0, b"\x0a8.0.36\0" + bytes(40))
REFUSED = postgres(b"E", b"SFATAL\0C28000\0Mno pg_hba.conf entry for host\0\0")
STARTING = postgres(b"E", b"SFATAL\0C57P03\0Mthe database system is starting up\0\0")
LET_IN = postgres(b"R", bytes(4)) + postgres(b"S", b"server_version\x0015\0") + postgres(b"K", bytes(8))
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nall ok\n"
PLAIN, BODY = Expected(), Expected(text=b"all ok")
FINE = "all (ok|fine)"
REGEX = Expected(search=lambda body: re.search(FINE.encode(), body) is not None, expression=FINE)

CASES: list[tuple[str, Settings, bytes, bool, str]] = [
    ("tcp", Settings(), b"", True, "it takes connections"),
    ("http", Settings(), OK, True, "it answers 200"),
    ("http", Settings(), b"HTTP/1.0 302 Found\r\nLocation: /x\r\n\r\n", True, "it answers 302"),
    ("http", Settings(), b"HTTP/1.1 503 No\r\n\r\n", False, "it answers 503, expected 200-399"),
    ("http", Settings(expected=Expected((range(401, 402), range(200, 300)))), b"HTTP/1.1 302 F\r\n\r\n",
     False,
     "it answers 302, expected 401 or 200-299"),
    ("http", Settings(), b"HTTP/1.1 103 Early\r\nLink: x\r\n\r\n" + OK, True, "it answers 200"),
    ("http", Settings(expected=BODY), OK, True, "it answers 200, and its body is as expected"),
    ("http", Settings(expected=BODY), OK.replace(b"all", b"not"), False,
     "it answers 200, and its body lacks 'all ok': 'not ok'"),
    ("http", Settings(expected=BODY), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
     b"4\r\nall \r\n2\r\nok\r\n0\r\n\r\n", True, "it answers 200, and its body is as expected"),
    ("http", Settings(expected=BODY), b"HTTP/1.1 200 OK\r\n\r\nit is all ok", True,
     "it answers 200, and its body is as expected"),
    ("http", Settings(expected=BODY), b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n", False,
     "its answer has a malformed body"),
    ("http", Settings(expected=REGEX), OK, True, "it answers 200, and its body is as expected"),
    ("http", Settings(expected=REGEX), OK.replace(b"all", b"bad"), False,
     "it answers 200, and its body doesn't match 'all (ok|fine)': 'bad ok'"),
    ("http", Settings(), b"", False, "the server closed the connection before it had answered"),
    ("redis", Settings(), b"+PONG\r\n", True, "it answers PONG"),
    ("redis", Settings(), b"-NOAUTH Authentication required.\r\n", True, "it asks for a password"),
    ("redis", Settings(), b"-LOADING Redis is loading the dataset in memory\r\n", False,
     "it says 'LOADING Redis is loading the dataset in memory'"),
    ("redis", Settings(), b"HTTP/1.1 400 Bad\r\n", False, "what it answers is no Redis: 'HTTP/1.1 400 Bad'"),
    ("smtp", Settings(), b"220-mail\r\n220 ready\r\n250-mail\r\n250 SIZE\r\n", True, "it says '250 SIZE'"),
    ("smtp", Settings(), b"554 no service\r\n", False, "it says '554 no service'"),
    ("smtp", Settings(), b"220 ready\r\n502 what?\r\n", False, "it says '502 what?'"),
    ("smtp", Settings(), b"SSH-2.0-x\r\n", False, "what it answers is no SMTP: 'SSH-2.0-x'"),
    ("smtp", Settings(), b"", False, "the server closed the connection before it had greeted"),
    ("postgresql", Settings(), LET_IN + postgres(b"Z", b"I"), True, "it lets pylb in"),
    ("postgresql", Settings(), LET_IN + postgres(b"E", b"C53300\0Mtoo many clients already\0\0"), False,
     "it says 'too many clients already' (53300)"),
    ("postgresql", Settings(), postgres(b"R", b"\0\0\0\x0aSCRAM-SHA-256\0\0"), True,
     "it asks for a password"),
    ("postgresql", Settings(), postgres(b"N", b"SNOTICE\0\0") + REFUSED, True, "it answers, though it"),
    ("postgresql", Settings(), REFUSED, True,
     "it answers, though it refuses: 'no pg_hba.conf entry for host'"),
    ("postgresql", Settings(), STARTING, False, "it says 'the database system is starting up' (57P03)"),
    ("postgresql", Settings(), b"HTTP/1.1 400 Bad\r\n", False,
     "what it answers is no PostgreSQL: 'HTTP/1.1 400 Bad'"),
    ("mysql", Settings(), GREETING, True, "it is MySQL '8.0.36'"),
    ("mysql", Settings(), mysql(0, b"\xff\x10\x04Too many connections"), False,
     "it says 'Too many connections' (1040)"),
    ("mysql", Settings(user="lb"), GREETING + mysql(2, b"\0\0\0\2\0\0\0"), True, "it lets lb in"),
    ("mysql", Settings(user="lb"), GREETING + mysql(2, b"\xfecaching_sha2_password\0a") + mysql(4, bytes(7)),
     True, "it lets lb in"),
    ("mysql", Settings(user="lb"), GREETING + mysql(2, b"\xff\x15\x04#28000Access denied"), False,
     "it says 'Access denied' (1045)"),
    ("mysql", Settings(), b"SSH-2.0-OpenSSH\r\n", False, "what it answers is no MySQL: 'SSH-2.0-OpenSSH'"),
    ("agent", Settings(), b"up\n", True, "the agent says 'up'"),
    ("agent", Settings(), b"down # backup runs\n", False, "the agent says 'down # backup runs'"),
    ("agent", Settings(), b"75%", True, "the agent says '75%'"),
    ("agent", Settings(), b"", False, "the agent closed the connection before it had said anything"),
    ("agent", Settings(), b"rm -rf\n", False, "the agent says what nobody understands: 'rm -rf'"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings", "answer", "passed", "reason"), CASES)
@pytest.mark.parametrize("piece", [1 << 20, 1])
def test_verdict(name: str, settings: Settings, answer: bytes, passed: bool, reason: str, piece: int) -> None:
    verdict = play(PROTOCOLS[name](settings), answer, piece)
    assert verdict is not None
    if "what it answers is no" in reason and piece == 1:  # quoted is what has come up to there
        reason = reason.partition(": ")[0]
    assert (verdict.passed, verdict.reason[: len(reason)]) == (passed, reason)


@pytest.mark.parametrize(
    ("line", "passed", "at_once", "weight"),
    [
        (b"up\n", True, True, None),
        (b"up,80%\n", True, True, 80),
        (b"down\r\n", False, True, None),
        (b"stopped\n", False, True, None),
        (b"failed#oom\n", False, True, None),
        (b"maint\n", False, True, None),
        (b"drain\n", True, False, 0),
        (b"ready\n", True, True, 100),
        (b"READY 50%\n", True, True, 50),
        (b"75%\n", True, False, 75),
        (b"maxconn:30\n", True, False, None),
        (b"\n", False, False, None),
    ],
)
def test_words_of_an_agent(line: bytes, passed: bool, at_once: bool, weight: int | None) -> None:
    verdict = play(PROTOCOLS["agent"](Settings()), line)
    assert verdict is not None
    assert (verdict.passed, verdict.at_once, verdict.weight) == (passed, at_once, weight)


def test_what_is_sent() -> None:
    request = Request("OPTIONS", "/h?x=1", "site.example", (("X-Check", "1"), ("User-Agent", "me")))
    assert PROTOCOLS["http"](Settings(request)).begin() == (
        b"OPTIONS /h?x=1 HTTP/1.1\r\nHost: site.example\r\nConnection: close\r\nX-Check: 1\r\n"
        b"User-Agent: me\r\n\r\n"
    )
    postgresql = PROTOCOLS["postgresql"](Settings(user="lb"))
    assert postgresql.begin() == b"\0\0\0\x23\0\3\0\0user\0lb\0database\0postgres\0\0"
    postgresql.came(postgres(b"R", b"\0\0\0\3"))
    assert postgresql.verdict is not None and postgresql.bye == b""
    postgresql = PROTOCOLS["postgresql"](Settings())
    postgresql.came(LET_IN + postgres(b"Z", b"I"))
    assert postgresql.bye == b"X\0\0\0\4"
    assert PROTOCOLS["agent"](Settings(send=b"hello\n")).begin() == b"hello\n"
    smtp = PROTOCOLS["smtp"](Settings(Request(host="lb.example")))
    smtp.begin()
    assert smtp.came(b"220 ready\r\n") == b"EHLO lb.example\r\n"
    smtp.came(b"250 hello\r\n")
    assert smtp.bye == b"QUIT\r\n"
    mysql_ = PROTOCOLS["mysql"](Settings(user="lb"))
    mysql_.begin()
    login = mysql_.came(GREETING)
    assert login[:4] == struct.pack("<L", len(login) - 4 | 1 << 24) and login[36:40] == b"lb\0\0"
    assert mysql_.came(mysql(2, b"\xfex\0y")) == b"\0\0\0\3"


def test_a_body_without_end_is_judged_by_its_first_64_kib() -> None:
    for begins, passed in ((b"all ok", True), (b"", False)):
        exchange = PROTOCOLS["http"](Settings(expected=BODY))
        answer = (b"HTTP/1.1 200 OK\r\n\r\n" + begins).ljust(LARGEST, b".")
        verdict = play(exchange, answer)
        assert verdict is not None and verdict.passed is passed


# HTTP/2 and gRPC.


def headers(*fields: tuple[str, str], end: bool = False) -> bytes:
    return frame(1, 5 if end else 4, 1, hpack.Encoder().encode(fields))


SETTINGS = frame(4, 0, 0) + frame(4, 1, 0)
HEAD = headers((":status", "200"), ("content-type", "application/grpc"))
TRAILERS = headers(("grpc-status", "0"), end=True)


def message(*numbers: int) -> bytes:
    return frame(0, 0, 1, b"\0\0\0\0" + bytes([len(numbers), *numbers]))


H2 = Settings(http2=True)
H2_CASES: list[tuple[str, Settings, bytes, bool, str]] = [
    ("http", H2, SETTINGS + headers((":status", "204"), end=True), True, "it answers 204"),
    ("http", H2, SETTINGS + headers((":status", "503"), end=True), False,
     "it answers 503, expected 200-399"),
    ("http", H2, headers((":status", "103")) + headers((":status", "200")), True, "it answers 200"),
    ("http", Settings(http2=True, expected=BODY), headers((":status", "200")) + frame(0, 0, 1, b"all ")
     + frame(0, 9, 1, b"\3ok\0\0\0"), True, "it answers 200, and its body is as expected"),
    ("http", H2, b"HTTP/1.1 400 Bad Request\r\n\r\n", False, "what it answers is no HTTP/2"),
    ("http", H2, SETTINGS + frame(3, 0, 1, b"\0\0\0\7"), False,
     "it resets the stream with the HTTP/2 error 7"),
    ("http", H2, frame(7, 0, 0, b"\0\0\0\0\0\0\0\x0b"), False,
     "it closes the connection with the HTTP/2 error 11"),
    ("http", H2, frame(1, 0, 1, b"\x88") + frame(9, 4, 1, b""), True, "it answers 200"),
    ("http", H2, frame(1, 0, 1, b"\x88") + frame(0, 0, 1, b""), False, "what it answers is malformed HTTP/2"),
    ("http", H2, frame(1, 12, 1, b"\x09\x88"), False, "what it answers is malformed HTTP/2"),
    ("http", H2, frame(1, 4, 1, b"\xff\xff\xff\xff\xff\xff"), False, "what it answers is malformed HTTP/2"),
    ("grpc", Settings(), SETTINGS + HEAD + message(8, 1) + TRAILERS, True, "its state is SERVING"),
    ("grpc", Settings(service="a.B"), HEAD + message(8, 2) + TRAILERS, False,
     "a.B: its state is NOT_SERVING"),
    ("grpc", Settings(), HEAD + message() + TRAILERS, False, "its state is UNKNOWN"),
    ("grpc", Settings(service="x"), headers((":status", "200"), ("grpc-status", "5"), end=True), False,
     "it doesn't know the service (gRPC status 5)"),
    ("grpc", Settings(), headers((":status", "200"), ("grpc-status", "12"), end=True), False,
     "it has no health service (gRPC status 12)"),
    ("grpc", Settings(), headers((":status", "404"), end=True), False, "it answers 404 to gRPC"),
    ("grpc", Settings(), HEAD + frame(0, 0, 1, b"\1\0\0\0\2xx") + TRAILERS, False,
     "what it answers is malformed HTTP/2"),
    ("grpc", Settings(), HEAD + message(8, 1), False,
     "the server closed the connection before it had answered"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "settings", "answer", "passed", "reason"), H2_CASES)
@pytest.mark.parametrize("piece", [1 << 20, 1])
def test_verdict_over_http2(
    name: str, settings: Settings, answer: bytes, passed: bool, reason: str, piece: int
) -> None:
    verdict = play(PROTOCOLS[name](settings), answer, piece)
    assert verdict is not None
    assert (verdict.passed, verdict.reason) == (passed, reason)


def test_settings_and_pings_are_answered() -> None:
    exchange = PROTOCOLS["http"](H2)
    exchange.begin()
    assert exchange.came(frame(4, 0, 0) + frame(6, 0, 0, b"12345678")) == (
        frame(4, 1, 0) + frame(6, 1, 0, b"12345678")
    )
