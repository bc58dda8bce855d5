"""HTTP/2 at the listener, with a raw client that can also misbehave."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings
import pytest
from hyperframe.frame import (
    ContinuationFrame,
    DataFrame,
    Frame,
    GoAwayFrame,
    HeadersFrame,
    PingFrame,
    PriorityFrame,
    RstStreamFrame,
    SettingsFrame,
    WindowUpdateFrame,
)

from bench.balancer import Balancer, free_port
from tests.e2e.conftest import StartBalancer
from tests.e2e.origin import Origin

Fields = list[tuple[str, str]]


class Client:
    """A connection by prior knowledge."""

    def __init__(self, port: int, window: int = 65535) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), timeout=20)
        config = h2.config.H2Configuration(
            client_side=True,
            header_encoding="latin-1",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self.h2 = h2.connection.H2Connection(config)
        self.h2.local_settings = h2.settings.Settings(
            client=True, initial_values={h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window}
        )
        self.h2.initiate_connection()
        self.events: list[h2.events.Event] = []
        self.flush()

    def flush(self) -> None:
        self.sock.sendall(self.h2.data_to_send())

    def request(
        self, path: str = "/", *fields: tuple[str, str], method: str = "GET", end: bool = True
    ) -> int:
        number = self.h2.get_next_available_stream_id()
        head: Fields = [(":method", method), (":scheme", "http"), (":authority", "test"), (":path", path)]
        self.h2.send_headers(number, [*head, *fields], end_stream=end)
        self.flush()
        return number

    def receive(self) -> bool:
        """Read once; False when the balancer has closed."""
        try:
            data = self.sock.recv(65536)
        except ConnectionResetError:
            return False
        if not data:
            return False
        self.events += self.h2.receive_data(data)
        with contextlib.suppress(OSError):
            self.flush()
        return True

    def answer(self, number: int, credit: bool = True) -> tuple[Fields, bytes, Fields]:
        """The whole response of a stream: fields, body, trailers."""
        fields: Fields = []
        trailers: Fields = []
        body = b""
        while True:
            while self.events:
                event = self.events.pop(0)
                if getattr(event, "stream_id", None) != number:
                    if isinstance(event, h2.events.ConnectionTerminated):
                        raise ConnectionError(f"GOAWAY {event.error_code}")
                    continue
                if isinstance(event, h2.events.ResponseReceived):
                    fields = event.headers  # type: ignore[assignment]
                elif isinstance(event, h2.events.TrailersReceived):
                    trailers = event.headers  # type: ignore[assignment]
                elif isinstance(event, h2.events.DataReceived):
                    body += event.data or b""
                    if credit and event.flow_controlled_length:
                        self.h2.acknowledge_received_data(event.flow_controlled_length, number)
                        self.flush()
                elif isinstance(event, h2.events.StreamReset):
                    raise ConnectionResetError(f"stream reset {event.error_code}")
                elif isinstance(event, h2.events.StreamEnded):
                    return fields, body, trailers
            if not self.receive():
                raise EOFError

    def until_closed(self) -> list[int]:
        """Read to the end; the codes of the GOAWAYs."""
        while self.receive():
            pass
        return [
            int(event.error_code or 0)
            for event in self.events
            if isinstance(event, h2.events.ConnectionTerminated)
        ]

    def send_raw(self, *frames: Frame) -> None:
        """Frames of any kind; the balancer may close at any time."""
        with contextlib.suppress(ConnectionError):
            self.sock.sendall(b"".join(frame.serialize() for frame in frames))


@pytest.fixture
def running(balancer: StartBalancer, origin: Origin) -> Balancer:
    return balancer("--workers", "1..2", servers=(origin.address,))


@pytest.fixture
def client(running: Balancer) -> Iterator[Client]:
    one = Client(running.port)
    yield one
    one.sock.close()


@pytest.fixture(scope="module")
def running_for_all() -> Iterator[tuple[Balancer, Origin]]:
    """For tests after which nothing may have happened."""
    origin = Origin()
    one = Balancer("--workers", "1", servers=(origin.address,))
    yield one, origin
    one.stop()
    origin.stop()


def nothing_left(running: Balancer, connections: int) -> None:
    """All that was counted as open is closed."""
    running.wait(
        "empty",
        lambda status: status["totals"]["connections"] == connections
        and status["totals"]["in_flight"] == 0
        and all(server["active"] == 0 for server in status["servers"]),
    )


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


def test_through_two_balancers_in_http_2(
    running: Balancer, balancer: StartBalancer, tmp_path: Path
) -> None:
    port = free_port()
    file = tmp_path / "pylb.toml"
    file.write_text(
        f'[[frontend]]\nname = "f"\nbind = "127.0.0.1:{port}"\nbackend = "b"\n'
        f'[[backend]]\nname = "b"\nhttp2 = true\n[[backend.server]]\naddress = "127.0.0.1:{running.port}"\n'
    )
    front = balancer("-c", str(file))
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
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
    client = Client(port)
    number = client.request("/echo", method="POST", end=False)
    client.h2.send_data(number, b"in both", end_stream=True)
    client.flush()
    assert b"in both" in client.answer(number)[1]
    client.sock.close()
    nothing_left(front, 0)


def test_a_reload_lets_streams_end(client: Client, running: Balancer, origin: Origin) -> None:
    number = client.request("/held")
    running.wait("at the server", lambda status: status["servers"][0]["active"] == 1)
    running.signal(signal.SIGHUP)
    while not any(isinstance(event, h2.events.ConnectionTerminated) for event in client.events):
        assert client.receive()
    goaway = client.events.pop()
    assert isinstance(goaway, h2.events.ConnectionTerminated)
    assert (goaway.error_code, goaway.last_stream_id) == (0, number)
    origin.release()
    data = b""
    while piece := client.sock.recv(65536):
        data += piece
    # h2 reads nothing after a GOAWAY, so look at the frames: an answer with its end, then the close.
    assert b"late" in data
    nothing_left(running, 0)


def test_bytes_that_would_split_a_head_are_refused(client: Client, origin: Origin) -> None:
    for bad in (("x", "a\r\ny: b"), ("x", "a\nb"), ("x\r\ny", "a"), ("x", "\x00"), ("x y", "1"), ("", "1")):
        attacker = Client(client.sock.getpeername()[1])
        number = attacker.request("/", bad)
        with contextlib.suppress(ConnectionError, EOFError):
            assert attacker.answer(number)[0][0] == (":status", "400")
        attacker.sock.close()
    assert origin.heads == []
    assert client.answer(client.request("/"))[0][0] == (":status", "200")


# Attacks. Each must end its own connection and nobody else's.


def attacked(running: Balancer, client: Client, attacker: Client) -> None:
    """The attacker is cut off, and an ordinary client notices nothing."""
    codes = attacker.until_closed()
    assert codes == [] or int(h2.errors.ErrorCodes.NO_ERROR) not in codes
    assert client.answer(client.request("/"))[0][0] == (":status", "200")
    attacker.sock.close()
    nothing_left(running, 1)
    assert running.status()["totals"]["refused"] >= 1


def test_rapid_reset(running: Balancer, client: Client) -> None:
    """CVE-2023-44487."""
    attacker = Client(running.port)
    with contextlib.suppress(ConnectionError):
        for _ in range(2000):
            number = attacker.h2.get_next_available_stream_id()
            attacker.h2.send_headers(
                number,
                [(":method", "GET"), (":scheme", "http"), (":authority", "t"), (":path", "/held")],
                end_stream=True,
            )
            attacker.h2.reset_stream(number)
        attacker.flush()
    attacked(running, client, attacker)


def test_a_flood_of_continuation(running: Balancer, client: Client) -> None:
    """CVE-2024-27316 and its kin."""
    attacker = Client(running.port)
    start = HeadersFrame(1)
    start.data = b"\x82"
    frames: list[Frame] = [start]
    for _ in range(10_000):
        more = ContinuationFrame(1)
        more.data = b"\x00\x01a\x01b"
        frames.append(more)
    attacker.send_raw(*frames)
    attacked(running, client, attacker)


def test_an_hpack_bomb(running: Balancer, client: Client) -> None:
    """CVE-2016-6581: one long field in the table, then many one-byte references to it."""
    attacker = Client(running.port)
    frame = HeadersFrame(1, flags={"END_HEADERS", "END_STREAM"})
    frame.data = b"\x82\x86\x84\x41\x01t" + b"\x40\x01a\x7f\x81\x1e" + b"v" * 4000 + b"\xbe" * 12000
    frame.data = frame.data[:16000]
    attacker.send_raw(frame)
    attacked(running, client, attacker)


FLOODS: dict[str, Frame] = {
    "ping": PingFrame(0, b"12345678"),
    "ping answers": PingFrame(0, b"12345678", flags={"ACK"}),
    "settings": SettingsFrame(0, {3: 100}),
    "settings answers": SettingsFrame(0, flags={"ACK"}),
    "empty data": DataFrame(1),
    "window": WindowUpdateFrame(0, 1),
    "window of a stream that is over": WindowUpdateFrame(3, 1),
    "resets of a stream that is over": RstStreamFrame(3, 8),
    "resets of a stream that never was": RstStreamFrame(9, 8),
    "data of a stream that is over": DataFrame(3, b"x"),
    "priorities": PriorityFrame(5, 0, 1, False),
    "goaway": GoAwayFrame(0),
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_of_cheap_frames(running: Balancer, client: Client, kind: str) -> None:
    """CVE-2019-9512, -9515, -9518."""
    attacker = Client(running.port)
    attacker.request("/echo", method="POST", end=False)
    attacker.answer(attacker.request("/"))
    attacker.send_raw(*[FLOODS[kind]] * 20_000)
    attacked(running, client, attacker)


def test_a_fast_download_with_many_window_updates_is_no_flood(client: Client) -> None:
    """Go's client sends one for each 4 KiB that were read, for the stream and for the connection."""
    number = client.request("/bytes/20000000")
    got = 0
    while got < 20_000_000:
        assert client.receive()
        for event in client.events:
            assert not isinstance(event, h2.events.ConnectionTerminated)
            if isinstance(event, h2.events.DataReceived):
                got += len(event.data or b"")
                left = event.flow_controlled_length or 0
                while left:
                    piece = min(4096, left)
                    left -= piece
                    with contextlib.suppress(h2.exceptions.StreamClosedError):  # the end came too
                        client.h2.increment_flow_control_window(piece, number)
                    client.h2.increment_flow_control_window(piece)
        client.events.clear()
        client.flush()


