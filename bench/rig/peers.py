"""Balancers to compare: each is started with so many workers in front of the same servers.

Here stands, once, how HAProxy, nginx and pylb are configured for that. Each says who reached it
(``X-Forwarded-For``), keeps connections to the servers, writes no access log, and where it has TLS uses
``both.pem`` of its folder (`certificate`). pylb with its admin address is `bench.rig.balancer`.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import trustme

from bench.rig.balancer import backend, free_port, frontend
from bench.rig.origins import nginx_temps
from bench.rig.processes import DESCRIPTORS, Program, listens, start, status_of

CONNECTIONS = (DESCRIPTORS - 200) // 2
"""Of clients, that a peer may be told to accept: HAProxy does not start without two descriptors for each."""


@dataclass(frozen=True)
class Site:
    """Where a balancer listens on 127.0.0.1, and the servers behind it (``127.0.0.1:PORT``)."""

    servers: Sequence[str]
    port: int = field(default_factory=free_port)
    tls_port: int = 0
    """0: no TLS."""
    http2: bool = False
    """Whether the servers speak HTTP/2, without TLS; of pylb and HAProxy."""

    @classmethod
    def with_tls(cls, servers: Sequence[str], http2: bool = False) -> Site:
        """On two ports, without and with TLS."""
        return cls(servers, tls_port=free_port(), http2=http2)


def certificate(folder: Path) -> Path:
    """A file with a key and a certificate for 127.0.0.1."""
    made = trustme.CA().issue_cert("localhost", "127.0.0.1")
    file = folder / "both.pem"
    chain = b"".join(blob.bytes() for blob in made.cert_chain_pems)
    (folder / "key.pem").write_bytes(made.private_key_pem.bytes())
    (folder / "cert.pem").write_bytes(chain)
    file.write_bytes(made.private_key_pem.bytes() + chain)
    return file


def pylb_text(folder: Path, *sites: Site) -> str:
    """Frontends and backends of pylb's configuration."""
    text = ""
    for number, site in enumerate(sites):
        name = f"b{number}"
        text += frontend(f"f{number}", site.port, backend=name)
        if site.tls_port:
            tls = f'[frontend.tls]\ncertificates = "{folder}/both.pem"\n'
            text += frontend(f"t{number}", site.tls_port, tls, name)
        more = "http2 = true\n" if site.http2 else ""
        text += backend(name, site.servers, f'balance = "roundrobin"\n{more}')
    return text


def pylb(folder: Path, *sites: Site, workers: int = 1, most: int = 0, settings: str = "") -> list[str]:
    """The command; its admin address is ``admin.sock`` in the folder.

    Args:
        most: how many workers it may have; 0: ``workers``.
        settings: tables of the configuration.
    """
    file = folder / "pylb.toml"
    count = f"workers = {{min = {workers}, max = {most or workers}}}\n"
    file.write_text(
        f'admin = "unix:{folder}/admin.sock"\n{count}{settings}{pylb_text(folder, *sites)}'
    )  # fmt: skip
    return [sys.executable, "-m", "pylb", "serve", "-c", str(file)]


def haproxy(
    folder: Path,
    *sites: Site,
    workers: int = 1,
    balance: str = "roundrobin",
    connections: int = 8000,
    settings: str = "",
    master: bool = False,
    reuse: str = "always",
) -> list[str]:
    """The command.

    Args:
        workers: threads of its one process.
        connections: of clients that it accepts; 0: what its descriptors allow.
        settings: lines of the section ``global``.
        master: in master-worker mode, which can be reloaded (`RELOAD`); ``haproxy.sock`` takes commands.
        reuse: how connections to servers are shared (``http-reuse``).
    """
    text = f"global\n  nbthread {workers}\n{settings}"
    if connections:
        text += f"  maxconn {connections}\n"
    if master:
        text += f"  stats socket {folder}/haproxy.sock level admin expose-fd listeners\n"
    text += (
        "defaults\n  mode http\n  log global\n  backlog 4096\n  option forwardfor\n"
        f"  http-reuse {reuse}\n"
        "  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n  timeout tunnel 1h\n"
    )
    for number, site in enumerate(sites):
        more = " proto h2" if site.http2 else ""
        servers = "".join(f"  server s{place} {server}{more}\n" for place, server in enumerate(site.servers))
        tls = f"  bind 127.0.0.1:{site.tls_port} ssl crt {folder}/both.pem alpn h2,http/1.1\n"
        text += (
            f"frontend f{number}\n  bind 127.0.0.1:{site.port}\n{tls if site.tls_port else ''}"
            f"  default_backend b{number}\nbackend b{number}\n  balance {balance}\n{servers}"
        )
    (folder / "haproxy.cfg").write_text(text)
    return ["haproxy", *(("-W", "-db") if master else ("-db", "-q")), "-f", f"{folder}/haproxy.cfg"]


