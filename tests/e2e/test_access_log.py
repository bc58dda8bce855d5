"""The access log, whole: what programs read of it, rotation, targets that don't take it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from bench.rig.balancer import Balancer, backend, free_port, frontend
from tests.e2e.http2client import Client
from tests.e2e.origin import Origin

PATIENCE = 60.0
NAMES = ("web", "comb", "json", "sys", "raw", "full", "fifo", "off")
HOSTILE = b'GET /x"\\y HTTP/1.1\r\nHost: a\r\nUser-Agent: "\x9b\\\r\nReferer: http://r/\r\n'
ROOT = os.geteuid() == 0


class Setup:
    """A balancer with a frontend for each target, whose files lie where its workers may not open any."""

    def __init__(self, folder: Path, origin: Origin) -> None:
        self.folder = folder
        self.origin = origin
        self.ports = {name: free_port() for name in NAMES}
        self.syslog = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.syslog.bind(("127.0.0.1", 0))
        self.syslog.settimeout(PATIENCE)
        os.mkfifo(folder / "fifo")
        self.reader = os.open(folder / "fifo", os.O_RDONLY | os.O_NONBLOCK)
        more = {
            "comb": f'access_log = {{ to = "{folder}/comb.log", format = "combined" }}',
            "json": f'[frontend.access_log]\nto = "{folder}/json.log"\nformat = "json"\n'
            'request_headers = ["User-Agent"]',
            "sys": '[frontend.access_log]\nsyslog = "rfc3164"\n'
            f'to = "syslog:127.0.0.1:{self.syslog.getsockname()[1]}"',
            "raw": f'mode = "tcp"\naccess_log = "{folder}/raw.log"',
            "full": 'access_log = "/dev/full"',
            "fifo": f'access_log = "{folder}/fifo"',
            "off": "access_log = false",
        }
        self.text = f'[log.access]\nto = "{folder}/web.log"\n[workers]\nmin = 2\nmax = 2\n'
        for name, port in self.ports.items():
            self.text += frontend(name, port, more.get(name, "") + "\n")
        self.text += backend("b", [origin.address])
        if ROOT:
            self.text = 'user = "nobody"\n' + self.text
        self.balancer = Balancer(text=self.text)
        self.balancer.wait_workers(2)

    def ask(self, name: str, request: bytes = b"GET /a HTTP/1.1\r\nHost: a\r\n") -> bytes:
        """Ask a frontend, on a connection of its own."""
        with socket.create_connection(("127.0.0.1", self.ports[name]), timeout=PATIENCE) as sock:
            sock.sendall(request + b"Connection: close\r\n\r\n")
            data = b""
            while piece := sock.recv(65536):
                data += piece
            return data

    def at_the_server(self) -> None:
        """Wait until the server has a request that it never answers."""
        while not any(b" /never " in head for head in self.origin.heads):
            time.sleep(0.01)
        self.origin.heads.clear()

    def lines(self, name: str, until: Callable[[list[str]], bool]) -> list[str]:
        """The lines of a file, once they are as wanted."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            lines = (self.folder / name).read_text().splitlines() if (self.folder / name).exists() else []
            if until(lines):
                return lines
            time.sleep(0.01)
        raise AssertionError(lines)


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    folder = tmp_path_factory.mktemp("logs")
    folder.chmod(0o700)
    origin = Origin()
    one = Setup(folder, origin)
    try:
        yield one
    finally:
        assert one.balancer.stop() == 0  # though nobody reads the pipe
        origin.stop()
        os.close(one.reader)
        one.syslog.close()


def _run(*command: str, stdin: str = "") -> str:
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed (Debian's package: see tests/setup)")
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=PATIENCE, check=True)
    return done.stdout + done.stderr


def _requests(setup: Setup, name: str) -> None:
    """Five: two answered, one of them to hostile bytes; one refused, one badly answered, one aborted."""
    setup.ask(name)
    setup.ask(name, HOSTILE)
    setup.ask(name, b"GET / HTTP/1.1\r\n")
    setup.ask(name, b"GET /junk HTTP/1.1\r\nHost: a\r\n")
    with socket.create_connection(("127.0.0.1", setup.ports[name]), timeout=PATIENCE) as sock:
        sock.sendall(b"GET /never HTTP/1.1\r\nHost: a\r\n\r\n")
        setup.at_the_server()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset


def _five(lines: list[str]) -> bool:
    return len(lines) >= 5