def test_websocket_by_extended_connect(running: Balancer, balancer: StartBalancer) -> None:
    """RFC 8441: the tunnel is a stream; the server sees an Upgrade."""
    listener = socket.create_server(("127.0.0.1", 0))
    heads: list[bytes] = []

    def serve() -> None:
        connection, _ = listener.accept()
        data = b""
        while b"\r\n\r\n" not in data:
            data += connection.recv(65536)
        heads.append(data)
        connection.sendall(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: x\r\n\r\nearly "
        )
        while piece := connection.recv(65536):
            connection.sendall(piece)
        connection.close()

    thread = threading.Thread(target=serve)
    thread.start()
    tunnelling = balancer("--workers", "1", servers=(f"127.0.0.1:{listener.getsockname()[1]}",))
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
    thread.join(10)
    listener.close()
    assert b"GET /chat HTTP/1.1\r\n" in heads[0]
    assert b"Upgrade: websocket\r\n" in heads[0]
    assert b"Sec-WebSocket-Key: " in heads[0]
    client.sock.close()
    nothing_left(tunnelling, 0)


# Ways to have a server of HTTP/1.1 read another request than the one that was checked


@pytest.mark.parametrize("protocol", ["h2c", "not a token", "websocket"])
def test_a_connect_that_is_no_tunnel_carries_no_bytes(
    client: Client, origin: Origin, running: Balancer, protocol: str
) -> None:
    """The data of an extended CONNECT are not a body; before a tunnel stands they may reach nobody."""
    number = client.h2.get_next_available_stream_id()
    head = [(":method", "CONNECT"), (":protocol", protocol), (":scheme", "http"), (":authority", "a")]
    client.h2.send_headers(number, [*head, (":path", "/first")])
    client.h2.send_data(number, b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", end_stream=True)
    client.flush()
    with contextlib.suppress(ConnectionError):
        client.answer(number)
    nothing_left(running, 1)
    assert client.answer(client.request("/after"))[0][0] == (":status", "200")
    assert not any(b"/smuggled" in head for head in origin.heads)


def test_a_connect_whose_upgrade_is_declined_is_not_a_tunnel(client: Client, running: Balancer) -> None:
    """A 2xx would say that there is one."""
    for path in ("/", "/chunked", "/204"):
        number = client.h2.get_next_available_stream_id()
        head = [(":method", "CONNECT"), (":protocol", "websocket"), (":scheme", "http"), (":authority", "a")]
        client.h2.send_headers(number, [*head, (":path", path)])
        client.flush()
        assert client.answer(number)[0][0] == (":status", "502")
    nothing_left(running, 1)


@pytest.mark.parametrize("how", ["no body", "short of it", "short, with trailers", "more"])
def test_a_body_of_another_length_than_said_is_not_passed_on(
    client: Client, origin: Origin, running: Balancer, how: str
) -> None:
    """RFC 9113 §8.1.1; the server would take the next request for the rest of this one."""
    attacker = Client(running.port)
    length = ("content-length", "30")
    number = attacker.request("/", length, method="POST", end=how == "no body")
    if how != "no body":
        attacker.h2.send_data(number, b"x" * (40 if how == "more" else 10), end_stream=how == "short of it")
        if how == "short, with trailers":
            attacker.h2.send_headers(number, [("x-sum", "1")], end_stream=True)
        attacker.flush()
    with contextlib.suppress(ConnectionError, EOFError):
        assert attacker.answer(number)[0][0] == (":status", "400")
    attacker.sock.close()
    nothing_left(running, 1)
    assert running.status()["totals"]["refused"] == 1
    assert client.answer(client.request("/after"))[1] == b"/after"


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


def test_streams_outlive_the_goaway_of_their_server(balancer: StartBalancer, tmp_path: Path) -> None:
    """As nginx and gRPC servers send it after so many requests; also what a server may not answer."""
    listener = socket.create_server(("127.0.0.1", 0))
    seen: list[int] = []

    def serve() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(sock,), daemon=True).start()

    def one(sock: socket.socket) -> None:
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

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    port = free_port()
    file = tmp_path / "pylb.toml"
    file.write_text(
        f"workers = {{min = 1, max = 1}}\n"
        f'[[frontend]]\nname = "f"\nbind = "127.0.0.1:{port}"\nbackend = "b"\n[[backend]]\nname = "b"\n'
        f'http2 = true\n[[backend.server]]\naddress = "127.0.0.1:{listener.getsockname()[1]}"\n'
    )
    running = balancer("-c", str(file))

    def get(path: str) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
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
    listener.close()


