"""``python -m tests.http.oracle.fuzz SEED HEADS``: the reader of heads against the one that it replaces.

Each batch has a seed, ``SEED.number``; ``--only SEED.number`` repeats one. A batch is a sequence of heads that
go through one reader of the new kind (so that what is remembered of the last head is tried too) and through
a fresh one of the old kind each, half of the batches without its memory of lines and blocks.
"""

from __future__ import annotations

import collections
import random
import re
import sys
import time
import uuid
from typing import Any

from pylb.http import request as new_request
from pylb.http import response as new_response
from pylb.http.errors import Refused as NewRefused
from tests.http import test_bad_responses, test_fields_pool, test_refusals
from tests.http.oracle import request as old_request
from tests.http.oracle import response as old_response
from tests.http.oracle.fields import FieldLines

HEADS = [
    # Browsers
    b"GET /a/page?q=1&r=%20x HTTP/1.1\r\nHost: www.example.org\r\nConnection: keep-alive\r\n"
    b'sec-ch-ua: "Chromium";v="130", "Not?A_Brand";v="99"\r\nsec-ch-ua-mobile: ?0\r\n'
    b'sec-ch-ua-platform: "Linux"\r\nUpgrade-Insecure-Requests: 1\r\n'
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/130.0\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8\r\n"
    b"Sec-Fetch-Site: none\r\nSec-Fetch-Mode: navigate\r\nSec-Fetch-User: ?1\r\nSec-Fetch-Dest: document\r\n"
    b"Accept-Encoding: gzip, deflate, br, zstd\r\nAccept-Language: en-GB,en;q=0.9\r\n"
    b"Cookie: session=0123456789abcdef; theme=dark\r\n\r\n",
    b"GET /style.css HTTP/1.1\r\nHost: example.org:8080\r\nUser-Agent: Mozilla/5.0 (rv:140.0) Firefox/140.0\r\n"
    b"Accept: text/css,*/*;q=0.1\r\nReferer: https://example.org/\r\nDNT: 1\r\nConnection: keep-alive\r\n"
    b'If-None-Match: "abc"\r\nPriority: u=2\r\nPragma: no-cache\r\nCache-Control: no-cache\r\nTE: trailers\r\n\r\n',
    b"POST /form HTTP/1.1\r\nHost: [2001:db8::1]:80\r\nContent-Type: application/x-www-form-urlencoded\r\n"
    b"Content-Length: 27\r\nOrigin: https://example.org\r\nConnection: keep-alive\r\n\r\n",
    # Tools
    b"GET / HTTP/1.1\r\nHost: a\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n",
    b"PUT /up HTTP/1.1\r\nHost: a\r\nUser-Agent: curl/8.5.0\r\nContent-Length: 1048577\r\nExpect: 100-continue\r\n\r\n",
    b"POST /up HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\nTE: trailers\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
    b"HTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n\r\n",
    b"GET / HTTP/1.0\r\nHost: a:80\r\nUser-Agent: ApacheBench/2.3\r\nAccept: */*\r\n\r\n",
    b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nhost: 10.0.0.7:8080\r\nuser-agent: kube-probe/1.30\r\nconnection: close\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: a\r\nAccept-Encoding: identity\r\nUser-Agent: Wget/1.21\r\n"
    b"Connection: Keep-Alive\r\nKeep-Alive: timeout=5, max=100\r\nProxy-Connection: keep-alive\r\n\r\n",
    b"GET http://example.org:80/x?y HTTP/1.1\r\nHost: example.org:80\r\nProxy-Connection: Keep-Alive\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n",
    b"OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n",
    b"PRI * HTTP/2.0\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    # gRPC, WebSocket, traces
    b"POST /pkg.Service/Call HTTP/1.1\r\nHost: grpc.example.org\r\ncontent-type: application/grpc+proto\r\n"
    b"te: trailers\r\ngrpc-timeout: 1S\r\ngrpc-accept-encoding: gzip\r\ntransfer-encoding: chunked\r\n"
    b"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\ntracestate: a=b\r\n\r\n",
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
    # Behind another proxy
    b"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1, 198.51.100.2\r\nX-Forwarded-Proto: https\r\n"
    b"X-Forwarded-Host: b.example\r\nForwarded: for=192.0.2.1;proto=https\r\nX-Request-ID: 7b1c\r\n"
    b"Via: 1.1 other\r\nX-Real-IP: 192.0.2.1\r\nX-Client-Cert-Subject: CN=x\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: a\r\nX_Forwarded_For: 1\r\nx-request_id: 2\r\nX-Forwarded-For: 3\r\n"
    b"X-Forwarded-For: 4\r\nForwarded: for=5\r\nForwarded: \r\n\r\n",
    b"GET / HTTP/1.1\r\nConnection: x-a, x-b,close , TE\r\nX-A: 1\r\nX-B: 2\r\nX-C: 3\r\nx-a: 4\r\nHost: a\r\n\r\n",
]
RESPONSES = [
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Thu, 26 Nov 2026 15:00:00 GMT\r\n"
    b"Content-Type: text/html; charset=utf-8\r\nContent-Length: 128\r\nLast-Modified: Thu, 26 Nov 2026\r\n"
    b'Connection: keep-alive\r\nETag: "abc"\r\nAccept-Ranges: bytes\r\n\r\n',
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\nset-cookie: a=b; Path=/\r\n"
    b"set-cookie: c=d\r\nvary: accept-encoding\r\nx-request-id: 17\r\nconnection: keep-alive\r\n"
    b"keep-alive: timeout=5\r\n\r\n",
    b"HTTP/1.0 302 Found\r\nLocation: /x\r\nConnection: close\r\n\r\n",
    b'HTTP/1.1 304 Not Modified\r\nETag: "a"\r\nContent-Length: 10\r\n\r\n',
    b"HTTP/1.1 204 No Content\r\nServer: a\r\n\r\n",
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: x\r\n\r\n",
    b"HTTP/1.1 103 Early Hints\r\nLink: </s.css>; rel=preload\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 500 \r\nX-A: 1\r\nConnection: x-a, date\r\nDate: x\r\nProxy-Connection: close\r\nTE: x\r\n\r\n",
    b"HTTP/1.1 200\r\nContent_Length: 3\r\nUpgrade: h2c\r\nA: \xe9\r\n\r\n",
]
LINES = [
    *test_fields_pool.LINES,
    *test_refusals.BAD_FIELDS,
    *(b"Content-Length: " + value for value in test_refusals.BAD_LENGTHS),
    *(b"Transfer-Encoding: " + value for value in test_refusals.BAD_ENCODINGS),
    *(name + b": 1" for name in (b"Content_Length", b"transfer_encoding", b"HTTP2_Settings", b"Keep_Alive")),
    *(b"Expect:", b"Expect: 100-Continue", b"eXPECT: x", b"Expect_: 1", b"X-Forwarded_Proto: h", b"Te_: 1"),
    *(b"Upgrade:", b"Upgrade: a/b", b"Upgrade: a b", b"upgrade: H2", b"Upgrade: x,", b"Connection: upgrade"),
    *(b"Connection:", b"Connection: ,", b"Connection: close, upgrade", b"Connection: Keep-Alive"),
    *(b"Connection: host", b"Connection: content-length, via", b"Connection: transfer-encoding,cookie"),
    *(
        b"Connection: a b;c",
        b"Connection: \xe9x-a",
        b"connection: x-forwarded-for",
        b"Connection: upgrade,te",
    ),
    *(
        b"Host:",
        b"Host: [::1]:80",
        b"Host: a:65535",
        b"Host: a:65536",
        b"Host: A.B",
        b"HOST:\ta \t",
        b"Host: a/b",
    ),
    *(b"X-Request-ID:", b"x-request-id: 1", b"X-Forwarded-Host: c:1", b"x-forwarded-proto: https"),
    *(
        b"x-forwarded-for:",
        b"X-Forwarded-For:  1.2.3.4 ",
        b"forwarded:",
        b"Forwarded: a, b",
        b"tex: 1",
        b"hosts: a",
    ),
    *(
        b"Content-Length: 0",
        b"Content-Length: 000000000000000001",
        b"Content-Length:\t5 ",
        b"Content-Length:7",
    ),
    *(
        b"Transfer-Encoding:\tChunked ",
        b"transfer-encoding:chunked",
        b"TE:",
        b"te: a",
        b"TE: b",
        b"A:",
        b"A: ",
    ),
]
REQUEST_LINES = [
    *(raw.split(b"\r\n")[0] for raw, _, _ in test_refusals.CASES.values()),
    *(raw.split(b"\r\n")[0] for raw, _ in test_refusals.ACCEPTED.values()),
    *(
        b"GET http://[::1]:8/ HTTP/1.1",
        b"GET HTTPS://a?b HTTP/1.0",
        b"A / HTTP/1.1",
        b"GET http://A/ HTTP/1.1",
    ),
    *(b"TRACER / HTTP/1.1", b"CONNECT / HTTP/1.1", b"get / HTTP/1.0", b"GET /" + b"p" * 8170 + b" HTTP/1.1"),
    *(
        b"GET http://a/#x HTTP/1.1",
        b"GET http://a:99999/ HTTP/1.1",
        b"OPTIONS * HTTP/1.0",
        b"OPTIONS http://a?b HTTP/1.1",
    ),
]
STATUS_LINES = [raw.split(b"\r\n")[0] for raw in test_bad_responses.BAD] + [
    *(b"HTTP/1.1 200 OK: a", b"HTTP/1.0 199 ", b"HTTP/1.1 599 \xe9\t", b"HTTP/1.1 100", b"HTTP/1.1 200 a:b"),
    *(b"HTTP/1.0 204 x", b"HTTP/1.1 304", b"HTTP/1.1 101 x", b"HTTP/1.1 205 x"),
]
BITS = [
    *(b"\r\n", b"\n", b"\r", b" ", b"\t", b":", b"\x00", b"0", b"chunked", b",", b";", b"\r\n\r\n", b"\x0b"),
    *(
        b"HTTP/1.1",
        b"-",
        b"_",
        b"+",
        b"\xff",
        b"\x7f",
        b"\x80",
        b": ",
        b"\r\n ",
        b"\r\r\n",
        b"#",
        b'"',
        b"/",
        b"?",
    ),
    *(
        b"close",
        b"upgrade",
        b"keep-alive",
        b"\r\nHost: a",
        b"\r\nContent-Length: 1",
        b"\x1f",
        b"\x85",
        b"\xa0",
        b"\x0c",
    ),
]
NAMES = [
    *(b"connection", b"content-length", b"expect", b"forwarded", b"host", b"http2-settings", b"keep-alive"),
    *(b"proxy-connection", b"te", b"transfer-encoding", b"upgrade", b"x-client-cert-subject"),
    *(
        b"x-forwarded-for",
        b"x-forwarded-host",
        b"x-forwarded-proto",
        b"x-request-id",
        b"cookie",
        b"x-a",
        b"date",
    ),
]