def test_halog_reads_haproxys_format(setup: Setup) -> None:
    _requests(setup, "web")
    lines = setup.lines("web.log", _five)
    assert len(lines) == 5 and all(line.startswith("127.0.0.1:") for line in lines)
    assert any('"GET /x#22\\y HTTP/1.1"' in line for line in lines)
    said = _run("halog", "-s", "-4", "-st", stdin="\n".join(lines) + "\n")
    assert "5 lines in" in said and "0 parsing errors" in said
    assert set(said.splitlines()) > {"-1 1", "200 2", "400 1", "502 1"}
    states = _run("halog", "-s", "-4", "-tc", stdin="\n".join(lines) + "\n").split()
    assert {"--", "PR", "PH", "CH"} < set(states)


def test_goaccess_reads_combined(setup: Setup) -> None:
    _requests(setup, "comb")
    lines = setup.lines("comb.log", _five)
    report = setup.folder / "report.json"
    _run(
        *("goaccess", str(setup.folder / "comb.log"), "--log-format=COMBINED", "--no-global-config"),
        *("--no-progress", "-o", str(report)),
    )
    said = json.loads(report.read_text())
    assert (said["general"]["valid_requests"], said["general"]["failed_requests"]) == (5, 0), lines
    statuses = {
        one["data"][:3]: one["hits"]["count"]
        for kind in said["status_codes"]["data"]
        for one in kind["items"]
    }
    assert statuses == {"200": 2, "400": 1, "499": 1, "502": 1}
    assert said["general"]["bandwidth"] == sum(int(line.rsplit('"', 5)[1].split()[1]) for line in lines)


def test_lnav_reads_what_syslog_gets(setup: Setup) -> None:
    _requests(setup, "sys")
    messages = [setup.syslog.recv(65536).decode() for _ in range(5)]
    file = setup.folder / "syslog"
    # lnav's format wants two digits of the day, where RFC 3164 §4.1.2 has a blank: "Dec  1".
    lines = [re.sub(r"^(\w{3})  (\d) ", r"\1 1\2 ", message.partition(">")[2]) for message in messages]
    file.write_text("".join(line + "\n" for line in lines))
    columns = "status_code, frontend_name, backend_name, server_name, termination_state, http_url, client_ip"
    said = _run(
        *("lnav", "-n", "-c", f";SELECT {columns} FROM haproxy_log", "-c", ":write-json-to -", str(file))
    )
    rows = json.loads(said[said.index("[") : said.rindex("]") + 1])
    answered = [row for row in rows if row["http_url"] == "/a"]
    assert answered == [
        {
            **{"status_code": 200, "frontend_name": "sys", "backend_name": "b", "termination_state": "----"},
            **{"server_name": answered[0]["server_name"], "http_url": "/a", "client_ip": "127.0.0.1"},
        }
    ]
    assert {row["termination_state"] for row in rows} >= {"----", "PH--", "CH--"}


def test_json_is_json(setup: Setup) -> None:
    _requests(setup, "json")
    with contextlib.closing(Client(setup.ports["json"]).sock):
        pass  # no request, no line
    rows = [json.loads(line) for line in setup.lines("json.log", _five)]
    by_uri = {row["uri"]: row for row in rows}
    assert set(by_uri) == {"/a", '/x"\\y', None, "/junk", "/never"}
    assert by_uri['/x"\\y']["request_headers"] == {"user-agent": '"\\x9b\\'}
    assert by_uri["/never"]["client_ip"] == "127.0.0.1"  # though its connection was reset
    assert by_uri["/never"] | {"status": None, "termination": "CH"} == by_uri["/never"]
    assert by_uri["/junk"] | {"status": 502, "termination": "PH", "bytes_in": 0} == by_uri["/junk"]
    assert by_uri["/a"]["time_total"] >= by_uri["/a"]["time_response"] >= 0


def test_http2_and_tcp(setup: Setup) -> None:
    client = Client(setup.ports["json"])
    client.answer(client.request("/h2"))
    number = client.request("/never")
    setup.at_the_server()
    client.h2.reset_stream(number)
    client.flush()

    def spoken(lines: list[str]) -> list[dict[str, Any]]:
        return [row for line in lines if (row := json.loads(line))["protocol"] == "HTTP/2.0"]

    rows = spoken(setup.lines("json.log", lambda lines: len(spoken(lines)) == 2))
    assert [(row["uri"], row["status"], row["termination"]) for row in rows] == [
        ("/h2", 200, "--"),
        ("/never", None, "CH"),
    ]
    client.sock.close()
    sent = len(setup.ask("raw", b"GET /until-close HTTP/1.1\r\nHost: a\r\n"))
    (line,) = setup.lines("raw.log", bool)
    words = line.split(" ")
    assert words[2] == "raw" and words[5:7] == [str(sent), "--"]


