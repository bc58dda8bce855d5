"""TLS towards clients and towards servers."""

from __future__ import annotations

import contextlib
import signal
import socket
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme

from bench.rig.balancer import Balancer, free_port
from tests.e2e.conftest import StartBalancer, StartServer
from tests.e2e.http2client import Client
from tests.e2e.origin import OK, Origin

GET = b"GET /echo HTTP/1.1\r\nHost: a.example\r\n\r\n"


class Site:
    """A balancer with certificates for several names."""

    def __init__(self, balancer: StartBalancer, origin: Origin, folder: Path, tls: str = "") -> None:
        self.ca = trustme.CA()
        self.folder = folder
        self.certificates = folder / "certs"
        self.certificates.mkdir()
        self.issue("default", "default.example")
        self.issue("a", "a.example")
        self.issue("wild", "*.w.example")
        self.ca.cert_pem.write_to_path(folder / "ca.pem")
        self.port, self.plain = free_port(), free_port()
        self.file = folder / "pylb.toml"
        self.file.write_text(
            f"workers = {{min = 1, max = 2}}\n"
            f'[[frontend]]\nname = "tls"\nbind = "127.0.0.1:{self.port}"\nbackend = "b"\n'
            f'[frontend.tls]\ncertificates = "{self.certificates}"\n{tls}\n'
            f'[[frontend]]\nname = "plain"\nbind = "127.0.0.1:{self.plain}"\nbackend = "b"\n'
            f"redirect_to_https = true\n"
            f'[[backend]]\nname = "b"\n[[backend.server]]\naddress = "{origin.address}"\n'
        )
        self.running: Balancer = balancer("-c", str(self.file))

    def issue(self, file: str, *names: str, kind: trustme.KeyType = trustme.KeyType.ECDSA) -> None:
        """Write a certificate and its key."""
        cert = self.ca.issue_cert(*names, key_type=kind)
        pem = cert.private_key_pem.bytes() + b"".join(blob.bytes() for blob in cert.cert_chain_pems)
        (self.certificates / f"{file}.pem").write_bytes(pem)

    def context(self) -> ssl.SSLContext:
        """A client that trusts the site."""
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        return context

    def connect(self, name: str | None, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        """A connection that asks for ``name``."""
        context = context or self.context()
        raw = socket.create_connection(("127.0.0.1", self.port), timeout=50)
        return context.wrap_socket(raw, server_hostname=name)


def exchange(sock: socket.socket, request: bytes = GET) -> bytes:
    """One request and its answer with a Content-Length."""
    sock.sendall(request)
    data = b""
    while b"\r\n\r\n" not in data:
        piece = sock.recv(65536)
        assert piece, data
        data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += sock.recv(65536)
    return head + b"\r\n\r\n" + body


def generations(status: dict[str, Any]) -> set[tuple[int, str]]:
    return {(worker["generation"], worker["state"]) for worker in status["workers"]}


def names(sock: ssl.SSLSocket) -> set[str]:
    certificate = sock.getpeercert()
    assert certificate is not None
    alternative: Any = certificate["subjectAltName"]
    return {value for _, value in alternative}


def test_the_certificate_follows_the_name(balancer: StartBalancer, origin: Origin, tmp_path: Path) -> None:
    site = Site(balancer, origin, tmp_path, tls="hsts = 3600")
    for asked, given in (("a.example", "a.example"), ("x.w.example", "*.w.example")):
        with site.connect(asked) as sock:
            assert names(sock) == {given}
            answer = exchange(sock)
            assert b"X-Forwarded-Proto: https" in answer
            assert b"\r\nStrict-Transport-Security: max-age=3600\r\n" in answer
            assert b"200" in exchange(sock)  # the connection stays
            sock.sendall(b"GET /until-close HTTP/1.1\r\nHost: a\r\n\r\n")
            answer = b""
            while piece := sock.recv(65536):
                answer += piece
            assert b"\r\nConnection: close\r\n" in answer
        with site.connect(asked) as sock:  # responses of pylb's own say it, too
            answer = exchange(sock, b"GET / HTTP/1.1\r\n\r\n")
            assert answer.startswith(b"HTTP/1.1 400 ")
            assert b"\r\nStrict-Transport-Security: max-age=3600\r\n" in answer
        context = site.context()
        context.set_alpn_protocols(["h2"])
        with site.connect(asked, context) as sock:
            client = Client(site.port, sock=sock)
            fields, body, _ = client.answer(client.request("/a b"))
            assert dict(fields)[":status"] == "400"
            assert dict(fields)["strict-transport-security"] == "max-age=3600"
            assert body.startswith(b"400 Bad Request")
    context = site.context()
    context.check_hostname = False
    for asked_for in ("unknown.example", None):
        with site.connect(asked_for, context) as sock:
            assert names(sock) == {"default.example"}


def test_the_certificate_follows_the_kinds_of_key_of_the_client(
    balancer: StartBalancer, origin: Origin, tmp_path: Path
) -> None:
    site = Site(balancer, origin, tmp_path)
    site.issue("a-rsa", "a.example", kind=trustme.KeyType.RSA)
    site.running.signal(signal.SIGHUP)
    site.running.wait("reloaded", lambda status: (2, "serving") in generations(status))
    for kind in ("ECDSA", "RSA"):
        context = site.context()
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        context.set_ciphers(f"ECDHE-{kind}-AES128-GCM-SHA256")
        with site.connect("a.example", context) as sock:
            assert names(sock) == {"a.example"}
            exchange(sock)


def test_alpn_versions_and_ciphers(balancer: StartBalancer, origin: Origin, tmp_path: Path) -> None:
    site = Site(balancer, origin, tmp_path)
    for offered, chosen in ((["h2", "http/1.1"], "h2"), (["http/1.1"], "http/1.1")):
        context = site.context()
        context.set_alpn_protocols(offered)
        with site.connect("a.example", context) as sock:
            assert sock.selected_alpn_protocol() == chosen
    context = site.context()
    context.minimum_version = ssl.TLSVersion.TLSv1
    context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)), site.connect("a.example", context):
        pass
    context = site.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA:ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES128-SHA:@SECLEVEL=0")
    with pytest.raises((ssl.SSLError, ConnectionError)), site.connect("a.example", context):
        pass


