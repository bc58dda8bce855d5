"""A whole balancer does with requests what its rules say of them, whatever the client speaks."""

from __future__ import annotations

import json
import os
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme

from bench.rig.balancer import Balancer, backend, free_port, frontend
from tests.e2e.http2client import Client
from tests.e2e.origin import Scripted, read_head
from tests.rules.cases import CASES, SCENARIOS, Case
from tests.rules.requests import BACKENDS

TLS = """
[[frontend.rule]]
match = { sni = "*.by-name.example" }
backend = "shop"
[[frontend.rule]]
match = { client_subject = { contains = "CN=robot" } }
backend = "api"
[[frontend.rule]]
match = { tls_version = "1.2" }
backend = "canary"
[[frontend.rule]]
match = { tls = true, protocol = "h2" }
backend = "admin"
"""


def _named(name: str) -> Callable[[socket.socket], None]:
    """A server that says which it is."""
    answer = f"HTTP/1.1 200 OK\r\nContent-Length: {len(name)}\r\n\r\n"

    def play(connection: socket.socket) -> None:
        while True:
            head = read_head(connection)
            connection.sendall((answer + ("" if head.startswith(b"HEAD ") else name)).encode())

    return play


class Site:
    """A balancer with a frontend for each scenario, and one with TLS."""

    def __init__(self, folder: Path, servers: dict[str, str]) -> None:
        self.folder = folder
        self.ports = {name: free_port() for name in SCENARIOS}
        self.tls = free_port()
        self.ca = trustme.CA()
        self.ca.cert_pem.write_to_path(str(folder / "ca.pem"))
        self._issue("server.pem", "by-name.example", "www.by-name.example", "other.example")
        parts = ["workers = {min = 1, max = 1}\n"]
        for name, scenario in SCENARIOS.items():
            keys = "".join(f"{key} = {json.dumps(value)}\n" for key, value in scenario.keys.items())
            rules = scenario.rules.replace("[[rule]]", "[[frontend.rule]]")
            parts.append(frontend(name, self.ports[name], keys + rules, "site"))
            for spelled, lines in scenario.maps.items():
                one, kind, *key = spelled.split(":")
                (folder / one).write_text(lines)
                parts.append(f'[[map]]\nname = "{one}"\nfile = "{folder / one}"\nkind = "{kind}"\n')
                parts += [f'key = "{some}"\n' for some in key]
        files = f'certificates = "{folder}/server.pem"\nclient_ca = "{folder}/ca.pem"\n'
        tls = f'[frontend.tls]\n{files}client_certificate = "optional"\n'
        parts.append(frontend("tls", self.tls, tls + TLS, "site"))
        parts += [backend(name, [server]) for name, server in servers.items()]
        self.running = Balancer(text="".join(parts))

    def _issue(self, file: str, *names: str, common_name: str | None = None) -> None:
        cert = self.ca.issue_cert(*names, common_name=common_name)
        chain = [cert.private_key_pem, *cert.cert_chain_pems]
        (self.folder / file).write_bytes(b"".join(blob.bytes() for blob in chain))

    def handshake(self, name: str, alpn: str, robot: bool = False, version: str = "TLSv1_3") -> ssl.SSLSocket:
        """A TLS connection to the frontend that has it."""
        context = ssl.create_default_context()
        self.ca.configure_trust(context)
        context.set_alpn_protocols([alpn])
        context.maximum_version = ssl.TLSVersion[version]
        if robot:
            self._issue("robot.pem", "robot@example.org", common_name="robot")
            context.load_cert_chain(self.folder / "robot.pem")
        sock = socket.create_connection(("127.0.0.1", self.tls), timeout=20)
        return context.wrap_socket(sock, server_hostname=name)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as started:
        servers = {name: started.enter_context(Scripted(_named(name))).address for name in BACKENDS}
        one = Site(tmp_path_factory.mktemp("rules"), servers)
        started.enter_context(one.running)
        yield one


class Http1:
    """A client that speaks HTTP/1."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def ask(self, case: Case) -> str:
        """What a request leads to."""
        lines = [f"{case.method} {case.target} HTTP/1.1", f"Host: {case.host}"]
        lines += [f"{name}: {value}" for name, value in case.fields]
        self._sock.sendall("\r\n".join([*lines, "", ""]).encode())
        head, _, body = read_head(self._sock).partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length:")[2].split(None, 1)[0])
        while len(body) < length:
            body += self._sock.recv(65536)
        return _told(int(head[9:12]), body)


class Http2:
    """A client that speaks HTTP/2."""

    def __init__(self, sock: socket.socket) -> None:
        self._client = Client(0, sock=sock)

    def ask(self, case: Case) -> str:
        """What a request leads to."""
        client = self._client
        pseudo = [(":method", case.method), (":scheme", "http")]
        pseudo += [(":authority", case.host), (":path", case.target)]
        fields = [(name.lower(), value) for name, value in case.fields]
        number = client.h2.get_next_available_stream_id()
        client.h2.send_headers(number, [*pseudo, *fields], end_stream=True)
        client.flush()
        response, body, _ = client.answer(number)
        return _told(int(dict(response)[":status"]), body)


def _told(status: int, body: bytes) -> str:
    return body.decode() if status == 200 else str(status)


@pytest.mark.parametrize("client", [Http1, Http2])
def test_the_table(site: Site, client: type[Http1] | type[Http2]) -> None:
    wrong = []
    sock: socket.socket | None = None
    scenario = ""
    for case in CASES:
        if case.method == "HEAD":
            continue  # it has no body to tell by
        if sock is None or case.scenario != scenario:
            if sock is not None:
                sock.close()
            scenario = case.scenario
            sock = socket.create_connection(("127.0.0.1", site.ports[scenario]), timeout=20)
            one = client(sock)
        led = one.ask(case)
        if led != case.outcome:
            wrong.append(f"{case}: {led}, not {case.outcome}")
        if led == "400":  # what follows on the connection can't be trusted
            sock.close()
            sock = None
    if sock is not None:
        sock.close()
    assert not wrong


@pytest.mark.parametrize(
    ("name", "alpn", "more", "led"),
    [
        ("www.by-name.example", "http/1.1", {}, "shop"),
        ("by-name.example", "http/1.1", {}, "site"),
        ("other.example", "http/1.1", {"robot": True}, "api"),
        ("other.example", "http/1.1", {"version": "TLSv1_2"}, "canary"),
        ("other.example", "h2", {}, "admin"),
    ],
)
def test_what_tls_has_told(site: Site, name: str, alpn: str, more: dict[str, bool | str], led: str) -> None:
    case = Case("tls", "GET", "x", "/", (), "")
    with site.handshake(name, alpn, **more) as sock:  # type: ignore[arg-type]
        assert (Http2 if alpn == "h2" else Http1)(sock).ask(case) == led


def test_a_map_that_changes_is_read_again(site: Site) -> None:
    case = Case("maps", "GET", "late.example", "/", (), "")

    def led() -> str:
        with socket.create_connection(("127.0.0.1", site.ports["maps"]), timeout=20) as sock:
            return Http1(sock).ask(case)

    assert led() == "site"
    new = site.folder / "new"
    new.write_text("late.example canary\n")
    os.replace(new, site.folder / "tenants")
    site.running.wait("read again", lambda status: led() == "canary")
