"""The PROXY protocol both ways, and whose word about clients is believed."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
from pathlib import Path

import pytest
import trustme

from bench.rig.balancer import Balancer, free_port
from pylb.net.proxyprotocol import TLV_ALPN, TLV_AUTHORITY, ProxyHeader, build_v1, build_v2, parse
from tests.e2e.conftest import StartBalancer, StartServer
from tests.e2e.origin import OK, Origin

SOURCE, DESTINATION = ("192.0.2.7", 4711), ("192.0.2.1", 80)
GET = b"GET /echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"


def start(
    balancer: StartBalancer, folder: Path, server: str, frontend: str = "", backend: str = ""
) -> tuple[Balancer, int]:
    port = free_port()
    file = folder / "pylb.toml"
    file.write_text(
        f'[[frontend]]\nname = "f"\nbind = ["127.0.0.1:{port}", "[::1]:{port}"]\nbackend = "b"\n{frontend}\n'
        f'[[backend]]\nname = "b"\n{backend}\n[[backend.server]]\naddress = "{server}"\n'
    )
    return balancer("-c", str(file)), port


def ask(port: int, *pieces: bytes, host: str = "127.0.0.1") -> bytes:
    with socket.create_connection((host, port), timeout=50) as sock:
        for piece in pieces:
            sock.sendall(piece)
        data = b""
        while piece := sock.recv(65536):
            data += piece
    return data


def head_seen(answer: bytes) -> str:
    """What the origin saw."""
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    text: str = json.loads(answer.partition(b"\r\n\r\n")[2])["head"]
    return text


def received(connection: socket.socket) -> tuple[ProxyHeader, bytes]:
    """What a server is sent: the PROXY header, and the request's head behind it."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        data += connection.recv(65536)
    header = parse(data)
    assert header is not None
    return header, data[header.length :]


TRUSTING = 'accept_proxy = true\ntrusted_proxies = ["127.0.0.0/8"]'


@pytest.mark.parametrize(
    "header",
    [
        build_v1(SOURCE, DESTINATION),
        build_v2(SOURCE, DESTINATION),
        build_v2(SOURCE, DESTINATION, ((TLV_AUTHORITY, b"a.example"), (0xE0, bytes(300)))),
    ],
)
def test_the_header_of_a_trusted_proxy_is_believed(
    balancer: StartBalancer, origin: Origin, tmp_path: Path, header: bytes
) -> None:
    _, port = start(balancer, tmp_path, origin.address, TRUSTING)
    assert "X-Forwarded-For: 192.0.2.7\r\n" in head_seen(ask(port, header + GET + b"\r\n"))
    single = [header[i : i + 1] for i in range(len(header))]
    assert "X-Forwarded-For: 192.0.2.7\r\n" in head_seen(ask(port, *single, GET + b"\r\n"))
    # From elsewhere there is no header, and nothing is missing.
    assert "X-Forwarded-For: ::1\r\n" in head_seen(ask(port, GET + b"\r\n", host="::1"))


def test_what_is_not_a_header_ends_the_connection(
    balancer: StartBalancer, origin: Origin, tmp_path: Path
) -> None:
    running, port = start(balancer, tmp_path, origin.address, TRUSTING)
    for bad in (
        GET + b"\r\n",
        b"PROXY TCP4 192.0.2.7 192.0.2.1 99999 80\r\n" + GET + b"\r\n",
        b"PROXY TCP4 ::1 ::2 1 2\r\n" + GET + b"\r\n",
        build_v2(SOURCE, DESTINATION)[:13] + b"\xff" + build_v2(SOURCE, DESTINATION)[14:] + GET + b"\r\n",
    ):
        with contextlib.suppress(ConnectionResetError):
            assert ask(port, bad) == b""
    assert origin.heads == []
    assert "192.0.2.7" in head_seen(ask(port, build_v1(SOURCE, DESTINATION) + GET + b"\r\n"))
    running.wait("empty", lambda status: status["totals"]["connections"] == 0)


