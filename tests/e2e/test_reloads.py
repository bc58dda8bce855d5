"""What a reload, and a renewed certificate, change and don't change."""

from __future__ import annotations

import json
import signal
import socket
import ssl
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trustme

from bench.rig.balancer import Balancer, free_port
from tests.e2e.conftest import StartBalancer
from tests.e2e.origin import Origin
from tests.e2e.test_running import ask, configure


def reload(running: Balancer, generation: int) -> None:
    running.signal(signal.SIGHUP)
    running.wait(
        f"generation {generation}",
        lambda status: [worker["generation"] for worker in status["workers"]] == [generation],
    )


def test_the_log_settings_hold_for_the_workers_of_that_reload(
    balancer: StartBalancer, origin: Origin, tmp_path: Path
) -> None:
    file, port = tmp_path / "pylb.toml", free_port()

    def write(more: str) -> None:
        configure(file, origin, f"127.0.0.1:{port}", more=f"workers = {{min = 1, max = 1}}\n{more}")

    def ask_for_nonsense() -> None:
        junk = b"GET /junk HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        assert ask(socket.AF_INET, ("127.0.0.1", port), junk).startswith(b"HTTP/1.1 502 ")

    def lines_of_the_worker() -> list[str]:
        """What it says of the server's answer."""
        return [line for line in running.log.read_text().splitlines() if "bad response" in line]

    write("")
    running = balancer("-c", str(file))
    write('log = {format = "json", level = "debug"}')
    reload(running, 2)
    ask_for_nonsense()
    running.wait("a line", lambda status: bool(lines_of_the_worker()))
    assert all(json.loads(line)["role"] == "worker 0" for line in lines_of_the_worker())
    before = len(lines_of_the_worker())
    write('log = {level = "error"}')
    reload(running, 3)
    ask_for_nonsense()
    assert running.stop() == 0  # all is written by then
    assert len(lines_of_the_worker()) == before


def serial(port: int, ca: trustme.CA) -> int:
    """Number of the certificate that is shown."""
    context = ssl.create_default_context()
    ca.configure_trust(context)
    with (
        socket.create_connection(("127.0.0.1", port), timeout=50) as sock,
        context.wrap_socket(sock, server_hostname="localhost") as tls,
    ):
        certificate = tls.getpeercert()
    assert certificate is not None
    return int(str(certificate["serialNumber"]), 16)


def test_a_renewed_certificate_renews_certificates_only(
    balancer: StartBalancer, origin: Origin, tmp_path: Path
) -> None:
    ca, file, port, other = trustme.CA(), tmp_path / "pylb.toml", free_port(), free_port()
    live = tmp_path / "live" / "localhost"  # as an ACME client lays it out
    live.mkdir(parents=True)

    def issue() -> None:
        found = ca.issue_cert("localhost")
        for name, data in (
            ("privkey.pem", found.private_key_pem.bytes()),
            ("fullchain.pem", b"".join(one.bytes() for one in found.cert_chain_pems)),
            ("cert.pem", found.cert_chain_pems[0].bytes()),
            ("chain.pem", b""),
        ):
            (live / name).write_bytes(data)

    def write(*binds: str) -> None:
        configure(file, origin, *binds, more="workers = {min = 1, max = 1}")
        text = file.read_text()
        at = text.index("[[backend]]")
        tls = f'[frontend.tls]\ncertificates = "{live.parent}"\n'
        file.write_text(text[:at] + tls + text[at:])

    issue()
    write(f"127.0.0.1:{port}")
    running = balancer("-c", str(file))
    first = serial(port, ca)
    write(f"127.0.0.1:{port}", f"127.0.0.1:{other}")  # edited, and not yet reloaded
    issue()
    running.wait("renewed", lambda status: status["generation"] == 2)
    running.wait("alone", lambda status: len(status["workers"]) == 1)
    assert serial(port, ca) != first
    with socket.socket() as sock:
        assert sock.connect_ex(("127.0.0.1", other)) != 0
    # What is no configuration at all stays unread, too, and a refused HUP stays so in the status.
    file.write_text("half edi")
    running.signal(signal.SIGHUP)
    running.wait("refused", lambda status: (status["reload"] or {}).get("ok") is False)
    second = serial(port, ca)
    issue()
    status = running.wait("renewed again", lambda status: status["generation"] == 3)
    assert not status["reload"]["ok"]
    running.wait("alone", lambda status: len(status["workers"]) == 1)
    assert serial(port, ca) not in (first, second)