GET: Fields = [(":method", "GET"), (":scheme", "http"), (":authority", "a"), (":path", "/")]


def but(name: str, value: str) -> Fields:
    """GET, with one pseudo-header field changed."""
    return [(other, value if other == name else old) for other, old in GET]


@pytest.mark.parametrize(
    "fields",
    [
        *(but(":method", method) for method in ("GET /x HTTP/1.1\r\nA:", "GE T", "G\tT", "", "TRACE")),
        but(":method", "CONNECT"),
        *(but(":path", path) for path in ("", "x", "*", "/ HTTP/1.1", "/\r\nA: b", "/\t", "/#x", "/\x7f")),
        *(but(":path", path) for path in ("http://b/", "//\x00", "/\xff")),
        *(but(":authority", host) for host in ("a b", "u@a", "a/b", "a\r\nX: y", "a:b", "a\\b", "\xe9")),
        [*GET, ("host", "b")],
        [*GET, ("host", "b"), ("host", "a")],
        [*GET, (":path", "/b")],
        [*GET, (":authority", "b")],
        [*GET, ("x", "y"), (":path", "/b")],
        [*GET, (":unknown", "x")],
        [*GET, (":status", "200")],
        *([*GET, (name, "x")] for name in ("X-Upper", "x ", " x", "x:", "x\r\ny", "x\ty", "", "x\x00")),
        [*GET, ("\xe9", "x")],
        *([*GET, ("x", value)] for value in ("a\r\nb: c", "a\nb", "a\rb", "a\x00", "a\x01", "a\x7f", " a")),
        [*GET, ("x", "a ")],
        *([*GET, (name, "x")] for name in ("connection", "keep-alive", "proxy-connection", "upgrade")),
        [*GET, ("transfer-encoding", "chunked")],
        [*GET, ("te", "gzip")],
        [*GET, ("te", "trailers, chunked")],
        *([*GET, ("content-length", value)] for value in ("1", "+0", "-0", "0x0", "0, 0", "", " 0", "\xb2")),
        [*GET, ("content-length", "0 ")],
        [*GET, ("content-length", "0"), ("content-length", "0")],
        [*GET, ("content-length", "0"), ("content-length", "5")],
        [*GET, ("expect", "x")],
        GET[:3],
        GET[1:],
        [GET[0], *GET[2:]],
    ],
)
def test_what_http_1_could_read_otherwise_is_not_passed_on(
    running_for_all: tuple[Balancer, Origin], fields: Fields
) -> None:
    running, origin = running_for_all
    attacker = Client(running.port)
    number = attacker.h2.get_next_available_stream_id()
    attacker.h2.send_headers(number, fields, end_stream=True)
    attacker.flush()
    with contextlib.suppress(ConnectionError, EOFError):
        assert attacker.answer(number)[0][0][1] in ("400", "405", "417")
    attacker.sock.close()
    assert origin.heads == []
