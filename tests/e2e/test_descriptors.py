"""Descriptors run short: who is connected is served, who isn't waits."""

from __future__ import annotations

import os
import re
import select
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from bench.rig.balancer import Balancer, free_port
from pylb.control import view
from tests.e2e.conftest import StartBalancer
from tests.e2e.origin import Origin

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
LIMIT = 256
WRAP = ("prlimit", f"--nofile={LIMIT}:{LIMIT}")


@pytest.fixture
def limited(origin: Origin, tmp_path: Path) -> Iterator[Balancer]:
    """One worker with few descriptors, and binds of all kinds."""
    made = trustme.CA().issue_cert("localhost")
    made.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "both.pem"))
    ports = {name: free_port() for name in ("plain", "tcp", "proxied", "tls")}
    more = {
        "plain": "",
        "tcp": 'mode = "tcp"\n',
        "proxied": 'accept_proxy = true\ntrusted_proxies = ["127.0.0.0/8"]\n',
        "tls": f'[frontend.tls]\ncertificates = "{tmp_path}/both.pem"\n',
    }
    text = "workers = {min = 1, max = 1}\n"
    for name, port in ports.items():
        text += f'[[frontend]]\nname = "{name}"\nbind = "127.0.0.1:{port}"\nbackend = "b"\n{more[name]}'
    text += f'[[frontend]]\nname = "unix"\nbind = "unix:{tmp_path}/s"\nbackend = "b"\n'
    text += f'[[backend]]\nname = "b"\n[[backend.server]]\naddress = "{origin.address}"\n'
    file = tmp_path / "pylb.toml"
    file.write_text(text)
    one = Balancer("-c", str(file), wrap=WRAP)
    one.ports = ports  # type: ignore[attr-defined]
    yield one
    one.stop()


def connect(balancer: Balancer, kind: str, folder: Path) -> socket.socket:
    if kind == "unix":
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(50)
        sock.connect(f"{folder}/s")
        return sock
    return socket.create_connection(("127.0.0.1", balancer.ports[kind]), timeout=50)  # type: ignore[attr-defined]


def answered(sock: socket.socket, kind: str) -> bytes:
    sock.sendall((b"PROXY UNKNOWN\r\n" if kind == "proxied" else b"") + GET)
    return sock.recv(65536)


def _cpu(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


@pytest.mark.parametrize("kind", ["plain", "tcp", "proxied", "tls", "unix"])
def test_idle_clients_leave_descriptors_for_servers(limited: Balancer, kind: str, tmp_path: Path) -> None:
    """Of more clients than there can be, those that were accepted are served, and the others are later."""
    clients = [connect(limited, kind, tmp_path) for _ in range(LIMIT + 50)]
    status = limited.wait("paused", lambda status: status["totals"]["pauses"] == 1)
    (worker,) = status["workers"]
    open_ = len(os.listdir(f"/proc/{worker['pid']}/fd"))
    held = status["totals"]["accepted"]
    assert 50 < held < LIMIT // 2 and open_ < LIMIT
    first, waiting = clients[:held], clients[held:]
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for number in range(0, held, 7):
        if kind == "tls":
            first[number] = context.wrap_socket(first[number], server_hostname="localhost")
        assert b" 200 " in answered(first[number], kind)[:20]
    for client in first:
        client.close()
    # It goes on by itself, until the next ones are as many; in the end all were served.
    while waiting:
        client = waiting.pop(0)
        if kind == "tls":
            client = context.wrap_socket(client, server_hostname="localhost")
        assert b" 200 " in answered(client, kind)[:20]
        client.close()
    log = limited.log.read_text()
    assert len(re.findall("accepting is paused: .* of 256 descriptors", log)) == 1
    assert "accepting goes on after" in log
    assert limited.status()["totals"]["status_5xx"] == 0


def test_connections_in_excess_cost_no_cpu_while_they_wait(limited: Balancer, tmp_path: Path) -> None:
    """Measured in what the worker does between two looks at its own clock: ticks, and nothing else."""
    clients = [connect(limited, "proxied", tmp_path) for _ in range(LIMIT)]
    limited.wait("paused", lambda status: status["totals"]["pauses"] == 1)
    (worker,) = limited.workers()
    before = (_cpu(worker["pid"]), limited.status()["uptime"])
    limited.wait("later", lambda status: status["uptime"] > before[1] + 1.0)
    seconds = limited.status()["uptime"] - before[1]
    ticks = os.sysconf("SC_CLK_TCK")
    assert (_cpu(worker["pid"]) - before[0]) / ticks < 0.5 * seconds
    for client in clients:
        client.close()


def test_a_worker_takes_no_more_from_its_inbox_than_it_has_descriptors_for(
    balancer: StartBalancer, origin: Origin
) -> None:
    """Two workers hold more than one may; when one leaves, nobody is lost, and all are served in the end."""
    one = Balancer("--workers", "1..2", servers=(origin.address,), wrap=WRAP)
    try:
        one.scale(2)
        # More than one worker takes (about 70), and so few that chance gives none of the two more than that.
        clients = [socket.create_connection(("127.0.0.1", one.port), timeout=50) for _ in range(100)]
        one.wait("accepted", lambda status: status["totals"]["connections"] >= 100)
        view.fetch(one.admin, "POST", "/scale", {"n": 1})
        one.wait("full", lambda status: any(w["connections"] > 50 for w in status["workers"]))
        for client in clients:
            client.sendall(GET)
        open_ = set(clients)
        while open_:
            ready, _, _ = select.select(open_, [], [], 20)
            assert ready, f"{len(open_)} clients are never served"
            for client in ready:
                answer = client.recv(65536)
                assert answer.startswith(b"HTTP/1.1 200 "), answer
                client.close()
                open_.discard(client)
        assert "were lost" not in one.log.read_text()
    finally:
        one.stop()
