"""HTTP/2 at the listener and to servers."""

from __future__ import annotations

import contextlib
import json
import socket
from pathlib import Path

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
from hyperframe.frame import (
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
)

from bench.rig.balancer import Balancer, free_port
from tests.e2e.conftest import StartBalancer, StartServer
from tests.e2e.http2client import Client, nothing_left
from tests.e2e.origin import Origin, read_head


def test_requests_of_all_kinds(client: Client, origin: Origin, running: Balancer) -> None:
    fields, body, _ = client.answer(client.request("/echo", ("cookie", "a=1"), ("cookie", "b=2")))
    assert fields[0] == (":status", "200")
    text = json.loads(body)["head"]
    assert text.startswith("GET /echo HTTP/1.1\r\nHost: test\r\n")
    assert "Cookie: a=1; b=2\r\n" in text
    assert "X-Forwarded-For: 127.0.0.1\r\n" in text
    fields, body, _ = client.answer(client.request("/", method="HEAD"))
    assert (fields[0], body) == ((":status", "200"), b"")
    number = client.request("/echo", ("content-length", "5"), method="POST", end=False)
    client.h2.send_data(number, b"hello", end_stream=True)
    client.flush()
    assert b"hello" in client.answer(number)[1]
    number = client.request("/echo", method="POST", end=False)
    client.h2.send_data(number, b"without ")
    client.h2.send_data(number, b"a length", end_stream=True)
    client.flush()
    assert b"without a length" in client.answer(number)[1]
    nothing_left(running, 1)


def test_a_response_waits_for_the_window_of_the_client(running: Balancer) -> None:
    client = Client(running.port, window=1000)
    number = client.request("/bytes/300000")
    _, body, _ = client.answer(number)
    assert len(body) == 300000
    client.sock.close()
    nothing_left(running, 0)


def test_many_streams_at_once(client: Client, running: Balancer) -> None:
    numbers = [client.request("/") for _ in range(80)]
    seen: set[int] = set()
    while len(seen) < 80:
        assert client.receive()
        for event in client.events:
            if isinstance(event, h2.events.StreamEnded):
                seen.add(event.stream_id or 0)
        client.events.clear()
    assert seen == set(numbers)
    nothing_left(running, 1)


def test_trailers_of_a_chunked_response(client: Client) -> None:
    _, body, trailers = client.answer(client.request("/chunked"))
    assert body
    assert trailers == [("x-sum", "11")]


def test_trailers_of_a_request(client: Client, origin: Origin, running: Balancer) -> None:
    number = client.request("/echo", method="POST", end=False)
    client.h2.send_data(number, b"hello")
    client.h2.send_headers(number, [("x-sum", "5"), ("x-also", "this")], end_stream=True)
    client.flush()
    assert b"hello" in client.answer(number)[1]
    assert origin.trailers == [b"x-sum: 5", b"x-also: this"]
    # A body of a known length has no place for them in HTTP/1.1. Nobody may say there who the client is.
    number = client.request("/echo", ("content-length", "5"), method="POST", end=False)
    client.h2.send_data(number, b"again")
    client.h2.send_headers(number, [("x-sum", "5")], end_stream=True)
    client.flush()
    assert b"again" in client.answer(number)[1]
    number = client.request("/echo", method="POST", end=False)
    client.h2.send_data(number, b"hosts")
    client.h2.send_headers(number, [("host", "other"), ("x-forwarded-for", "10.0.0.1")], end_stream=True)
    client.flush()
    with contextlib.suppress(ConnectionError):
        assert b"hosts" in client.answer(number)[1]
    assert len(origin.trailers) == 2


def test_through_two_balancers_in_http_2(
    running: Balancer, balancer: StartBalancer, tmp_path: Path, origin: Origin
) -> None:
    port = free_port()
    file = tmp_path / "pylb.toml"
    file.write_text(
        f'[[frontend]]\nname = "f"\nbind = "127.0.0.1:{port}"\nbackend = "b"\n'
        f'[[backend]]\nname = "b"\nhttp2 = true\n[[backend.server]]\naddress = "127.0.0.1:{running.port}"\n'
    )
    front = balancer("-c", str(file))
    with socket.create_connection(("127.0.0.1", port), timeout=50) as sock:
        for path, end in (("/bytes/100000", bytes(100)), ("/chunked", b"x-sum: 11\r\n\r\n")):
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode())
            data = b""
            while not data.lower().endswith(end.lower()) or len(data) < 100000 and path != "/chunked":
                piece = sock.recv(65536)
                assert piece, data
                data += piece
            assert data.startswith(b"HTTP/1.1 200 ")
        sock.sendall(b"POST /echo HTTP/1.1\r\nHost: test\r\nContent-Length: 300000\r\n\r\n" + b"u" * 300000)
        data = sock.recv(65536)
        assert data.startswith(b"HTTP/1.1 200 ")
    with socket.create_connection(("127.0.0.1", port), timeout=50) as sock:
        sock.sendall(b"POST /echo HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n")
        sock.sendall(b"5\r\nhello\r\n0\r\nX-Sum: 5\r\n\r\n")
        assert sock.recv(65536).startswith(b"HTTP/1.1 200 ")
    assert origin.trailers == [b"x-sum: 5"]
    client = Client(port)
    number = client.request("/echo", method="POST", end=False)
    client.h2.send_data(number, b"in both")
    client.h2.send_headers(number, [("x-sum", "7")], end_stream=True)
    client.flush()
    assert b"in both" in client.answer(number)[1]
    assert origin.trailers == [b"x-sum: 5", b"x-sum: 7"]
    client.sock.close()
    nothing_left(front, 0)


