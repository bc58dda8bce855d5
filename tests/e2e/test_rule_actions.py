"""What rules do to requests and responses, for clients and servers of HTTP/1 and HTTP/2, by one balancer."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from bench.rig.balancer import Balancer, free_port
from tests.e2e.http2client import Client
from tests.e2e.origin import Scripted, read_head

RULES = """
[[frontend.rule]]
match = { path = "/head" }
backend = "SERVERS"
[frontend.rule.request_headers]
remove = ["X-Internal-*", "Accept-Language"]
replace = { Cookie = { regex = "theme=[a-z]+", to = "theme={path.2}" } }
set.X-Who = "{client.ip} {server.name} {header.X-Name}"
set.X-Real-IP = "{client.ip}"
set.X-Empty = "{header.X-No}"
add = { X-Tag = ["one", "two"] }
[frontend.rule.response_headers]
remove = "Server"
replace = { X-Version = { regex = "([0-9]+)\\\\.[0-9]+", to = "v{re.1}" } }
set = { X-Path = "{path}", X-Server = "{server.name}" }
[[frontend.rule.response]]
when = { status = "4xx" }
set = { Cache-Control = "no-store" }
[[frontend.rule.response]]
when = { status = 200, header = { Content-Type = { prefix = "text/" } } }
add = { Vary = "X-Who" }

[[frontend.rule]]
match = { path = "/api" }
backend = "SERVERS"
rewrite.path = { prefix = "/api", to = "/v2" }
rewrite.host = "app.internal:8080"
rewrite.query = { set = { by = "{host}" }, remove = "debug" }
location = [
    { from = "http://app.internal:8080/v2", to = "{scheme}://{host}/api" },
    { from = "/v2", to = "/api" },
]
body_bytes = 10
[frontend.rule.set_cookie]
path = { from = "/v2", to = "/api" }
domain = { from = "app.internal", to = "shop.example" }
secure = true
http_only = true
same_site = "Lax"

[[frontend.rule]]
match = { path_regex = "^/user/(?P<id>[0-9]+)$" }
backend = "SERVERS"
rewrite = { path = "/profiles/{re.id}", query = "" }
[[frontend.rule]]
match = { path = "/regex" }
backend = "SERVERS"
rewrite.path = { regex = "^/regex/([a-z ]+)/", to = "/r-{re.1}/" }

[[frontend.rule]]
match = { path = "/old" }
redirect = { to = "https://new.example/a", status = 301, keep_path = true, keep_query = true }
[[frontend.rule]]
match = { path = "/moved" }
redirect = "{uri}"
[[frontend.rule]]
match = { path = "/secure" }
redirect = "https"
[[frontend.rule]]
match = { path = "/fixed" }
[frontend.rule.answer]
status = 203
body = "hello {not a variable}"
content_type = "text/x-greeting"
headers = { X-Host = "{host}" }
[[frontend.rule]]
match = { path = "/maintenance" }
answer = { status = 503, file = "PAGE", headers = { Retry-After = "600" } }
[[frontend.rule]]
match = { path = "/forbidden" }
deny = 403
response_headers = { set = { X-Denied = "yes" } }
error_page = { status = 403, body = "go away" }
[[frontend.rule]]
match = { path = "/teapot" }
deny = 418
[[frontend.rule]]
match = { path = "/drop" }
drop = true
[[frontend.rule]]
match = { path = "/late" }
backend = "SERVERS"
timeouts = { server = "100ms" }
[[frontend.rule]]
match = { path = "/late-backend" }
backend = "hasty-SERVERS"
[[frontend.rule]]
match = { path = "/small" }
backend = "hasty-SERVERS"
"""
FRONTEND = """
[[frontend]]
name = "to-SERVERS"
bind = "127.0.0.1:PORT"
backend = "SERVERS"
client_fields = ["X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Prefix", "X-Forwarded-Port"]
[[frontend.error_page]]
status = [502, 503, 504, 413]
file = "PAGE"
[[frontend.error_page]]
status = "5xx"
servers = true
body = "sorry"
content_type = "text/plain"
"""
BACKENDS = """
[[backend]]
name = "SERVERS"
http2 = HTTP2
server = { name = "first", address = "127.0.0.1:TO" }
[[backend]]
name = "hasty-SERVERS"
http2 = HTTP2
timeouts = { server = "100ms" }
body_bytes = 3
server = "127.0.0.1:TO"
"""


def _play(sock: socket.socket) -> None:
    """Answers as ``X-Wants`` says (``STATUS|LINE|…``), with the request's head as the body."""
    while True:
        head = read_head(sock)
        head, _, rest = head.partition(b"\r\n\r\n")
        head += b"\r\n\r\n"
        lower = head.lower()
        if b"\ncontent-length: " in lower:
            length = int(lower.partition(b"\ncontent-length: ")[2].partition(b"\r")[0])
            while len(rest) < length:
                rest += sock.recv(65536)
        status, *lines = _value(head, b"x-wants", b"200").split(b"|")
        if status == b"never":
            sock.recv(1)
            return
        size = b"Content-Length: %d" % len(head)
        sock.sendall(b"\r\n".join([b"HTTP/1.1 " + status + b" X", *lines, size, b"", head]))