def test_a_bind_widens_and_narrows(balancer: StartBalancer, origin: Origin, tmp_path: Path) -> None:
    file, port = tmp_path / "pylb.toml", free_port()
    loopback, everything = ("127.0.0.1", port), ("127.0.0.2", port)
    more = "workers = {min = 1, max = 2}"
    configure(file, origin, f"127.0.0.1:{port}", more=more)
    running = balancer("-c", str(file))
    steps = [
        (f"*:{port}", True, False),
        (f"127.0.0.1:{port}", False, False),
        (f"[::]:{port}", None, True),
        (f"[::1]:{port}", None, True),
        (f"*:{port}", True, False),
        (f"localhost:{port}", False, False),
        (f"127.0.0.1:{port}", False, False),  # the same place in another spelling
    ]
    for number, (bind, wide, six) in enumerate(steps, 2):
        configure(file, origin, bind, more=more)
        reload(running, number)
        if wide is not None:
            assert ask(socket.AF_INET, loopback).startswith(b"HTTP/1.1 200 "), bind
        if six:
            assert ask(socket.AF_INET6, ("::1", port)).startswith(b"HTTP/1.1 200 "), bind
        with socket.socket() as sock:
            assert (sock.connect_ex(everything) == 0) == bool(wide), bind
    running.scale(2)  # the groups' indices are still those of the slots
    for _ in range(50):
        assert ask(socket.AF_INET, loopback).startswith(b"HTTP/1.1 200 ")
    assert "refused" not in running.log.read_text()


def serves(generation: int, status: dict[str, Any]) -> bool:
    """Whether a worker of a generation is there; those of the last one may be about to leave."""
    return any(worker["generation"] == generation for worker in status["workers"])


def test_nothing_is_lost_while_a_bind_widens(balancer: StartBalancer, origin: Origin, tmp_path: Path) -> None:
    file, port = tmp_path / "pylb.toml", free_port()
    configure(file, origin, f"127.0.0.1:{port}", more="workers = {min = 1, max = 1}")
    running = balancer("-c", str(file))
    for number in range(2, 6):
        wide = number % 2 == 0
        configure(file, origin, f"{'*' if wide else '127.0.0.1'}:{port}", more="workers = {min = 1, max = 1}")
        running.signal(signal.SIGHUP)
        for _ in range(30):
            assert ask(socket.AF_INET, ("127.0.0.1", port)).startswith(b"HTTP/1.1 200 ")
        running.wait("reloaded", partial(serves, number))
    assert "refused" not in running.log.read_text()


def test_strangers_are_still_seen(balancer: StartBalancer, origin: Origin, tmp_path: Path) -> None:
    """One that shares its port with everybody of the same user, beside a bind of ours."""
    file, port = tmp_path / "pylb.toml", free_port()
    configure(file, origin, f"127.0.0.1:{port}", more="workers = {min = 1, max = 1}")
    running = balancer("-c", str(file))
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.bind(("127.0.0.2", port))
        stranger.listen()
        configure(file, origin, f"*:{port}", more="workers = {min = 1, max = 1}")
        running.signal(signal.SIGHUP)
        status = running.wait("refused", lambda status: (status["reload"] or {}).get("ok") is False)
        assert "another process listens there" in status["reload"]["errors"][0]
    assert ask(socket.AF_INET, ("127.0.0.1", port)).startswith(b"HTTP/1.1 200 ")
    reload(running, 2)


@pytest.mark.parametrize("spelled", ["{0}/./front.sock", "{0}/../{1}/front.sock"])
def test_a_unix_bind_in_another_spelling(
    balancer: StartBalancer, origin: Origin, tmp_path: Path, spelled: str
) -> None:
    file = tmp_path / "pylb.toml"
    with tempfile.TemporaryDirectory(prefix="pylb-") as name:  # a short name
        folder = Path(name)
        path = folder / "front.sock"
        configure(file, origin, f"unix:{path}", more="workers = {min = 1, max = 1}")
        running = balancer("-c", str(file))
        other = spelled.format(folder, folder.name)
        configure(file, origin, f"unix:{other}", more="workers = {min = 1, max = 1}")
        reload(running, 2)
        assert ask(socket.AF_UNIX, str(path)).startswith(b"HTTP/1.1 200 ")
        assert running.stop() == 0
        assert not path.exists()