def mutate(source: random.Random, raw: bytes, firsts: list[bytes], heads: list[bytes]) -> bytes:
    """A head much like this one."""
    pick = source.random
    lines = raw[:-4].split(b"\r\n")
    for _ in range(source.choice((0, 1, 1, 1, 2, 2, 3, 5))):
        kind = int(pick() * 16)
        place = int(pick() * len(lines))
        line = lines[place]
        if kind == 0:
            lines.insert(max(place, 1), source.choice(LINES))
        elif kind == 1:
            lines.insert(
                max(place, 1), source.choice(source.choice(heads)[:-4].split(b"\r\n")[1:] or [b"A: b"])
            )
        elif kind == 2 and place:
            del lines[place]
        elif kind == 3 and place:
            lines.insert(1 + int(pick() * len(lines)), line)
        elif kind == 4:
            lines[0] = source.choice(firsts)
        elif kind == 5:  # named by Connection
            named = b", ".join(
                source.choice(lines).partition(b":")[0] for _ in range(source.choice((1, 1, 2)))
            )
            lines.append(source.choice((b"Connection: ", b"connection:", b"Connection: close, ")) + named)
        elif kind == 6:
            name, colon, value = line.partition(b":")
            name = source.choice(
                (
                    name.upper(),
                    name.lower(),
                    name.title(),
                    name.replace(b"-", b"_", 1),
                    name.replace(b"-", b"_"),
                    name.replace(b"_", b"-"),
                    name + b" ",
                    b" " + name,
                )
            )
            lines[place] = name + colon + value
        elif kind == 7:
            name, colon, value = line.partition(b":")
            before = source.choice((b"", b" ", b"\t", b"  ", b" \t "))
            lines[place] = name + colon + before + value.strip() + source.choice((b"", b" ", b"\t", b" \t "))
        elif kind == 8:
            name = source.choice(NAMES)
            name = source.choice((name, name, name.title(), name.replace(b"-", b"_")))
            value = source.choice(LINES).partition(b":")[2]
            lines.insert(1 + int(pick() * len(lines)), name + b":" + value)
        elif kind == 9 and place:
            other = 1 + int(pick() * (len(lines) - 1))
            lines[place], lines[other] = lines[other], line
        elif kind == 10 and pick() < 0.1:
            count = source.choice((90, 99, 100, 101, 150)) - len(lines)
            lines += [
                source.choice(lines[1:] or [b"A: b"]) if pick() < 0.1 else b"A: b" for _ in range(count)
            ]
        elif kind == 11 and pick() < 0.05:
            lines[place] += source.choice((b"x", b"/", b" ", b"1")) * source.choice(
                (4000, 8150, 8200, 16000, 17000)
            )
        elif kind == 12:  # what differs from request to request
            lines[0] = lines[0].replace(b" /", b" /%d" % source.randrange(1000), 1)
        else:
            at = int(pick() * (len(line) + 1))
            if kind == 13:
                lines[place] = line[:at] + source.choice(BITS) + line[at:]
            elif kind == 14:
                lines[place] = line[:at] + line[at + source.choice((1, 1, 2, 5)) :]
            else:
                lines[place] = line[:at] + bytes([source.randrange(256)]) + line[at + 1 :]
    raw = b"\r\n".join(lines) + b"\r\n\r\n"
    if pick() < 0.02:
        return raw  # may have an empty line in it, as no caller gives it
    return raw[: raw.find(b"\r\n\r\n") + 4]


