"""What a client may rely on when it speaks HTTP/1 through the balancer; raw bytes on real sockets."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.rig.balancer import Balancer, free_port
from tests.e2e.conftest import StartBalancer, StartServer
from tests.e2e.origin import Origin, Play, read_head


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    server = Origin()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def proxy(origin: Origin) -> Iterator[Balancer]:
    running = Balancer("--workers", "1", servers=[origin.address])
    yield running
    running.stop()


def exchange(port: int, request: bytes, half_close: bool = False) -> bytes:
    """Send bytes and read until the other side closes (requests here ask for that)."""
    with socket.create_connection(("127.0.0.1", port), 50) as sock:
        sock.sendall(request)
        if half_close:
            sock.shutdown(socket.SHUT_WR)
        answer = b""
        while data := sock.recv(65536):
            answer += data
        return answer


def get(port: int, path: str, *fields: str, method: str = "GET", body: bytes = b"") -> tuple[str, bytes]:
    """One request on a connection of its own; head and body of the answer."""
    lines = [f"{method} {path} HTTP/1.1", "Host: example.org", "Connection: close", *fields]
    answer = exchange(port, "\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    head, _, rest = answer.partition(b"\r\n\r\n")
    return head.decode(), rest


def test_a_request_is_answered(proxy: Balancer) -> None:
    head, body = get(proxy.port, "/hello")
    assert head.startswith("HTTP/1.1 200 OK\r\n")
    assert "Connection: close" in head
    assert body == b"/hello"


def test_forwarding_fields_are_added_and_hop_by_hop_fields_removed(proxy: Balancer) -> None:
    _, body = get(
        proxy.port,
        "/echo",
        "X-Forwarded-For: 192.0.2.1",
        "X-Forwarded-Proto: https",
        "Connection: X-Drop",
        "X-Drop: 1",
        "Keep-Alive: timeout=1",
        "TE: trailers, gzip",
        "X-Keep: 2",
    )
    head = json.loads(body)["head"]
    assert "X-Forwarded-For: 127.0.0.1\r\n" in head
    assert "X-Forwarded-Proto: http\r\n" in head
    assert "https" not in head
    assert "X-Forwarded-Host: example.org\r\n" in head
    assert "Via:" not in head
    assert "X-Keep: 2\r\n" in head
    assert "Connection: TE\r\nTE: trailers\r\n" in head  # trailers are passed on
    for gone in ("X-Drop", "close", "Keep-Alive", "gzip"):
        assert gone not in head


def test_a_servers_hop_by_hop_fields_stay_with_it(proxy: Balancer) -> None:
    head, _ = get(proxy.port, "/hop")
    assert "X-Public: 2" in head
    assert "X-Private" not in head
    assert "Keep-Alive" not in head


def test_pipelined_requests_are_answered_in_order(proxy: Balancer) -> None:
    requests = b"".join(b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % number for number in range(50))
    answer = exchange(proxy.port, requests + b"GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    bodies = [part.rpartition(b"\r\n\r\n")[2] for part in answer.split(b"HTTP/1.1 200 OK\r\n")[1:]]
    assert bodies == [b"/%d" % number for number in range(50)] + [b"/last"]


def test_a_chunked_response_passes_with_its_trailers(proxy: Balancer) -> None:
    head, body = get(proxy.port, "/chunked")
    assert "Transfer-Encoding: chunked" in head
    assert body == b"5\r\nhello\r\n6\r\n world\r\n0\r\nX-Sum: 11\r\n\r\n"


def test_a_chunked_request_passes(proxy: Balancer) -> None:
    _, body = get(
        proxy.port,
        "/echo",
        "Transfer-Encoding: chunked",
        method="POST",
        body=b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nX-T: 1\r\n\r\n",
    )
    assert json.loads(body)["body"] == "abcde"


def test_http_1_0_gets_an_unchunked_answer_and_a_close(proxy: Balancer) -> None:
    answer = exchange(proxy.port, b"GET /chunked HTTP/1.0\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"Transfer-Encoding" not in head
    assert body == b"hello world"


def test_http_1_0_keep_alive(proxy: Balancer) -> None:
    one = b"GET /a HTTP/1.0\r\nConnection: keep-alive\r\n\r\n"
    answer = exchange(proxy.port, one + b"GET /b HTTP/1.0\r\n\r\n")
    assert answer.count(b"HTTP/1.1 200") == 2
    assert b"Connection: keep-alive" in answer


@pytest.mark.parametrize(
    ("method", "path", "status"), [("HEAD", "/x", 200), ("GET", "/204", 204), ("GET", "/304", 304)]
)
def test_responses_without_a_body_end_at_the_head(
    proxy: Balancer, method: str, path: str, status: int
) -> None:
    answer = exchange(
        proxy.port,
        f"{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        + b"GET /next HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
    )
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert answer.endswith(b"\r\n\r\n/next")
    assert answer.count(b"HTTP/1.1 ") == 2


def test_a_body_that_ends_with_the_connection(proxy: Balancer) -> None:
    answer = exchange(proxy.port, b"GET /until-close HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"Connection: close" in answer
    assert answer.endswith(b"\r\n\r\nuntil the end")


@pytest.mark.parametrize("fields", ["Connection: keep-alive", "X: y"])
def test_a_body_that_ends_with_the_connection_for_http_1_0(proxy: Balancer, fields: str) -> None:
    answer = exchange(proxy.port, f"GET /until-close HTTP/1.0\r\n{fields}\r\n\r\n".encode())
    assert b"Connection: close" in answer
    assert answer.endswith(b"\r\n\r\nuntil the end")


def test_expect_100_continue(proxy: Balancer) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port), 50) as sock:
        sock.sendall(
            b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n"
            b"Connection: close\r\n\r\n"
        )
        assert sock.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(b"body")
        answer = b""
        while data := sock.recv(65536):
            answer += data
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["body"] == "body"


def test_early_hints_are_passed_on(proxy: Balancer) -> None:
    answer = exchange(proxy.port, b"GET /hints HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\n")


def test_a_client_that_half_closes_gets_its_answer(proxy: Balancer) -> None:
    answer = exchange(proxy.port, b"GET /half HTTP/1.1\r\nHost: x\r\n\r\n", half_close=True)
    assert answer.endswith(b"/half")


def test_a_request_in_single_bytes(proxy: Balancer) -> None:
    with socket.create_connection(("127.0.0.1", proxy.port), 50) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc":
            sock.sendall(bytes([byte]))
        answer = b""
        while data := sock.recv(65536):
            answer += data
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["body"] == "abc"


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\n folded\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", 400),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 405),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 17000 + b"\r\n\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 101 + b"\r\n", 431),
    ],
)
def test_what_is_wrong_is_refused_and_never_forwarded(
    proxy: Balancer, origin: Origin, request_: bytes, status: int
) -> None:
    before = len(origin.heads)
    answer = exchange(proxy.port, request_ + b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert answer.count(b"HTTP/1.1 ") == 1
    assert not any(b"/smuggled" in head for head in origin.heads[before:])


@pytest.mark.parametrize(("path", "status"), [("/drop", 502), ("/junk", 502)])
def test_a_server_that_fails_is_a_502(proxy: Balancer, path: str, status: int) -> None:
    head, body = get(proxy.port, path)
    assert head.startswith(f"HTTP/1.1 {status} ")
    assert body


def test_a_stale_pooled_connection_is_not_the_clients_problem(proxy: Balancer) -> None:
    for _ in range(4):
        head, _ = get(proxy.port, "/drop-second")
        assert head.startswith("HTTP/1.1 200 ")


def test_no_server_is_a_503_and_another_server_takes_over(origin: Origin) -> None:
    dead = f"127.0.0.1:{free_port()}"
    alone = Balancer("--workers", "1", servers=[dead])
    try:
        assert get(alone.port, "/")[0].startswith("HTTP/1.1 503 ")
    finally:
        alone.stop()
    both = Balancer("--workers", "1", servers=[dead, origin.address])
    try:
        for _ in range(6):
            assert get(both.port, "/")[0].startswith("HTTP/1.1 200 ")
    finally:
        both.stop()


def test_a_server_without_a_port_is_connected_to_at_the_clients(
    balancer: StartBalancer, scripted: StartServer, tmp_path: Path
) -> None:
    def named(name: bytes) -> Play:
        def play(connection: socket.socket) -> None:
            while True:
                read_head(connection)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n" + name)

        return play

    ports = {scripted(named(name)).port: name for name in (b"a", b"b")}
    file = tmp_path / "pylb.toml"
    binds = [f"127.0.0.2:{port}" for port in ports]
    file.write_text(
        f'[[frontend]]\nname = "f"\nbind = {binds}\nbackend = "b"\n'
        '[[backend]]\nname = "b"\nserver = "127.0.0.1"\n'
    )
    balancer("-c", str(file), "--workers", "1")
    for _ in range(2):  # a connection to one port serves no client of the other
        for port, name in ports.items():
            with socket.create_connection(("127.0.0.2", port), 10) as sock:
                for _ in range(2):
                    sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
                    assert read_head(sock).endswith(b"\r\n\r\n" + name)


def test_slow_peers_get_408_and_504(origin: Origin, balancer: StartBalancer, tmp_path: Path) -> None:
    port = free_port()
    file = tmp_path / "pylb.toml"
    file.write_text(
        f"""
        [timeouts]
        request = "300ms"
        server = "300ms"
        [[frontend]]
        name = "f"
        bind = "127.0.0.1:{port}"
        backend = "b"
        [[backend]]
        name = "b"
        [[backend.server]]
        address = "{origin.address}"
        """
    )
    balancer("-c", str(file))
    assert exchange(port, b"GET / HTTP/1.1\r\nHos").startswith(b"HTTP/1.1 408 ")
    assert get(port, "/never")[0].startswith("HTTP/1.1 504 ")