def _value(head: bytes, name: bytes, otherwise: bytes) -> bytes:
    _, found, rest = head.lower().partition(b"\n" + name + b": ")
    at = len(head) - len(rest)
    return head[at : head.index(b"\r", at)] if found else otherwise


@dataclass
class Case:
    """A request, and what comes of it; lines are compared in lower case."""

    target: str
    fields: tuple[str, ...] = ()
    status: int = 200
    gets: tuple[str, ...] = ()
    """Lines that the client gets."""
    not_gets: tuple[str, ...] = ()
    """Beginnings of lines that it doesn't get."""
    server: tuple[str, ...] = ()
    """Lines that the server gets."""
    not_server: tuple[str, ...] = ()
    body: str | None = None
    method: str = "GET"
    host: str = "shop.example"
    sent: bytes = b""
    asked: bool = field(init=False)

    def __post_init__(self) -> None:
        self.asked = bool(self.server) or bool(self.not_server)


CASES = [
    Case(
        "/head/dark?x",
        (
            *("X-Internal-A: 1", "x-internal-b: 2", "X_Internal_C: 3", "Accept-Language: de"),
            *("Cookie: a=b; theme=light; c=d", "X-Who: me", "X_Who: me, too", "X-Real-IP: 6.6.6.6"),
            *("X-Name: N", "X-Empty: 1", "X-Wants: 200|Server: s|X-Version: 2.7 |Content-Type: text/html"),
        ),
        gets=("x-version: v2", "x-path: /head/dark", "vary: x-who", "x-server: first"),
        not_gets=("server:", "cache-control"),
        server=(
            *("GET /head/dark?x HTTP/1.1", "cookie: a=b; theme=dark; c=d", "x-tag: one", "x-tag: two"),
            *("x-who: 127.0.0.1 first n", "x-real-ip: 127.0.0.1", "host: shop.example"),
        ),
        not_server=("x-internal", "x_internal", "accept-language", "x_who", "x-empty"),
    ),
    Case(
        "/head",
        ("X-Wants: 404|Content-Type: text/html",),
        404,
        ("cache-control: no-store", "x-path: /head"),
        ("vary",),
    ),
    Case(
        "/api/x%20y?a=b&debug=1&c",
        (
            "X-Wants: 302|Location: http://app.internal:8080/v2/z?q"
            "|Set-Cookie: s=1; Path=/v2/z; Domain=app.internal; httponly|Set-Cookie: t=2",
        ),
        302,
        (
            "location: http://shop.example/api/z?q",
            "set-cookie: s=1; path=/api/z; domain=shop.example; secure; httponly; samesite=lax",
            "set-cookie: t=2; secure; httponly; samesite=lax",
        ),
        server=(
            *("GET /v2/x%20y?a=b&c&by=shop.example HTTP/1.1", "host: app.internal:8080"),
            *("x-forwarded-prefix: /api", "x-forwarded-host: shop.example"),
        ),
    ),
    Case(
        "/api",
        ("X-Wants: 200|Location: /v2",),
        gets=("location: /api",),
        server=("GET /v2?by=shop.example HTTP/1.1",),
    ),
    Case("//api/./x", server=("GET /v2/x?by=shop.example HTTP/1.1",)),
    Case("/apis", server=("GET /apis HTTP/1.1",), not_server=("x-forwarded-prefix",)),
    Case(
        "/api", ("Content-Length: 11",), 413, method="POST", sent=b"12345678901", body="<h1>maintenance</h1>"
    ),
    Case("/api", ("Content-Length: 4",), 200, method="POST", sent=b"1234", server=("content-length: 4",)),
    Case("/small", ("Content-Length: 4",), 413, method="POST", sent=b"1234"),
    Case("/user/7?x=y", server=("GET /profiles/7 HTTP/1.1",)),
    Case("/regex/a%20b/c%3fd", server=("GET /r-a%20b/c%3Fd HTTP/1.1",)),
    Case("/old/x%20y?z", (), 301, ("location: https://new.example/a/old/x%20y?z",)),
    Case("/secure?x", (), 308, ("location: https://shop.example/secure?x",)),
    Case("//moved//x", (), 302, ("location: /moved//x",)),
    Case(
        "/fixed",
        (),
        203,
        ("x-host: shop.example", "content-type: text/x-greeting"),
        body="hello {not a variable}",
    ),
    Case(
        *("/maintenance/x", (), 503, ("retry-after: 600", "content-type: text/html; charset=utf-8")),
        body="<h1>maintenance</h1>",
    ),
    Case("/forbidden", (), 403, ("x-denied: yes",), body="go away"),
    Case("/teapot", (), 418, body="418 I'm a Teapot\n"),
    Case("/late", ("X-Wants: never",), 504, body="<h1>maintenance</h1>"),
    Case("/late-backend", ("X-Wants: never",), 504, body="<h1>maintenance</h1>"),
    Case(
        "/other",
        ("X-Wants: 500|X-Secret: 1",),
        500,
        ("content-type: text/plain",),
        ("x-secret",),
        body="sorry",
    ),
    Case("/other", ("X-Wants: 502",), 502, body=None, server=("GET /other HTTP/1.1",)),
    Case(
        "/x",
        (
            *("X-Forwarded-Prefix: /a", "X_Real_IP: 1.2.3.4", "X-Forwarded-User: root", "Forwarded: for=x"),
            "X-Forwarded-Port: 1",
        ),
        server=("x-forwarded-for: 127.0.0.1",),
        not_server=(
            "x-forwarded-prefix",
            "x_real",
            "x-real",
            "x-forwarded-user",
            "forwarded:",
            "via",
            "x-forwarded-proto",
        ),
    ),
]


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, int]]:
    """By how servers are spoken to, the port of a frontend."""
    page = tmp_path_factory.mktemp("pages") / "maintenance.html"
    page.write_text("<h1>maintenance</h1>")
    ports = {"http1": free_port(), "http2": free_port()}
    inner = free_port()
    with Scripted(_play) as server:
        text = '[workers]\nmax = 1\n[[frontend]]\nname = "inner"\nbackend = "http1"\n'
        text += f'bind = "127.0.0.1:{inner}"\n'
        text += "client_fields = []\ntrusted_proxies = ['127.0.0.1']\n"
        for name, port in ports.items():
            text += (FRONTEND + RULES).replace("SERVERS", name).replace("PORT", str(port))
            to = server.port if name == "http1" else inner
            text += (
                BACKENDS.replace("SERVERS", name)
                .replace("TO", str(to))
                .replace("HTTP2", str(name == "http2").lower())
            )
        with Balancer(text=text.replace("PAGE", str(page))):
            yield ports