class _Id:
    hex = "0123456789abcdef"


def read(head: Any, raw: bytes, refused: Any) -> object:
    """All that is to be known of what came of a request head."""
    try:
        out = head.parse(raw)
    except refused as error:
        return error.status, error.reason
    one = (out, head.method, head.http11, head.keep_alive, head.content_length, head.chunked)
    return *one, head.fields.host, head.fields.upgrade


def answer(module: Any, raw: bytes, head_request: bool) -> object:
    """Likewise of a response head."""
    try:
        one = module.read_response(raw, head_request)
    except module.BadResponse as error:
        return str(error)
    return one.out, one.changed, one.status, one.keep_alive, one.content_length, one.chunked, one.upgrade


def forget() -> None:
    """Empty the old reader's memory."""
    old_request._LINES = FieldLines(old_request._LINES._meaningful)
    old_response._LINES = FieldLines(old_response._LINES._meaningful)


OLD = old_request.read_line, old_request.read_fields
PURE = OLD[0].__wrapped__, OLD[1].__wrapped__


def batch(seed: str, counts: collections.Counter[str], say: bool = False) -> list[str]:
    """Read some heads twice; gives the differences."""
    source = random.Random(seed)
    bare = source.random() < 0.5
    old_request.read_line, old_request.read_fields = PURE if bare else OLD
    found = []
    options: dict[str, Any] = {}
    if source.random() < 0.6:
        options = {name: source.random() < 0.5 for name in ("trusted", "forwarded", "request_id")}
        options["extra"] = source.choice((b"", b"X-Client-Cert-Subject: CN=a\r\n"))
    where = source.choice(
        (
            (b"192.0.2.7", b"h:80", b"http"),
            (b"2001:db8::1", b"[::1]:443", b"https"),
            (b"unix", b"localhost", b"http"),
        )
    )
    limits = source.choice(((8192, 16384, 100),) * 4 + ((200, 400, 5), (1 << 20, 1 << 20, 5000)))
    new = new_request.RequestHead(*where, new_request.HeadLimits(*limits), **options)
    raw = source.choice(HEADS)
    for number in range(60):
        kind = source.random()
        if kind < 0.4:
            raw = mutate(source, source.choice(HEADS), REQUEST_LINES, HEADS)
        elif kind < 0.7:
            raw = mutate(source, raw, REQUEST_LINES, HEADS)
            if len(raw) > 20000:
                raw = source.choice(HEADS)
        elif kind < 0.85:  # only the line differs
            raw = (
                b"%s /%d HTTP/1.%d" % (source.choice((b"GET", b"POST")), number, source.choice((1, 1, 1, 0)))
                + raw[raw.find(b"\r\n") :]
            )
        if bare:
            forget()
        old = old_request.RequestHead(*where, old_request.HeadLimits(*limits), **options)
        theirs = read(old, raw, NewRefused)
        ours = read(new, raw, NewRefused)
        if say:
            print(raw, ours)
        counts["accepted" if len(theirs) > 2 else "%d %s" % theirs] += 1  # type: ignore[arg-type, operator]
        if ours != theirs:
            if (
                ours == (431, "header_count")
                and len(theirs) == 2  # type: ignore[arg-type]
                and raw[raw.find(b"\r\n") : -4].count(b"\r\n") > limits[2]
            ):
                counts["too many fields, refused for another reason before"] += 1
            elif ours == (400, "syntax") and ours == read(
                old_request.RequestHead(*where, old_request.HeadLimits(*limits), **options),
                re.sub(rb"(?i)\nupgrade *:", b"\nX:", raw),
                NewRefused,
            ):
                counts["refused without the upgrade before, and with it if the line had been seen"] += 1
            else:
                found.append(f"{seed} {number} {options} {limits}\n {raw!r}\n old {theirs!r}\n new {ours!r}")
    raw = source.choice(RESPONSES)
    for number in range(30):
        raw = mutate(source, source.choice((raw, *RESPONSES)), STATUS_LINES, RESPONSES)
        if len(raw) > 20000:
            raw = source.choice(RESPONSES)
        only = source.random() < 0.2
        if bare:
            forget()
        theirs = answer(old_response, raw, only)
        ours = answer(new_response, raw, only)
        if say:
            print(raw, ours)
        counts["response: " + ("accepted" if isinstance(theirs, tuple) else str(theirs))] += 1
        if ours != theirs:
            found.append(f"{seed} response {number} {only}\n {raw!r}\n old {theirs!r}\n new {ours!r}")
    return found


def main() -> None:
    uuid.uuid4 = lambda: _Id  # type: ignore
    if sys.argv[1] == "--only":
        print("\n".join(batch(sys.argv[2], collections.Counter(), say=True)))
        return
    seed, heads = sys.argv[1], int(sys.argv[2])
    counts: collections.Counter[str] = collections.Counter()
    began = time.monotonic()
    done = number = differences = 0
    while done < heads:
        for one in batch(f"{seed}.{number}", counts):
            differences += 1
            if differences < 20:
                print(one, flush=True)
        number += 1
        done += 90
        if number % 2000 == 0:
            print(f"{done:,} heads, {differences} differences, {time.monotonic() - began:.0f} s", flush=True)
    print(
        f"seed {seed}: {done:,} heads in {number:,} batches, {differences} differences, {time.monotonic() - began:.0f} s"
    )
    for what, count in counts.most_common():
        print(f"{count:>9,}  {what}")


if __name__ == "__main__":
    main()