def test_websocket_by_extended_connect(balancer: StartBalancer, scripted: StartServer) -> None:
    """RFC 8441: the tunnel is a stream; the server sees an Upgrade."""
    heads: list[bytes] = []

    def play(connection: socket.socket) -> None:
        heads.append(read_head(connection))
        connection.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: x\r\n\r\nearly "
        )
        while piece := connection.recv(65536):
            connection.sendall(piece)

    tunnelling = balancer("--workers", "1", servers=(scripted(play).address,))
    client = Client(tunnelling.port)
    number = client.h2.get_next_available_stream_id()
    head = [
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":authority", "test"),
        (":path", "/chat"),
        ("sec-websocket-version", "13"),
    ]
    client.h2.send_headers(number, head)
    client.h2.send_data(number, b"over the stream")
    client.flush()
    got = b""
    while len(got) < 21:
        assert client.receive()
        while client.events:
            event = client.events.pop(0)
            if isinstance(event, h2.events.ResponseReceived):
                assert event.headers is not None
                assert event.headers[0] == (":status", "200")  # type: ignore[comparison-overlap]
            elif isinstance(event, h2.events.DataReceived):
                got += event.data or b""
    assert got == b"early over the stream"
    client.h2.end_stream(number)
    client.flush()
    client.answer(number)
    assert b"GET /chat HTTP/1.1\r\n" in heads[0]
    assert b"Upgrade: websocket\r\n" in heads[0]
    assert b"Sec-WebSocket-Key: " in heads[0]
    client.sock.close()
    nothing_left(tunnelling, 0)


def test_a_redirecting_frontend_redirects_in_http_2_too(
    balancer: StartBalancer, origin: Origin, tmp_path: Path
) -> None:
    port = free_port()
    file = tmp_path / "pylb.toml"
    file.write_text(
        f'[[frontend]]\nname = "f"\nbind = "127.0.0.1:{port}"\nbackend = "b"\nredirect_to_https = true\n'
        f'[[backend]]\nname = "b"\n[[backend.server]]\naddress = "{origin.address}"\n'
    )
    running = balancer("-c", str(file))
    client = Client(port)
    fields, _, _ = client.answer(client.request("/x?y"))
    assert (fields[0], dict(fields)["location"]) == ((":status", "308"), "https://test/x?y")
    number = client.request("/x", method="POST", end=False)
    assert client.answer(number)[0][0] == (":status", "308")
    assert origin.heads == []
    client.sock.close()
    nothing_left(running, 0)


def test_streams_outlive_the_goaway_of_their_client(
    client: Client, origin: Origin, running: Balancer
) -> None:
    """RFC 9113 §6.8: who sends it opens no more streams, and waits for those that it has."""
    number = client.request("/held")
    running.wait("at the server", lambda status: status["servers"][0]["active"] == 1)
    client.send_raw(GoAwayFrame(0, last_stream_id=0), PingFrame(0, b"12345678"))
    while not any(isinstance(event, h2.events.PingAckReceived) for event in client.events):
        assert client.receive()
    origin.release()
    assert client.answer(number)[1] == b"late"
    assert client.until_closed() in ([], [0])
    nothing_left(running, 0)


def test_streams_outlive_the_goaway_of_their_server(
    balancer: StartBalancer, scripted: StartServer, tmp_path: Path
) -> None:
    """As nginx and gRPC servers send it after so many requests; also what a server may not answer."""
    seen: list[int] = []

    def play(sock: socket.socket) -> None:
        server = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        server.initiate_connection()
        seen.append(0)
        while True:
            with contextlib.suppress(OSError):
                sock.sendall(server.data_to_send())
            data = sock.recv(65536)
            if not data:
                return
            for event in server.receive_data(data):
                if isinstance(event, h2.events.RequestReceived):
                    number = event.stream_id or 0
                    path = dict(event.headers or [])[b":path"]
                    if path == b"/goaway":
                        sock.sendall(server.data_to_send())
                        sock.sendall(GoAwayFrame(0, last_stream_id=number).serialize())
                    if path == b"/204":
                        server.send_headers(number, [(":status", "204")])
                    elif path == b"/304":
                        server.send_headers(number, [(":status", "304")])
                    elif path == b"/101":
                        # h2 would not send it
                        block = server.encoder.encode([(":status", "101")])
                        sock.sendall(HeadersFrame(number, block, flags={"END_HEADERS"}).serialize())
                        continue
                    else:
                        server.send_headers(number, [(":status", "200"), ("content-length", "2")])
                    split = path in (b"/204", b"/304")
                    server.send_data(number, b"HTTP/1.1 200 OK\r\n\r\n" if split else b"ok")
                    server.end_stream(number)

    port = free_port()
    file = tmp_path / "pylb.toml"
    file.write_text(
        f"workers = {{min = 1, max = 1}}\n"
        f'[[frontend]]\nname = "f"\nbind = "127.0.0.1:{port}"\nbackend = "b"\n[[backend]]\nname = "b"\n'
        f'http2 = true\n[[backend.server]]\naddress = "{scripted(play).address}"\n'
    )
    running = balancer("-c", str(file))

    def get(path: str) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=50) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
            data = b""
            with contextlib.suppress(ConnectionResetError):
                while piece := sock.recv(65536):
                    data += piece
            return data

    for _ in range(3):
        assert get("/goaway").endswith(b"\r\n\r\nok")
    assert len(seen) == 3
    # A body where there is none, and a protocol change that HTTP/2 doesn't have, would split the response.
    for path in ("/204", "/304"):
        answer = get(path)
        assert answer.count(b"HTTP/1.1 ") <= 1
    assert get("/101").startswith(b"HTTP/1.1 502 ")
    assert get("/").endswith(b"ok")
    nothing_left(running, 0)