def test_sessions_are_resumed(balancer: StartBalancer, origin: Origin, tmp_path: Path) -> None:
    site = Site(balancer, origin, tmp_path)
    context = site.context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with site.connect("a.example", context) as sock:
        exchange(sock)
        session = sock.session
    raw = socket.create_connection(("127.0.0.1", site.port), timeout=50)
    with context.wrap_socket(raw, server_hostname="a.example", session=session) as sock:
        assert sock.session_reused
        exchange(sock)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_sessions_are_resumed_with_any_worker(
    balancer: StartBalancer, origin: Origin, tmp_path: Path, version: ssl.TLSVersion
) -> None:
    site = Site(balancer, origin, tmp_path)
    site.running.scale(2)
    context = site.context()
    context.maximum_version = version
    with site.connect("a.example", context) as sock:
        exchange(sock)
        session = sock.session
    for _ in range(24):
        raw = socket.create_connection(("127.0.0.1", site.port), timeout=50)
        with context.wrap_socket(raw, server_hostname="a.example", session=session) as sock:
            assert sock.session_reused
            exchange(sock)
    site.running.wait("both used", lambda status: all(worker["accepted"] for worker in status["workers"]))
    # A reload that brings another certificate ends no session.
    site.issue("a", "a.example", "renewed.example")
    site.running.signal(signal.SIGHUP)
    site.running.wait(
        "reloaded", lambda status: generations(status) == {(2, "serving")} and len(status["workers"]) == 2
    )
    for _ in range(8):
        raw = socket.create_connection(("127.0.0.1", site.port), timeout=50)
        with context.wrap_socket(raw, server_hostname="a.example", session=session) as sock:
            assert sock.session_reused
            exchange(sock)
    with site.connect("a.example") as sock:
        assert names(sock) == {"a.example", "renewed.example"}


def test_client_certificates(balancer: StartBalancer, origin: Origin, tmp_path: Path) -> None:
    ca_file = tmp_path / "ca.pem"
    tls = f'client_certificate = "required"\nclient_ca = "{ca_file}"'
    # The CA's file must be there when the balancer starts; Site writes it first.
    site = Site(balancer, origin, tmp_path, tls=tls)
    context = site.context()
    site.ca.issue_cert("ann@example.org", common_name="Ann", organization_name="Trust, Inc").configure_cert(
        context
    )
    forged = GET[:-2] + b"X-Client-Cert-Subject: CN=Root\r\n\r\n"
    with site.connect("a.example", context) as sock:
        answer = exchange(sock, forged)
    assert b"X-Client-Cert-Subject: " in answer
    assert b"CN=Ann" in answer
    assert b"CN=Root" not in answer
    nobody = site.context()
    refusal = (ssl.SSLError, ConnectionError, AssertionError)
    with pytest.raises(refusal), site.connect("a.example", nobody) as sock:
        exchange(sock)


