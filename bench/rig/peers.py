"""Balancers to compare: each is started with so many workers in front of the same servers.

Here stands, once, how HAProxy, nginx and pylb are configured for that. Each says who reached it
(``X-Forwarded-For``), keeps connections to the servers, and where it has TLS uses ``both.pem`` of its folder
(`certificate`); pylb, HAProxy and nginx have routes and an access log where a site wants them. pylb with its
admin address is `bench.rig.balancer`.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import trustme

from bench.rig import peer_caddy, peer_envoy, unpacked
from bench.rig.balancer import backend, frontend
from bench.rig.origins import nginx_temps
from bench.rig.processes import DESCRIPTORS, Program, listens, start, status_of
from bench.rig.site import Site as Site
from bench.rig.site import host_of

CONNECTIONS = (DESCRIPTORS - 200) // 2
"""Of clients, that a peer may be told to accept: HAProxy does not start without two descriptors for each."""


def certificate(folder: Path) -> Path:
    """A file with a key and a certificate for 127.0.0.1."""
    made = trustme.CA().issue_cert("localhost", "127.0.0.1")
    file = folder / "both.pem"
    chain = b"".join(blob.bytes() for blob in made.cert_chain_pems)
    (folder / "key.pem").write_bytes(made.private_key_pem.bytes())
    (folder / "cert.pem").write_bytes(chain)
    file.write_bytes(made.private_key_pem.bytes() + chain)
    return file


ONE_WORKER = "workers = {min = 1, max = 1}\n"


def pylb_text(folder: Path, *sites: Site) -> str:
    """Frontends and backends of pylb's configuration."""
    text = ""
    for number, site in enumerate(sites):
        name = f"b{number}"
        more = "".join(
            f'[[frontend.rule]]\nbackend = "{name}"\n'
            f'match = {{ host = "{host_of(route)}", path = "/small" }}\n'
            for route in range(site.routes)
        )
        if site.log:
            more += f'[frontend.access_log]\nto = "{folder}/access.log"\n'
        text += frontend(f"f{number}", site.port, more, name)
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
    program: Sequence[str] = ("haproxy",),
) -> list[str]:
    """The command.

    Args:
        workers: threads of its one process.
        connections: of clients that it accepts; 0: what its descriptors allow.
        settings: lines of the section ``global``.
        master: in master-worker mode, which can be reloaded (`RELOAD`); ``haproxy.sock`` takes commands.
        reuse: how connections to servers are shared (``http-reuse``).
        program: what to run.
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
        rules = ""
        if site.routes:  # as so many routes are written there: one look-up in a tree of prefixes
            lines = (f"{host_of(route)}/small b{number}\n" for route in range(site.routes))
            (folder / f"routes{number}").write_text("".join(lines))
            rules += f"  use_backend %[base,lower,map_beg({folder}/routes{number})]\n"
        if site.log:  # to what its standard output is: the file ``out``
            rules += "  log stdout format raw local0\n  option httplog\n"
        text += (
            f"frontend f{number}\n  bind 127.0.0.1:{site.port}\n{tls if site.tls_port else ''}{rules}"
            f"  default_backend b{number}\nbackend b{number}\n  balance {balance}\n{servers}"
        )
    (folder / "haproxy.cfg").write_text(text)
    return [*program, *(("-W", "-db") if master else ("-db", "-q")), "-f", f"{folder}/haproxy.cfg"]


def nginx(
    folder: Path, *sites: Site, workers: int = 1, log: str = "", reuseport: bool = True
) -> list[str]:
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
            f"listen 127.0.0.1:{site.tls_port} ssl http2 {how}; ssl_protocols TLSv1.2 TLSv1.3; "
            f"ssl_certificate {folder}/cert.pem; "
            f"ssl_certificate_key {folder}/key.pem; "
        )
        passed = (
            f"{{ proxy_pass http://b{number}; proxy_http_version 1.1; "
            'proxy_set_header Connection ""; '
            "proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }"
        )
        lines = f"access_log {folder}/access.log combined buffer=64k flush=1s; " if site.log else ""
        parts += (
            f"upstream b{number} {{ {servers} keepalive 256; keepalive_requests 1000000000; }}\n"
            f"server {{ listen 127.0.0.1:{site.port} {how}; {tls if site.tls_port else ''}{lines}"
            f"location / {passed} }}\n"
        )
        parts += "".join(
            f"server {{ listen 127.0.0.1:{site.port}; server_name {host_of(route)}; "
            f"location /small {passed} location / {passed} }}\n"
            for route in range(site.routes)
        )
    (folder / "nginx.conf").write_text(
        f"user root; worker_processes {workers}; daemon off; pid {folder}/nginx.pid; "
        f"error_log {log or f'{folder}/err'};\nevents {{ worker_connections {DESCRIPTORS}; }}\n"
        "http { access_log off; keepalive_requests 1000000000; keepalive_timeout 300; "
        "server_names_hash_max_size 8192; server_names_hash_bucket_size 128; "
        f"{nginx_temps(folder)}\n{parts}}}\n"
    )
    return ["nginx", "-e", log.split(" ")[0] or f"{folder}/err", "-c", f"{folder}/nginx.conf"]


def _python(module: str) -> Callable[..., list[str]]:
    def command(folder: Path, site: Site, *, workers: int = 1) -> list[str]:
        arguments = [str(folder), str(workers), str(site.port), str(site.tls_port), *site.servers]
        return [sys.executable, "-m", module, *arguments]

    return command


def haproxy_latest(folder: Path, *sites: Site, **options: Any) -> list[str]:
    """The command of HAProxy in Debian's newest version.

    Raises:
        Missing: it is not to be had.
    """
    return haproxy(folder, *sites, program=unpacked.haproxy(), **options)


RELOAD = {"pylb": signal.SIGHUP, "haproxy": signal.SIGUSR2, "nginx": signal.SIGHUP}
"""The signal at which each reads its configuration again."""
COMMANDS: dict[str, Callable[..., list[str]]] = {
    "pylb": pylb,
    "haproxy": haproxy,
    "haproxy-latest": haproxy_latest,
    "nginx": nginx,
    "envoy": peer_envoy.command,
    "caddy": peer_caddy.command,
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


_ASKED: dict[str, Callable[[], list[str]]] = {
    "haproxy": lambda: ["haproxy", "-v"],
    "haproxy-latest": lambda: [*unpacked.haproxy(), "-v"],
    "nginx": lambda: ["nginx", "-v"],
    "envoy": lambda: [unpacked.binary("envoy"), "--version"],
    "caddy": lambda: [unpacked.binary("caddy"), "version"],
}
"""How those are asked for their version that are no distributions of Python's."""


def available(names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Of these peers, those that can be had here, and why the others can't."""
    there, missing = [], {}
    for name in names:
        try:
            versions(name)
            there.append(name)
        except unpacked.Missing as error:
            missing[name] = str(error)
    return there, missing


def versions(*names: str) -> dict[str, str]:
    """Of those peers."""
    return {name: _version(name) for name in names}


def version_in(said: str) -> str:
    """The version in what a program says when it is asked for it; Envoy's stands behind a commit's name."""
    found = re.search(r"\bv?(\d+\.\d+[^\s/]*)", said.rpartition("ersion")[2])
    return found[1] if found else "unknown"


def _version(name: str) -> str:
    if name not in _ASKED:
        return version(name)
    done = subprocess.run(_ASKED[name](), capture_output=True, text=True)
    return version_in(done.stdout or done.stderr)