def test_rotation_by_rename_and_by_copytruncate(setup: Setup) -> None:
    log = setup.folder / "web.log"
    workers = {child.pid for child in psutil.Process(setup.balancer.process.pid).children()}
    setup.ask("web", b"GET /before HTTP/1.1\r\nHost: a\r\n")
    setup.lines("web.log", lambda lines: "/before" in "".join(lines))
    owner = log.stat().st_uid
    log.rename(setup.folder / "web.log.1")
    setup.balancer.signal(signal.SIGUSR1)
    setup.lines("web.log", lambda lines: log.exists())

    def asked(path: str, count: int) -> None:
        """So that both workers have had one."""
        for _ in range(count):
            setup.ask("web", f"GET {path} HTTP/1.1\r\nHost: a\r\n".encode())

    def reopened() -> bool:
        inode = log.stat().st_ino
        return all(
            any(_inode(f"/proc/{pid}/fd/{fd}") == inode for fd in os.listdir(f"/proc/{pid}/fd"))
            for pid in {worker["pid"] for worker in setup.balancer.workers()}
        )

    setup.balancer.wait("reopened", lambda status: reopened())
    asked("/after", 10)
    setup.lines("web.log", lambda lines: "".join(lines).count("/after") == 10)
    assert "/after" not in (setup.folder / "web.log.1").read_text()
    assert log.stat().st_uid == owner == os.geteuid() and log.stat().st_mode & 0o777 == 0o640
    os.truncate(log, 0)
    asked("/truncated", 2)
    assert len(setup.lines("web.log", lambda lines: len(lines) == 2)) == 2
    assert b"\0" not in log.read_bytes()
    assert {child.pid for child in psutil.Process(setup.balancer.process.pid).children()} == workers


def _inode(path: str) -> int:
    with contextlib.suppress(OSError):
        return os.stat(path).st_ino
    return 0


def test_what_a_target_does_not_take_is_counted_and_delays_nobody(setup: Setup) -> None:
    long = b"GET /" + b"y" * 3000 + b" HTTP/1.1\r\nHost: a\r\n"
    for name in ("full", "fifo"):  # nobody reads the pipe
        for _ in range(40):
            assert setup.ask(name, long).startswith(b"HTTP/1.1 200 ")
    status = setup.balancer.wait("counted", lambda status: status["totals"]["access_lost"] == 40)
    assert status["totals"]["internal"] == 0
    assert (
        "access log /dev/full: lines are missing: No space left on device" in setup.balancer.log.read_text()
    )
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(setup.balancer.admin.path)
        sock.sendall(b"GET /metrics HTTP/1.0\r\nHost: localhost\r\n\r\n")
        text = b""
        while piece := sock.recv(65536):
            text += piece
    assert b"\npylb_access_log_lost_total 40.0\n" in text


def test_a_frontend_without_one_has_no_line(setup: Setup) -> None:
    setup.ask("off", b"GET /off HTTP/1.1\r\nHost: a\r\n")
    setup.ask("web", b"GET /on HTTP/1.1\r\nHost: a\r\n")
    lines = setup.lines("web.log", lambda lines: "/on " in "".join(lines))
    assert not any("/off" in line for line in lines)


def test_a_reload_with_a_wrong_path_is_refused_and_a_good_one_logs_on(setup: Setup) -> None:
    file = setup.balancer.folder / "pylb.toml"
    pids = {worker["pid"] for worker in setup.balancer.workers()}
    file.write_text(setup.text.replace(f"{setup.folder}/web.log", "/nowhere/web.log"))
    setup.balancer.signal(signal.SIGHUP)
    status = setup.balancer.wait("refused", lambda status: not (status["reload"] or {"ok": True})["ok"])
    (problem,) = status["reload"]["errors"]
    assert problem.endswith("log.access.to: /nowhere: no such directory")
    assert {worker["pid"] for worker in setup.balancer.workers()} == pids
    file.write_text(setup.text.replace(f"{setup.folder}/web.log", f"{setup.folder}/new.log"))
    setup.balancer.signal(signal.SIGHUP)
    # A new control plane doesn't know at once how it went.
    setup.balancer.wait("reloaded", lambda status: (status["reload"] or {"ok": False})["ok"])
    setup.ask("web")
    assert setup.lines("new.log", bool)