def ask1(port: int, case: Case) -> tuple[int, list[str], bytes]:
    """By HTTP/1: the status, lines of the head, and the body."""
    lines = [f"{case.method} {case.target} HTTP/1.1", f"Host: {case.host}", *case.fields, "", ""]
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall("\r\n".join(lines).encode() + case.sent)
        data = read_head(sock)
        head, _, body = data.partition(b"\r\n\r\n")
        length = int(_value(head + b"\r\n\r\n", b"content-length", b"0"))
        while len(body) < length:
            body += sock.recv(65536)
    line, *fields = head.decode().split("\r\n")
    return int(line.split(" ")[1]), fields, body


def ask2(port: int, case: Case) -> tuple[int, list[str], bytes]:
    """By HTTP/2."""
    client = Client(port)
    number = client.h2.get_next_available_stream_id()
    head = [(":method", case.method), (":scheme", "http"), (":authority", case.host), (":path", case.target)]
    pairs = [line.partition(": ") for line in case.fields]
    head += [(name.lower(), value.strip()) for name, _, value in pairs]
    client.h2.send_headers(number, head, end_stream=not case.sent)
    if case.sent:
        client.h2.send_data(number, case.sent, end_stream=True)
    client.flush()
    fields, body, _ = client.answer(number)
    client.sock.close()
    return int(fields[0][1]), [f"{name}: {value}" for name, value in fields[1:]], body


