"""A dnsmasq on a port of its own on loopback."""

from __future__ import annotations

import contextlib
import getpass
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import dns.message
import dns.query

from bench.rig.balancer import free_port
from bench.rig.processes import listens, wait_for


def _program() -> str:
    """Debian has it where only root's programs are looked for."""
    return shutil.which("dnsmasq") or "/usr/sbin/dnsmasq"


class Dnsmasq:
    """It has the names of a file of hosts (man 5 hosts), which can be written anew."""

    def __init__(self, folder: Path, options: Sequence[str]) -> None:
        self.port = free_port()
        self.hosts = folder / "hosts"
        self.hosts.write_text("")
        self.process = subprocess.Popen(
            [
                *(_program(), "--keep-in-foreground", "--conf-file=/dev/null", f"--pid-file={folder}/pid"),
                *("--log-facility=-", "--no-resolv", "--no-hosts", f"--addn-hosts={self.hosts}"),
                *("--listen-address=127.0.0.1", "--bind-interfaces", f"--port={self.port}"),
                *(f"--user={getpass.getuser()}", "--local=/#/", *options),
            ],
            stderr=subprocess.DEVNULL,
        )

    def say(self, text: str, marker: str) -> None:
        """Write the file of hosts, and wait until ``marker``, a name in it, is known by a new address."""
        turn = time.monotonic_ns() % 250 + 1
        self.hosts.write_text(f"{text}\n192.0.2.{turn} {marker}\n")
        self.process.send_signal(signal.SIGHUP)
        query = dns.message.make_query(marker, "A")

        def known() -> bool:
            with contextlib.suppress(dns.exception.DNSException):
                answer = dns.query.udp(query, "127.0.0.1", timeout=1, port=self.port)
                return f"192.0.2.{turn}" in answer.to_text()
            return False

        wait_for("dnsmasq has read its hosts", known)


@contextmanager
def dnsmasq(folder: Path, *options: str) -> Iterator[Dnsmasq]:
    """Run one; ``options`` are further ones of its command line."""
    one = Dnsmasq(folder, options)
    try:
        wait_for("dnsmasq listens", lambda: listens(one.port))
        yield one
    finally:
        one.process.terminate()
        one.process.wait()
