"""pylb as a program: addresses, signals, the operator's commands, deaths."""

from __future__ import annotations

import ctypes
import io
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from bench.rig.balancer import free_port
from bench.rig.processes import titles
from pylb.config.address import parse_address
from pylb.control import view
from tests.e2e.conftest import StartBalancer
from tests.e2e.origin import Origin

GET = b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"


def ask(family: int, address: tuple[str, int] | str, request: bytes = GET) -> bytes:
    with socket.socket(family) as sock:
        sock.settimeout(50)
        sock.connect(address)
        sock.sendall(request)
        data = b""
        while piece := sock.recv(65536):
            data += piece
        return data


def configure(file: Path, origin: Origin, *binds: str, more: str = "") -> None:
    listed = ", ".join(f'"{bind}"' for bind in binds)
    file.write_text(
        f'{more}\n[[frontend]]\nname = "f"\nbind = [{listed}]\nbackend = "b"\n'
        f'[[backend]]\nname = "b"\n[[backend.server]]\naddress = "{origin.address}"\n'
    )


def test_v4_v6_and_unix_at_once_and_binds_change_with_a_reload(
    balancer: StartBalancer, origin: Origin, tmp_path: Path
) -> None:
    v4, v6, path = f"127.0.0.1:{free_port()}", f"[::1]:{free_port()}", tmp_path / "front.sock"
    places: list[tuple[int, tuple[str, int] | str]] = [
        (socket.AF_INET, ("127.0.0.1", int(v4.rpartition(":")[2]))),
        (socket.AF_INET6, ("::1", int(v6.rpartition(":")[2]))),
        (socket.AF_UNIX, str(path)),
    ]
    file = tmp_path / "pylb.toml"
    configure(file, origin, v4, v6, f"unix:{path}")
    running = balancer("-c", str(file))
    for family, address in places:
        assert ask(family, address).startswith(b"HTTP/1.1 200 ")
    added = free_port()
    configure(file, origin, v4, f"127.0.0.1:{added}")
    running.signal(signal.SIGHUP)
    running.wait("reloaded", lambda status: [w["generation"] for w in status["workers"]] == [2])
    assert ask(socket.AF_INET, ("127.0.0.1", added)).startswith(b"HTTP/1.1 200 ")
    assert ask(*places[0]).startswith(b"HTTP/1.1 200 ")
    for family, address in places[1:]:
        with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
            ask(family, address)


def test_a_server_that_moved_is_counted_once(balancer: StartBalancer, origin: Origin, tmp_path: Path) -> None:
    file, bind = tmp_path / "pylb.toml", f"127.0.0.1:{free_port()}"
    configure(file, origin, bind)
    running = balancer("-c", str(file))
    moved = Origin()
    try:
        configure(file, moved, bind)
        running.signal(signal.SIGHUP)
        running.wait("reloaded", lambda status: [w["generation"] for w in status["workers"]] == [2])
        assert ask(socket.AF_INET, ("127.0.0.1", int(bind.rpartition(":")[2]))).startswith(b"HTTP/1.1 200 ")
    finally:
        moved.stop()
    answer = ask(socket.AF_UNIX, running.admin.path, GET.replace(b"GET /", b"GET /metrics"))
    text = answer.partition(b"\r\n\r\n")[2].decode()
    samples = [sample[:2] for family in text_string_to_metric_families(text) for sample in family.samples]
    names = [(name, *sorted(labels.items())) for name, labels in samples]
    assert len(names) == len(set(names)) > 50
    assert 'pylb_server_requests_total{backend="b",server="s1"} ' in text


def test_what_the_controller_or_a_name_says_is_no_markup() -> None:
    worker = {"slot": 0, "pid": 1, "state": "serving"}
    worker |= dict.fromkeys(("connections", "tunnels", "in_flight", "requests", "busy"), 0)
    server = {"backend": "[/b]", "name": "[a]", "address": "[fd00::1]:80", "state": "up"}
    scaling = {"target": 1, "min": 1, "max": 1, "pinned": None, "reason": "[/x]", "idle_cores": None}
    scaling |= {"controller": "tcp:[::1]:1", "controller_connected": False, "controller_problem": "[/y]"}
    totals = dict.fromkeys(("requests", "status_2xx", "status_3xx", "status_4xx", "status_5xx"), 0)
    console = Console(file=io.StringIO(), width=200)
    console.print(
        view.render(
            {
                "version": "1",
                "uptime": 0,
                "generation": 1,
                "workers": [worker],
                "servers": [{**server, "active": 0, "requests": 0, "errors": 0}],
                "scaling": {**scaling, "grant_reason": "[/z]"},
                "totals": {**totals, "retries": 0, "handed_over": 0},
            }
        )
    )
    assert isinstance(console.file, io.StringIO)
    for text in ("[/b]", "[a]", "[fd00::1]:80", "[/x]", "[/y]", "[/z]"):
        assert text in console.file.getvalue()


