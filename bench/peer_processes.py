"""The balancers that `peers.py` measures, each started with so many workers in front of the same servers.

Every one listens on two ports, without and with TLS, and says who reached it (``X-Forwarded-For``) where it
can. What they log is thrown away, and none writes an access log.
"""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
import trustme

from bench.balancer import free_port

DESCRIPTORS = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
"""That each process may have; all are told."""
CONNECTIONS = (DESCRIPTORS - 200) // 2
"""Of clients, that each is told to accept: HAProxy does not start without two descriptors for each."""


@dataclass
class Peer:
    """A balancer that runs."""

    name: str
    process: subprocess.Popen[bytes]
    port: int
    tls_port: int

    def tree(self) -> list[psutil.Process]:
        """Its processes."""
        parent = psutil.Process(self.process.pid)
        return [parent, *parent.children(recursive=True)]

    def cpu(self) -> float:
        """Seconds of CPU time that all of them have used."""
        times = [process.cpu_times() for process in self.tree()]
        return float(sum(one.user + one.system for one in times))

    def memory(self) -> int:
        """Bytes that are theirs alone, all together; what forked processes share does not count twice."""
        return int(sum(process.memory_full_info().pss for process in self.tree()))

    def stop(self) -> None:
        """End it and all that it started."""
        tree = [] if self.process.poll() is not None else self.tree()
        self.process.terminate()
        _, alive = psutil.wait_procs(tree, timeout=5)
        for process in alive:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait()


def certificate(folder: Path) -> Path:
    """A file with a key and a certificate for 127.0.0.1."""
    made = trustme.CA().issue_cert("localhost", "127.0.0.1")
    file = folder / "both.pem"
    chain = b"".join(blob.bytes() for blob in made.cert_chain_pems)
    (folder / "key.pem").write_bytes(made.private_key_pem.bytes())
    (folder / "cert.pem").write_bytes(chain)
    file.write_bytes(made.private_key_pem.bytes() + chain)
    return file


def _pylb(folder: Path, servers: list[str], workers: int, ports: tuple[int, int]) -> list[str]:
    lines = "".join(f'[[backend.server]]\naddress = "{server}"\n' for server in servers)
    (folder / "pylb.toml").write_text(
        f'admin = "unix:{folder}/admin.sock"\n[workers]\nmin = {workers}\nmax = {workers}\n'
        f'[[frontend]]\nname = "plain"\nbind = ["127.0.0.1:{ports[0]}"]\nbackend = "b"\n'
        f'[[frontend]]\nname = "tls"\nbind = ["127.0.0.1:{ports[1]}"]\nbackend = "b"\n'
        f'[frontend.tls]\ncertificates = "{folder}/both.pem"\n'
        f'[[backend]]\nname = "b"\nbalance = "roundrobin"\n{lines}'
    )
    return [sys.executable, "-m", "pylb", "serve", "-c", f"{folder}/pylb.toml"]


def _haproxy(folder: Path, servers: list[str], workers: int, ports: tuple[int, int]) -> list[str]:
    lines = "".join(f"  server s{number} {server}\n" for number, server in enumerate(servers))
    (folder / "haproxy.cfg").write_text(
        f"global\n  nbthread {workers}\n  maxconn {CONNECTIONS}\n"
        "defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
        "  option forwardfor\n  http-reuse always\n"
        f"frontend f\n  bind 127.0.0.1:{ports[0]}\n  bind 127.0.0.1:{ports[1]} ssl crt {folder}/both.pem\n"
        f"  default_backend b\nbackend b\n  balance roundrobin\n{lines}"
    )
    return ["haproxy", "-db", "-q", "-f", f"{folder}/haproxy.cfg"]


def _nginx(folder: Path, servers: list[str], workers: int, ports: tuple[int, int]) -> list[str]:
    lines = " ".join(f"server {server};" for server in servers)
    temps = "".join(
        f"{kind}_temp_path {folder}/n-{kind};"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx-proxy.conf").write_text(
        f"user root; worker_processes {workers}; daemon off; "
        f"pid {folder}/n-pid; error_log {folder}/n-err;\n"
        f"events {{ worker_connections {DESCRIPTORS}; }}\n"
        f"http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 300; {temps}\n"
        f"upstream b {{ {lines} keepalive 256; keepalive_requests 1000000000; }}\n"
        f"server {{ listen 127.0.0.1:{ports[0]} reuseport backlog=4096; "
        f"listen 127.0.0.1:{ports[1]} ssl reuseport backlog=4096; "
        f"ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem; "
        'location / { proxy_pass http://b; proxy_http_version 1.1; proxy_set_header Connection ""; '
        "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }}}\n"
    )
    return ["nginx", "-e", f"{folder}/n-err", "-c", f"{folder}/nginx-proxy.conf"]


def _python(module: str) -> Callable[[Path, list[str], int, tuple[int, int]], list[str]]:
    def command(folder: Path, servers: list[str], workers: int, ports: tuple[int, int]) -> list[str]:
        arguments = [str(folder), str(workers), str(ports[0]), str(ports[1]), *servers]
        return [sys.executable, "-m", module, *arguments]

    return command


PEERS: dict[str, Callable[[Path, list[str], int, tuple[int, int]], list[str]]] = {
    "pylb": _pylb,
    "haproxy": _haproxy,
    "nginx": _nginx,
    "aiohttp": _python("bench.peer_aiohttp"),
    "proxy.py": _python("bench.peer_proxy_py"),
}
"""By name, what writes a configuration and gives the command."""


def start(name: str, folder: Path, servers: list[str], workers: int, wrap: Sequence[str] = ()) -> Peer:
    """Start one and wait until it answers.

    Raises:
        TimeoutError: it does not within 20 seconds.
    """
    home = folder / f"{name}-{workers}"
    home.mkdir()
    home.chmod(0o755)
    certificate(home)
    ports = (free_port(), free_port())
    command = PEERS[name](home, servers, workers, ports)
    with (home / "out").open("wb") as out:
        process = subprocess.Popen(
            [*wrap, *command], stdout=out, stderr=out, start_new_session=True, env=os.environ | {"LANG": "C"}
        )
    peer = Peer(name, process, *ports)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError, urllib.error.URLError):
            urllib.request.urlopen(f"http://127.0.0.1:{peer.port}/small", timeout=5).read()
            return peer
        time.sleep(0.05)
    peer.stop()
    raise TimeoutError(f"{name} does not serve:\n{(home / 'out').read_text()}")