def nginx(folder: Path, *sites: Site, workers: int = 1, log: str = "", reuseport: bool = True) -> list[str]:
    """The command.

    Args:
        log: where errors go and from which level on, as ``error_log`` has it; else to a file.
        reuseport: each worker has a listening socket of its own, which is not nginx's default.
    """
    how = f"{'reuseport ' if reuseport else ''}backlog=4096"
    parts = ""
    for number, site in enumerate(sites):
        servers = " ".join(f"server {server};" for server in site.servers)
        tls = (
            f"listen 127.0.0.1:{site.tls_port} ssl http2 {how}; ssl_certificate {folder}/cert.pem; "
            f"ssl_certificate_key {folder}/key.pem; "
        )
        parts += (
            f"upstream b{number} {{ {servers} keepalive 256; keepalive_requests 1000000000; }}\n"
            f"server {{ listen 127.0.0.1:{site.port} {how}; {tls if site.tls_port else ''}"
            f"location / {{ proxy_pass http://b{number}; proxy_http_version 1.1; "
            'proxy_set_header Connection ""; '
            "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }}\n"
        )
    (folder / "nginx.conf").write_text(
        f"user root; worker_processes {workers}; daemon off; pid {folder}/nginx.pid; "
        f"error_log {log or f'{folder}/err'};\nevents {{ worker_connections {DESCRIPTORS}; }}\n"
        "http { access_log off; keepalive_requests 1000000000; keepalive_timeout 300; "
        f"{nginx_temps(folder)}\n{parts}}}\n"
    )
    return ["nginx", "-e", log.split(" ")[0] or f"{folder}/err", "-c", f"{folder}/nginx.conf"]


def _python(module: str) -> Callable[..., list[str]]:
    def command(folder: Path, site: Site, *, workers: int = 1) -> list[str]:
        arguments = [str(folder), str(workers), str(site.port), str(site.tls_port), *site.servers]
        return [sys.executable, "-m", module, *arguments]

    return command


RELOAD = {"pylb": signal.SIGHUP, "haproxy": signal.SIGUSR2, "nginx": signal.SIGHUP}
"""The signal at which each reads its configuration again."""
COMMANDS: dict[str, Callable[..., list[str]]] = {
    "pylb": pylb,
    "haproxy": haproxy,
    "nginx": nginx,
    "aiohttp": _python("bench.rig.peer_aiohttp"),
    "proxy.py": _python("bench.rig.peer_proxy_py"),
}
"""By name, what takes a folder, sites and ``workers``, writes a configuration and gives the command."""


@contextmanager
def running(
    name: str,
    folder: Path,
    *sites: Site,
    wrap: Sequence[str] = (),
    stderr: int | None = None,
    **options: object,
) -> Iterator[Program]:
    """A peer that serves, until the block ends.

    Args:
        folder: of its own; becomes readable for all, because nginx's workers may be others than root.
        wrap: a command that runs the one behind it, such as ``taskset -c 0``.
        stderr: a descriptor that gets what it says; else the file ``out`` does.
        options: what its function of this module takes.

    Raises:
        TimeoutError: it does not serve within 20 seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o755)
    if any(site.tls_port for site in sites):
        certificate(folder)
    command = [*wrap, *COMMANDS[name](folder, *sites, **options)]
    end = signal.SIGQUIT if name == "pylb" else signal.SIGTERM
    program = start(command, folder / "out" if stderr is None else stderr, sites[0].port, _answers, end)
    try:
        yield program
    finally:
        program.stop()


def _answers(port: int) -> object:
    return listens(port) and status_of(port, "/small")


def versions(*names: str) -> dict[str, str]:
    """Of those peers."""
    return {name: _version(name) for name in names}


def _version(name: str) -> str:
    if name not in ("haproxy", "nginx"):
        return version(name)
    done = subprocess.run([name, "-v"], capture_output=True, text=True)
    # "HAProxy version 2.6.12-1+deb12u4 2025/12/31 - …"; "nginx version: nginx/1.22.1"
    return (done.stdout or done.stderr).partition("version")[2].strip(": ").split()[0].rpartition("/")[2]