def test_a_client_that_leaves_in_order_during_a_request_is_no_warning(
    balancer: StartBalancer, origin: Origin, tmp_path: Path
) -> None:
    site = Site(balancer, origin, tmp_path)
    context = site.context()
    with site.connect("a.example", context) as sock:
        sock.sendall(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
        site.running.wait("under way", lambda status: status["servers"][0]["active"] == 1)
        with contextlib.suppress(OSError):
            sock.unwrap()
    site.running.wait("gone", lambda status: status["totals"]["connections"] == 0)
    assert "eof_received" not in site.running.log.read_text()


def test_http_is_redirected(balancer: StartBalancer, origin: Origin, tmp_path: Path) -> None:
    site = Site(balancer, origin, tmp_path)
    with socket.create_connection(("127.0.0.1", site.plain), timeout=50) as sock:
        answer = exchange(sock, b"GET /x?y HTTP/1.1\r\nHost: a.example:8080\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 308 ")
        assert b"\r\nLocation: https://a.example/x?y\r\n" in answer
        # Browsers take what follows more slashes for a host.
        answer = exchange(sock, b"GET /other.example HTTP/1.1\r\nHost: :80\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ")
    assert origin.heads == []


def test_a_reload_brings_new_certificates_and_drains(
    balancer: StartBalancer, origin: Origin, tmp_path: Path
) -> None:
    site = Site(balancer, origin, tmp_path)
    with site.connect("a.example") as idle, site.connect("a.example") as used:
        exchange(idle)
        used.sendall(b"GET /held HTTP/1.1\r\nHost: a.example\r\n\r\n")
        site.running.wait("under way", lambda status: status["servers"][0]["active"] == 1)
        site.issue("b", "b.example")
        site.running.signal(signal.SIGHUP)
        site.running.wait("reloaded", lambda status: (2, "serving") in generations(status))
        with site.connect("b.example") as sock:
            assert names(sock) == {"b.example"}
            exchange(sock)
        origin.release()
        data = b""
        while piece := used.recv(65536):
            data += piece
        assert b"\r\nConnection: close\r\n" in data
        assert data.endswith(b"late")
        assert idle.recv(100) == b""  # closed in order, between two requests


def test_a_broken_certificate_is_a_line_and_not_a_loop(
    balancer: StartBalancer, origin: Origin, tmp_path: Path
) -> None:
    site = Site(balancer, origin, tmp_path)
    (site.certificates / "a.pem").write_text("no certificate")
    site.running.signal(signal.SIGHUP)
    status = site.running.wait("refused", lambda status: (status["reload"] or {}).get("ok") is False)
    assert "a.pem" in str(status["reload"]["errors"])
    with site.connect("x.w.example") as sock:
        exchange(sock)


def test_renewed_certificates_are_noticed(balancer: StartBalancer, origin: Origin, tmp_path: Path) -> None:
    site = Site(balancer, origin, tmp_path)
    site.issue("b", "b.example")
    site.running.wait("noticed", lambda status: (2, "serving") in generations(status))
    with site.connect("b.example") as sock:
        assert names(sock) == {"b.example"}


def test_a_certificate_must_be_good_at_the_start(tmp_path: Path) -> None:
    file = tmp_path / "pylb.toml"
    file.write_text(
        '[[frontend]]\nname = "f"\nbind = "127.0.0.1:1"\nbackend = "b"\n'
        f'[frontend.tls]\ncertificates = "{tmp_path}/none.pem"\n'
        '[[backend]]\nname = "b"\n[[backend.server]]\naddress = "127.0.0.1:9"\n'
    )
    command = [sys.executable, "-m", "pylb", "check", "-c", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "frontend[0].tls" in done.stdout + done.stderr
    assert "none.pem" in done.stdout + done.stderr


def tls_context(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("server.example").configure_cert(context)
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


@pytest.mark.parametrize(
    ("settings", "status"),
    [
        ('ca = "{ca}"\nname = "server.example"', b"200"),
        ('name = "server.example"', b"503"),  # an unknown CA
        ('ca = "{ca}"\nname = "other.example"', b"503"),
        ("verify = false", b"200"),
        ('ca = "{ca}"\nname = "server.example"\ncertificate = "{me}"', b"200"),
    ],
)
def test_servers_are_verified(
    balancer: StartBalancer, scripted: StartServer, tmp_path: Path, settings: str, status: bytes
) -> None:
    ca = trustme.CA()
    context = tls_context(ca)
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    me = ca.issue_cert("me.example", common_name="me")
    me.private_key_and_cert_chain_pem.write_to_path(tmp_path / "me.pem")
    seen: list[object] = []

    def play(raw: socket.socket) -> None:
        with context.wrap_socket(raw, server_side=True) as sock:
            seen.append(sock.getpeercert())
            sock.recv(65536)
            sock.sendall(OK)
            sock.recv(1)

    port = free_port()
    file = tmp_path / "pylb.toml"
    file.write_text(
        f'[[frontend]]\nname = "f"\nbind = "127.0.0.1:{port}"\nbackend = "b"\n[[backend]]\nname = "b"\n'
        f"[backend.tls]\n{settings.format(ca=tmp_path / 'ca.pem', me=tmp_path / 'me.pem')}\n"
        f'[[backend.server]]\naddress = "{scripted(play).address}"\n'
    )
    balancer("-c", str(file))
    with socket.create_connection(("127.0.0.1", port), timeout=50) as sock:
        answer = exchange(sock)
    assert answer.startswith(b"HTTP/1.1 " + status)
    if "certificate" in settings:
        assert "me" in str(seen)