@pytest.mark.parametrize("server", ["http1", "http2"])
@pytest.mark.parametrize("ask", [ask1, ask2])
def test_rules_do_the_same_whatever_is_spoken(ports: dict[str, int], server: str, ask: object) -> None:
    assert callable(ask)
    for case in CASES:
        status, lines, body = ask(ports[server], case)
        assert status == case.status, (case, body)
        lower = [line.lower() for line in lines]
        for line in case.gets:
            assert line.lower() in lower, (case, lines)
        for begin in case.not_gets:
            assert not [line for line in lower if line.startswith(begin)], (case, lines)
        if case.asked:
            got = body.decode().split("\r\n")
            line = next((one for one in case.server if one.endswith("HTTP/1.1")), got[0])
            assert got[0] == line, (case, got)
            seen = [one.lower() for one in got[1:]]
            for one in case.server:
                assert one == line or one.lower() in seen, (case, one, got)
            for begin in case.not_server:
                assert not [one for one in seen if one.startswith(begin)], (case, begin, got)
        if case.body is not None:
            assert body.decode() == case.body, case


def test_a_dropped_request_is_not_answered(ports: dict[str, int]) -> None:
    for port in ports.values():
        with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
            sock.sendall(b"GET /drop HTTP/1.1\r\nHost: a\r\n\r\n")
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""
        client = Client(port)
        number = client.request("/drop")
        with pytest.raises(ConnectionError):
            client.answer(number)
        assert client.answer(client.request("/fixed"))[0][0] == (":status", "203")
        client.sock.close()


def test_connections_and_servers_are_used_on(ports: dict[str, int]) -> None:
    """What is edited for one request is not for the next one on the connection."""
    with socket.create_connection(("127.0.0.1", ports["http1"]), timeout=20) as sock:
        for target, line in (
            *(("/api/a", b"GET /v2/a?by=a HTTP/1.1"), ("/b", b"GET /b HTTP/1.1")),
            *(("/api/a", b"GET /v2/a?by=a HTTP/1.1"), ("/fixed", b""), ("/b", b"GET /b HTTP/1.1")),
        ):
            sock.sendall(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
            head, _, body = read_head(sock).partition(b"\r\n\r\n")
            length = int(_value(head + b"\r\n\r\n", b"content-length", b"0"))
            while len(body) < length:
                body += sock.recv(65536)
            assert body.startswith(line or b"hello")
            assert (b"v2" in body) is (b"v2" in line)
