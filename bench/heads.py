"""``python -m bench.heads``: what a head costs to read, and whether the worst cost more the longer they are.

The first table has usual heads, equal ones and ones that differ each time. The second has the worst heads
that we could think of, in growing sizes and with the limits out of the way: the cost per KiB must not grow.
If it more than doubles, the exit code is 1. CPU time of this process, the minimum of some rounds; no sockets.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
import time
from collections.abc import Callable, Iterable

from rich.console import Console
from rich.table import Table

from pylb.http import request as request_module
from pylb.http.added import USUAL_NAMES, Sends
from pylb.http.errors import Refused
from pylb.http.request import HeadLimits, RequestHead
from pylb.http.response import BadResponse, read_response

console = Console(width=110)
_SIZES = (4_000, 16_000, 64_000, 256_000)  # bytes
_BOUNDLESS = HeadLimits(1 << 30, 1 << 30, 1 << 30)
_COUNT = 1000  # heads per round
_ROUNDS = 30

_CURL = b"Host: example.org\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n"
_BROWSER = (
    b"Host: www.example.org\r\nConnection: keep-alive\r\nUpgrade-Insecure-Requests: 1\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n"
    b"Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-Dest: document\r\n"
    b"Referer: https://www.example.org/a/page\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n"
    b"Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n"
)
_ANSWER = (
    b"HTTP/1.1 200 OK\r\nserver: example\r\ndate: Thu, 26 Nov 2026 15:00:00 GMT\r\nconnection: keep-alive\r\n"
    b"content-type: application/json\r\ncontent-length: 128\r\nvary: accept-encoding\r\n"
)


def _differs(number: int) -> bytes:
    trace = b"traceparent: 00-0af7651916cd43dd8448eb21%08x-b7ad6b7169203331-01\r\n" % number
    return b"Cookie: session=0123456789abcdef0123456789abcdef%016x; theme=dark\r\n" % number + trace


USUAL: dict[str, Callable[[int], bytes]] = {
    "curl, equal": lambda number: b"GET /a HTTP/1.1\r\n" + _CURL + b"\r\n",
    "curl, path differs": lambda number: b"GET /a/%d HTTP/1.1\r\n" % number + _CURL + b"\r\n",
    "curl, path, cookie, trace differ": lambda number: (
        b"GET /a/%d HTTP/1.1\r\n" % number + _CURL + _differs(number) + b"\r\n"
    ),
    "browser, equal": lambda number: b"GET /a HTTP/1.1\r\n" + _BROWSER + _differs(7) + b"\r\n",
    "browser, path, cookie, trace differ": lambda number: (
        b"GET /a/%d HTTP/1.1\r\n" % number + _BROWSER + _differs(number) + b"\r\n"
    ),
}


def _lines(line: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """So many different lines."""

    def fill(size: int) -> bytes:
        lines: list[bytes] = []
        length = 0
        for number in itertools.count():
            if length >= size:
                return b"".join(lines)
            lines.append(line(number))
            length += len(lines[-1])
        raise AssertionError

    return fill


WORST: dict[str, Callable[[int], bytes]] = {
    # Many lines
    "a:": _lines(lambda number: b"a:\r\n"),
    "unknown names": _lines(lambda number: b"%x:\r\n" % number),
    "nearly a known name": _lines(lambda number: b"x-forwarded-hos:\r\n"),
    "te, all different": _lines(lambda number: b"te:%x\r\n" % number),
    "te, all equal": _lines(lambda number: b"te:\r\n"),
    "connection, each names a line": _lines(lambda number: b"connection:%x\r\n%x:\r\n" % (number, number)),
    "upgrade": _lines(lambda number: b"upgrade:%x\r\n" % number),
    "x-forwarded-for": _lines(lambda number: b"x-forwarded-for:%x\r\n" % number),
    "forwarded": _lines(lambda number: b"forwarded:%x\r\n" % number),
    "x-real-ip": _lines(lambda number: b"x-real-ip:%x\r\n" % number),
    "traceparent": _lines(lambda number: b"traceparent:%x\r\n" % number),
    "a long x-forwarded-for": lambda size: b"x-forwarded-for: " + b"a," * (size // 2) + b"\r\n",
    "x-request-id": _lines(lambda number: b"x-request-id:%x\r\n" % number),
    "underscores": _lines(lambda number: b"x_forwarded-for:\r\n"),
    "good ones, then a bad one": lambda size: b"a:\r\n" * (size // 4) + b"b\r\n",
    # Long ones
    "a long value": lambda size: b"a:" + b"b" * size + b"\r\n",
    "a long name": lambda size: b"a" * size + b":\r\n",
    "a long name without a colon": lambda size: b"a" * size + b"\r\n",
    "a value of blanks, bad at the end": lambda size: b"te:" + b" " * size + b"\x00\r\n",
    "te x, blanks, y": _lines(lambda number: b"te: x" + b" " * 900 + b"y\r\n"),
    "a long host": lambda size: b"host: " + b"a" * size + b"\r\n",
    "a long host, bad at the end": lambda size: b"host: " + b"a" * size + b"/\r\n",
    "a host of colons": lambda size: b"host: [" + b":" * size + b"\r\n",
    "a long list in connection": lambda size: b"connection: " + b"a," * (size // 2) + b"\r\n",
    "connection and a long upgrade": lambda size: (
        b"connection: upgrade\r\nupgrade:" + b"a/" * (size // 2) + b"\r\n"
    ),
    "a long content-length": lambda size: b"content-length: " + b"1" * size + b"\r\n",
    "bare LFs": lambda size: b"a: b" + b"\n" * size + b"\r\n",
    "bare CRs": lambda size: b"a: b" + b"\r" * size + b"\r\n",
}
LONG_LINES: dict[str, Callable[[int], bytes]] = {
    "a long path": lambda size: b"GET /" + b"a" * size + b" HTTP/1.1",
    "a long path, bad at the end": lambda size: b"GET /" + b"a" * size + b" HTTP/1.x",
    "a long method": lambda size: b"G" * size + b" / HTTP/1.1",
    "a long authority": lambda size: b"GET http://" + b"a" * size + b" HTTP/1.1",
    "a long authority, bad at the end": lambda size: b"GET http://" + b"a" * size + b"\\ HTTP/1.1",
    "a long port": lambda size: b"GET http://a:" + b"1" * size + b" HTTP/1.1",
    "a long absolute path, bad at the end": lambda size: b"GET http://a/" + b"a" * size + b"# HTTP/1.1",
}


def _request_head(limits: HeadLimits, everything: bool = False) -> RequestHead:
    """A reader that knows no head, not even the last that another has read."""
    request_module._last = None
    sends = Sends(USUAL_NAMES | {b"forwarded", b"x-real-ip"}, True, "add", "add") if everything else Sends()
    trusts = (lambda address: True) if everything else None
    return RequestHead(*(b"192.0.2.7", b"192.0.2.1:80", b"http", limits, sends), trusts=trusts)


def microseconds(rounds: int, read: Callable[[bytes], object], heads: Iterable[bytes]) -> float:
    """CPU time per head; refused ones count as any other."""
    heads = list(heads)
    best = float("inf")
    for _ in range(rounds):
        begin = time.process_time_ns()
        for head in heads:
            with contextlib.suppress(Refused, BadResponse):
                read(head)
        best = min(best, (time.process_time_ns() - begin) / 1e3 / len(heads))
    return best


def worst() -> Iterable[tuple[str, Callable[[bytes], object], Callable[[int], bytes]]]:
    """Names, readers, and heads of about a size."""
    get = b"GET / HTTP/1.1\r\n"
    for name, make in LONG_LINES.items():
        yield (
            name,
            lambda raw: _request_head(_BOUNDLESS).parse(raw),
            lambda size, make=make: (  # type: ignore[misc]
                make(size) + b"\r\nhost: a\r\n\r\n"
            ),
        )
    for name, make in WORST.items():
        host = b"" if b"host:" in make(10) else b"host: a\r\n"
        for everything in (False, True):
            yield (
                name + (", trusted" if everything else ""),
                lambda raw, everything=everything: _request_head(_BOUNDLESS, everything).parse(raw),  # type: ignore[misc]
                lambda size, make=make, host=host: get + host + make(size) + b"\r\n",  # type: ignore[misc]
            )
        yield (
            name + ", response",
            lambda raw: read_response(raw, False),
            lambda size, make=make: b"HTTP/1.1 200 OK\r\n" + make(size) + b"\r\n",  # type: ignore[misc]
        )


def main() -> None:
    table = Table("head", "bytes", "µs")
    for name, usual in USUAL.items():
        numbers = itertools.count(1000)
        reader = _request_head(HeadLimits())
        cost = min(
            microseconds(1, reader.parse, (usual(number) for number in itertools.islice(numbers, _COUNT)))
            for _ in range(_ROUNDS)
        )
        table.add_row(name, str(len(usual(1000))), f"{cost:.2f}")
    for name, extra in (
        ("response", b""),
        ("response, set-cookie", b"set-cookie: a=b; Path=/; HttpOnly\r\n"),
    ):
        answer = _ANSWER + extra + b"\r\n"
        cost = microseconds(_ROUNDS, lambda raw: read_response(raw, False), [answer] * _COUNT)
        table.add_row(name, str(len(answer)), f"{cost:.2f}")
    console.print(table)
    table = Table(
        "µs per KiB of a head of", *(f"{size // 1000} kB" for size in _SIZES), "14 kB within the limits, µs"
    )
    grown = []
    for name, read, make in worst():
        per_kib = []
        for size in _SIZES:
            raw = make(size)
            per_kib.append(microseconds(5, read, [raw]) / (len(raw) / 1024))
            if per_kib[-1] > 2 * min(per_kib) + 0.5:
                grown.append(name)
                break  # the next would take too long
        usual_limits = ""
        if not name.endswith(("response", "trusted")):
            cost = microseconds(20, lambda raw: _request_head(HeadLimits()).parse(raw), [make(14_000)])
            usual_limits = f"{cost:.0f}"
        costs = [f"{one:.1f}" for one in per_kib] + [""] * (len(_SIZES) - len(per_kib))
        table.add_row(name, *costs, usual_limits)
    console.print(table)
    if grown:
        console.print("[red]The cost grows faster than the head:[/] " + "; ".join(grown))
    sys.exit(bool(grown))


if __name__ == "__main__":
    main()
