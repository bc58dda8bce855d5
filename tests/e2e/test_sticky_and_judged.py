"""Clients keep to their servers, and servers that answer badly are taken out, in one whole balancer."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest

from bench.rig.balancer import Balancer, free_port, frontend
from tests.e2e.http2client import Client
from tests.e2e.origin import Scripted, read_head

RULES = """
[frontend.health]
path = "/up"
[[frontend.rule]]
match = { path = "/http2" }
backend = "http2"
[[frontend.rule]]
match = { path = "/judged" }
backend = "judged"
[[frontend.rule]]
match = { path = "/closing" }
backend = "closing"
"""
BACKENDS = """
[[backend]]
name = "http1"
balance = "roundrobin"
server = [
    { name = "a", address = "A" }, { name = "b", address = "B" }, { name = "gone", address = "GONE" },
    { name = "spare", address = "A", backup = true, weight = 2 },
]
sticky = { cookie = "SRV", values = "signed" }
[[backend]]
name = "http2"
balance = "roundrobin"
http2 = true
server = [{ name = "a", address = "127.0.0.1:INNER_A" }, { name = "b", address = "127.0.0.1:INNER_B" }]
sticky = { cookie = "SRV", same_site = "Strict" }
[[backend]]
name = "judged"
balance = "roundrobin"
min_servers = 2
server = [{ name = "good", address = "A" }, { name = "bad", address = "BAD" }]
[backend.outliers]
failures = 3
statuses = [500]
[[backend]]
name = "closing"
server = "HELD"
check = { interval = "100ms", fall = 1, port = CHECKED }
on_marked_down = "shutdown-sessions"
[[backend]]
name = "inner-a"
server = "A"
[[backend]]
name = "inner-b"
server = "B"
"""


def _says(name: str, status: str = "200 OK") -> Callable[[socket.socket], None]:
    """A server that says which it is, and the cookies that it sees."""

    def play(connection: socket.socket) -> None:
        while True:
            head = read_head(connection).decode()
            found = re.search(r"\r\ncookie: ([^\r]*)", head, re.IGNORECASE)
            body = f"{name} {found[1] if found else ''}"
            connection.sendall(f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode())

    return play


class Held(Balancer):
    """A balancer with a server that never answers, and what the checks of that one connect to."""

    checked: socket.socket
    access: Path


def _held(connection: socket.socket) -> None:
    """Change the protocol where that is asked for; answer nothing else."""
    if b"upgrade: x" in read_head(connection).lower():
        connection.sendall(b"HTTP/1.1 101 S\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nhello")
    connection.recv(1)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Held]:
    with ExitStack() as stack:
        access = tmp_path_factory.mktemp("log") / "access"
        checked = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        places = {
            "A": stack.enter_context(Scripted(_says("a"))).address,
            "B": stack.enter_context(Scripted(_says("b"))).address,
            "BAD": stack.enter_context(Scripted(_says("bad", "500 Oops"))).address,
            "HELD": stack.enter_context(Scripted(_held)).address,
            "GONE": f"127.0.0.1:{free_port()}",
        }
        port, inner_a, inner_b = (free_port() for _ in range(3))
        text = BACKENDS.replace("INNER_A", str(inner_a)).replace("INNER_B", str(inner_b))
        text = text.replace("CHECKED", str(checked.getsockname()[1]))
        for name, address in places.items():
            text = text.replace(f'"{name}"', f'"{address}"')
        text = (
            f"workers = {{min = 2, max = 2}}\nlog = {{ access = {{ to = '{access}' }} }}\n"
            + frontend("web", port, RULES, "http1")
            + frontend("inner-a", inner_a, "", "inner-a")
            + frontend("inner-b", inner_b, "", "inner-b")
            + text
        )
        one = stack.enter_context(Held(text=text))
        one.port, one.checked, one.access = port, checked, access
        yield one


Ask = Callable[[str, str], tuple[int, str, str]]


def _http1(balancer: Balancer) -> Ask:
    def ask(path: str, cookie: str) -> tuple[int, str, str]:
        line = f"Cookie: {cookie}\r\n" if cookie else ""
        with closing(socket.create_connection(("127.0.0.1", balancer.port), timeout=50)) as sock:
            sock.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{line}\r\n".encode())
            data = b""
            while piece := sock.recv(65536):
                data += piece
        head, _, body = data.decode().partition("\r\n\r\n")
        found = re.search(r"\r\nset-cookie: ([^\r]*)", head, re.IGNORECASE)
        return int(head[9:12]), body, found[1] if found else ""

    return ask


def _http2(balancer: Balancer) -> Ask:
    client = Client(balancer.port)

    def ask(path: str, cookie: str) -> tuple[int, str, str]:
        # In several fields, as browsers send them (RFC 9113 §8.2.3).
        fields = [("cookie", one) for one in cookie.split("; ") if one]
        head, body, _ = client.answer(client.request(path, *fields))
        found = dict(head)
        return int(found[":status"]), body.decode(), found.get("set-cookie", "")

    return ask


@pytest.mark.parametrize("speak", [_http1, _http2])
@pytest.mark.parametrize("path", ["/", "/http2"])
def test_a_client_keeps_to_its_server_whatever_both_speak(
    running: Balancer, speak: Callable[[Balancer], Ask], path: str
) -> None:
    ask = speak(running)
    for _ in range(2):
        status, server, told = ask(path, "x=1")
        assert status == 200 and server in ("a x=1", "b x=1")
        assert told.endswith("; Path=/; HttpOnly" + ("; SameSite=Strict" if path == "/http2" else ""))
        cookie = told.partition(";")[0]
        for _ in range(4):
            assert ask(path, f"x=1; {cookie}; y=2") == (200, f"{server[0]} x=1; y=2", "")
    if path == "/":
        assert ask(path, cookie + "x")[2]  # a wrong signature is no cookie
    else:
        # No server is there where this cookie leads; the rules of the algorithm hold, and there is a new one.
        assert ask(path, "SRV=c")[2].startswith("SRV=")


def test_a_server_that_answers_badly_is_taken_out_and_why_tells(running: Balancer) -> None:
    ask = _http1(running)
    assert ask("/up", "")[0] == 200
    statuses: list[int] = []
    while not any(server["state"] == "ejected" for server in running.status()["servers"]):
        statuses += [ask("/judged", "")[0] for _ in range(4)]
        assert len(statuses) < 1000
    assert statuses.count(500) >= 3
    running.wait("short", lambda status: any(one["short"] for one in status["backends"]))
    while ask("/up", "")[0] == 200:
        pass
    assert [ask("/judged", "")[:2] for _ in range(6)] == [(200, "a ")] * 6
    command = [sys.executable, "-m", "pylb", "why", "judged/bad", "--admin", str(running.admin)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(r"judged/bad at \S+ is ejected since .* ago\): \d+ failures in a row; for 30 s", said)
    found = json.loads(subprocess.run([*command, "--json"], capture_output=True, check=True).stdout)
    assert [change["state"] for change in found[0]["changes"]] == ["ejected"]
    nobody = subprocess.run([*command[:4], "nobody", *command[5:]], capture_output=True, text=True)
    assert nobody.returncode == 2 and "no server 'nobody'" in nobody.stderr
    with closing(socket.socket(socket.AF_UNIX)) as sock:
        sock.settimeout(50)
        sock.connect(running.admin.path)
        sock.sendall(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")
        metrics = b""
        while piece := sock.recv(65536):
            metrics += piece
    assert b'pylb_server_ejections_total{backend="judged",server="bad"} 1.0' in metrics


def test_requests_and_tunnels_at_a_server_that_goes_down_end(running: Held) -> None:
    waiting, upgraded = (
        socket.create_connection(("127.0.0.1", running.port), timeout=50) for _ in range(2)
    )
    with closing(waiting), closing(upgraded):
        waiting.sendall(b"GET /closing HTTP/1.1\r\nHost: a\r\n\r\n")
        upgraded.sendall(
            b"GET /closing HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
        )
        assert upgraded.recv(5000).startswith(b"HTTP/1.1 101 ")

        def active(status: dict[str, Any]) -> int:
            return sum(one["active"] for one in status["servers"] if one["backend"] == "closing")

        running.wait("both under way", lambda status: active(status) == 2)
        running.checked.close()
        assert waiting.recv(5000).startswith(b"HTTP/1.1 503 ")
        while upgraded.recv(5000):
            pass
    states = r" closing/s1 \S+ (503|101) \d+ - - (..)--"
    found: list[tuple[str, str]] = []

    def logged(status: object) -> bool:
        found[:] = re.findall(states, running.access.read_text())
        return len(found) == 2

    running.wait("both lines", logged)
    assert sorted(found) == [("101", "DD"), ("503", "DH")]
    command = [sys.executable, "-m", "pylb", "why", "closing/s1", "--admin", str(running.admin)]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert re.search(r"closing/s1 at \S+ is down since .* ago\): .*refused", said), said