def test_before_tls(balancer: StartBalancer, origin: Origin, tmp_path: Path) -> None:
    ca = trustme.CA()
    ca.issue_cert("a.example").private_key_and_cert_chain_pem.write_to_path(tmp_path / "cert.pem")
    tls = f'\n[frontend.tls]\ncertificates = "{tmp_path}/cert.pem"'
    _, port = start(balancer, tmp_path, origin.address, TRUSTING + tls)
    client = ssl.create_default_context()
    ca.configure_trust(client)
    raw = socket.create_connection(("127.0.0.1", port), timeout=50)
    raw.sendall(build_v2(SOURCE, DESTINATION))
    with client.wrap_socket(raw, server_hostname="a.example") as sock:
        sock.sendall(GET + b"\r\n")
        data = b""
        while piece := sock.recv(65536):
            data += piece
    assert "X-Forwarded-For: 192.0.2.7\r\n" in head_seen(data)
    assert "X-Forwarded-Proto: https\r\n" in head_seen(data)


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_sent_to_servers(
    balancer: StartBalancer, scripted: StartServer, tmp_path: Path, version: str
) -> None:
    sources: list[object] = []

    def play(connection: socket.socket) -> None:
        header, request = received(connection)
        sources.append(header.source)
        assert request.startswith(b"GET / ")
        connection.sendall(OK)
        connection.recv(1)

    _, port = start(balancer, tmp_path, scripted(play).address, backend=f'send_proxy = "{version}"')
    ports = []
    with socket.create_connection(("127.0.0.1", port), timeout=50) as sock:
        for _ in range(2):  # two requests of one client: each on a connection of its own
            ports.append(sock.getsockname()[1])
            sock.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            data = b""
            while not data.endswith(b"ok"):
                data += sock.recv(65536)
    assert sources == [("127.0.0.1", number) for number in ports]


def test_what_the_client_said_by_tls_is_told_where_asked(
    balancer: StartBalancer, scripted: StartServer, tmp_path: Path
) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("www.example.org")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "c.pem"))
    told = []

    def play(connection: socket.socket) -> None:
        header, _ = received(connection)
        told.append(header.tlvs)
        connection.sendall(OK)

    _, port = start(
        *(balancer, tmp_path, scripted(play).address),
        f'[frontend.tls]\ncertificates = "{tmp_path}/c.pem"\n',
        'send_proxy = "v2"\nsend_proxy_tlvs = ["alpn", "authority"]\n',
    )
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(["http/1.1"])
    plain = socket.create_connection(("127.0.0.1", port), timeout=50)
    with plain, context.wrap_socket(plain, server_hostname="www.example.org") as tls:
        tls.sendall(b"GET / HTTP/1.1\r\nHost: www.example.org\r\n\r\n")
        assert tls.recv(15) == b"HTTP/1.1 200 OK"
    assert told == [((TLV_ALPN, b"http/1.1"), (TLV_AUTHORITY, b"www.example.org"))]


# Forwarding fields

FORGED = (
    b"X-Forwarded-For: 198.51.100.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: shop.example\r\n"
    b"Forwarded: for=198.51.100.1\r\nX-Client-Cert-Subject: CN=root\r\nX-Request-ID: given\r\n\r\n"
)


def test_an_unknown_peer_is_not_believed(balancer: StartBalancer, origin: Origin, tmp_path: Path) -> None:
    _, port = start(balancer, tmp_path, origin.address, "forwarded = true\nrequest_id = true")
    seen = head_seen(ask(port, GET + FORGED))
    assert "198.51.100.1" not in seen
    assert "CN=root" not in seen
    assert "X-Forwarded-For: 127.0.0.1\r\n" in seen
    assert "X-Forwarded-Proto: http\r\n" in seen
    assert "X-Forwarded-Host: a\r\n" in seen
    assert 'Forwarded: for=127.0.0.1;proto=http;host="a"\r\n' in seen
    assert "X-Request-ID: given\r\n" in seen
    seen = head_seen(ask(port, GET + b"\r\n", host="::1"))
    assert 'Forwarded: for="[::1]";proto=http;host="a"\r\n' in seen
    made = seen.partition("X-Request-ID: ")[2].partition("\r\n")[0]
    assert len(made) == 32
    assert made not in head_seen(ask(port, GET + b"\r\n"))


def test_a_trusted_proxy_is_believed(balancer: StartBalancer, origin: Origin, tmp_path: Path) -> None:
    frontend = 'forwarded = true\ntrusted_proxies = ["127.0.0.1"]'
    _, port = start(balancer, tmp_path, origin.address, frontend)
    seen = head_seen(ask(port, GET + FORGED))
    assert "X-Forwarded-For: 198.51.100.1, 127.0.0.1\r\n" in seen
    assert "X-Forwarded-Proto: https\r\n" in seen
    assert "X-Forwarded-Host: shop.example\r\n" in seen
    assert 'Forwarded: for=198.51.100.1, for=127.0.0.1;proto=http;host="a"\r\n' in seen
    assert "CN=root" not in seen
    for name in ("X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host", "Forwarded"):
        assert seen.count(f"\r\n{name}: ") == 1