def test_a_worker_that_leaves_takes_no_unix_socket_away(
    balancer: StartBalancer, origin: Origin, tmp_path: Path
) -> None:
    file, path = tmp_path / "pylb.toml", tmp_path / "front.sock"
    configure(file, origin, f"unix:{path}", more="workers = { min = 1, max = 2 }")
    running = balancer("-c", str(file))
    for count in (2, 1):
        running.scale(count)
        assert ask(socket.AF_UNIX, str(path)).startswith(b"HTTP/1.1 200 ")
    running.signal(signal.SIGHUP)
    running.wait("reloaded", lambda status: [w["generation"] for w in status["workers"]] == [2])
    assert ask(socket.AF_UNIX, str(path)).startswith(b"HTTP/1.1 200 ")
    assert running.stop() == 0
    assert not path.exists()


def held_request(origin: Origin, port: int) -> socket.socket:
    """A connection with a request that is answered when ``origin.release`` is called."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=50)
    sock.sendall(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
    return sock


def rest(sock: socket.socket) -> bytes:
    """All that comes until the end."""
    data = b""
    while piece := sock.recv(65536):
        data += piece
    return data


def test_a_bind_that_a_reload_removes_drains(balancer: StartBalancer, origin: Origin, tmp_path: Path) -> None:
    file, removed = tmp_path / "pylb.toml", free_port()
    configure(file, origin, f"127.0.0.1:{removed}")
    running = balancer("-c", str(file))
    with held_request(origin, removed) as sock:
        running.wait("under way", lambda status: status["servers"][0]["active"] == 1)
        configure(file, origin, f"127.0.0.1:{free_port()}")
        running.signal(signal.SIGHUP)
        running.wait("reloaded", lambda status: [w["generation"] for w in status["workers"]] == [1, 2])
        running.wait("leaving", lambda status: status["workers"][0]["state"] == "retiring")
        origin.release()
        assert b"Connection: close\r\n" in rest(sock)


def test_a_stop_after_a_reload_refuses_what_nobody_would_serve(
    balancer: StartBalancer, origin: Origin
) -> None:
    running = balancer("--workers", "1", servers=(origin.address,))
    with held_request(origin, running.port) as sock:
        running.wait("under way", lambda status: status["servers"][0]["active"] == 1)
        running.signal(signal.SIGHUP)
        running.wait("reloaded", lambda status: [w["generation"] for w in status["workers"]] == [1, 2])
        running.wait("leaving", lambda status: status["workers"][0]["state"] == "retiring")
        running.signal(signal.SIGTERM)
        running.wait("the new one left", lambda status: [w["generation"] for w in status["workers"]] == [1])
        with pytest.raises(ConnectionRefusedError):
            ask(socket.AF_INET, ("127.0.0.1", running.port))
        origin.release()
        assert b"Connection: close\r\n" in rest(sock)
    assert running.process.wait(25) == 0


def test_a_drain_can_be_watched_when_the_control_plane_has_died(
    balancer: StartBalancer, origin: Origin
) -> None:
    """As after a reload, at whose end it is replaced: a stop that came just then left nobody to ask."""
    running = balancer("--workers", "1", servers=(origin.address,))
    with held_request(origin, running.port) as sock:
        running.wait("under way", lambda status: status["servers"][0]["active"] == 1)
        running.signal(signal.SIGTERM)
        running.wait("leaving", lambda status: status["workers"][0]["state"] == "retiring")
        control = psutil.Process(titles(running.process.pid)["pylb: control"])
        control.kill()
        control.wait(50)
        running.wait("watched", lambda status: status["servers"][0]["active"] == 1)
        origin.release()
        rest(sock)
    assert running.process.wait(25) == 0


def test_ttin_and_ttou_pin_the_count_which_survives_a_reload(balancer: StartBalancer, origin: Origin) -> None:
    running = balancer("--workers", "1..4", servers=(origin.address,))
    running.signal(signal.SIGTTIN)
    running.wait_workers(2)
    running.signal(signal.SIGTTIN)
    status = running.wait_workers(3)
    assert status["scaling"]["pinned"] == 3
    running.signal(signal.SIGHUP)
    running.wait("reloaded", lambda status: [w["generation"] for w in status["workers"]] == [2, 2, 2])
    running.signal(signal.SIGTTOU)
    assert running.wait_workers(2)["scaling"]["pinned"] == 2
    running.scale("auto")
    running.wait("released", lambda status: status["scaling"]["pinned"] is None)


def test_a_reload_during_a_reload_follows_it(balancer: StartBalancer, origin: Origin) -> None:
    running = balancer("--workers", "1", servers=(origin.address,))
    for _ in range(2):
        running.signal(signal.SIGHUP)
    running.wait(
        "both",
        lambda status: status["workers"][0]["generation"] >= 2 and (status["reload"] or {}).get("ok") is True,
    )
    assert ask(socket.AF_INET, ("127.0.0.1", running.port)).startswith(b"HTTP/1.1 200 ")


def test_the_dead_are_replaced_and_traffic_goes_on(balancer: StartBalancer, origin: Origin) -> None:
    running = balancer("--workers", "1", servers=(origin.address,))
    children = titles(running.process.pid)
    assert sorted(children) == ["pylb: control", "pylb: worker 0 (gen 1)"]
    assert " ".join(psutil.Process(running.process.pid).cmdline()).strip() == "pylb: supervisor"
    os.kill(children["pylb: control"], signal.SIGKILL)
    assert ask(socket.AF_INET, ("127.0.0.1", running.port)).startswith(b"HTTP/1.1 200 ")
    running.wait("control plane again", lambda status: True)
    worker = running.workers()[0]["pid"]
    os.kill(worker, signal.SIGSTOP)
    # This connection waits in the accept queue of the slot, over the death of its worker.
    answers: list[bytes] = []
    client = threading.Thread(target=lambda: answers.append(ask(socket.AF_INET, ("127.0.0.1", running.port))))
    client.start()
    running.wait("queued", lambda status: True)
    os.kill(worker, signal.SIGKILL)
    client.join(50)
    assert answers[0].startswith(b"HTTP/1.1 200 ")


def test_term_lets_a_request_end_and_quit_does_not(balancer: StartBalancer, origin: Origin) -> None:
    for number, expected in ((signal.SIGQUIT, b""), (signal.SIGTERM, b"late")):
        running = balancer("--workers", "1", servers=(origin.address,))
        with socket.create_connection(("127.0.0.1", running.port), timeout=50) as sock:
            sock.sendall(b"GET /held HTTP/1.1\r\nHost: a\r\n\r\n")
            running.wait("under way", lambda status: status["servers"][0]["active"] == 1)
            running.signal(number)
            if expected:
                running.wait("draining", lambda status: status["workers"][0]["state"] == "retiring")
                origin.release()
            data = b""
            try:
                while piece := sock.recv(65536):
                    data += piece
            except ConnectionResetError:
                assert not expected
            assert data.endswith(expected)
            if expected:
                assert b"Connection: close" in data
        assert running.process.wait(25) == 0


def test_nobody_outlives_the_supervisor(balancer: StartBalancer, origin: Origin) -> None:
    running = balancer("--workers", "2", servers=(origin.address,))
    running.wait_workers(2)
    children = psutil.Process(running.process.pid).children()
    running.process.kill()
    _, alive = psutil.wait_procs(children, timeout=50)
    assert alive == []


def test_the_admin_address_can_be_tcp(origin: Origin, tmp_path: Path) -> None:
    port, admin = free_port(), free_port()
    command = [sys.executable, "-m", "pylb", "serve", "--bind", f"127.0.0.1:{port}"]
    command += ["--server", origin.address, "--admin", f"127.0.0.1:{admin}"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        assert process.stderr is not None
        while b"ready in" not in process.stderr.readline():
            assert process.poll() is None
        status = view.fetch(parse_address(f"127.0.0.1:{admin}"), "GET", "/status")
        assert [worker["state"] for worker in status["workers"]] == ["serving"]
    finally:
        process.terminate()
        process.communicate(timeout=50)
    assert process.returncode == 0


def refused(*arguments: str, prepare: Callable[[], None] | None = None) -> str:
    """What pylb says when it doesn't start."""
    done = subprocess.run(
        [sys.executable, "-m", "pylb", "serve", "--server", "127.0.0.1:9", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=prepare,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.stderr


def test_addresses_that_cannot_be_had() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}" in refused("--bind", f"127.0.0.1:{port}")
    assert "192.0.2.1:80" in refused("--bind", "192.0.2.1:80")
    assert "nonsense" in refused("--bind", "nonsense")


def _without_net_bind_service() -> None:
    # man 2 prctl: PR_CAPBSET_DROP; root loses the capability with the next exec.
    ctypes.CDLL(None).prctl(24, 10)


def test_a_privileged_port(tmp_path: Path) -> None:
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 80:
        return  # this machine has no privileged ports
    said = refused(
        *("--bind", "127.0.0.1:80", "--admin", f"unix:{tmp_path}/admin.sock"),
        prepare=_without_net_bind_service,
    )
    assert "127.0.0.1:80" in said
    assert "ermission" in said
