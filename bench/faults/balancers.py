"""pylb and HAProxy, configured for the same: health checks, retries, another server first, one access log.

Both have the keys that a careful user would set; each is asked at its port of `Sites`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.rig.balancer import backend, free_port, frontend
from bench.rig.processes import Program, start, status_of

NAMES = ("pylb", "haproxy")
WORKERS = 2
_PYLB = """\
admin = "unix:{folder}/admin.sock"
workers = {{min = {workers}, max = {workers}}}
timeouts = {{connect = "300ms", server = "1s", client = "5s", server_idle = "4s"}}
[log.access]
to = "{disk}/pylb.log"
"""
_PYLB_BACKEND = """\
balance = "roundrobin"
retries = 3
check = {path = "/health", interval = "200ms", timeout = "200ms", rise = 2, fall = 2}
outliers = {failures = 5, statuses = ["5xx"], eject = "1s"}
retry = {on = ["all-retryable-errors"]}
"""
_HAPROXY = """\
global
  nbthread {workers}
  log stdout format raw local0
defaults
  mode http
  log global
  option httplog
  option redispatch 1
  option httpchk GET /health
  retries 3
  retry-on all-retryable-errors
  http-reuse safe
  timeout connect 300ms
  timeout client 5s
  timeout server 1s
  timeout check 200ms
  default-server check inter 200ms rise 2 fall 2 observe layer7 error-limit 5 on-error mark-down
"""


@dataclass(frozen=True)
class Sites:
    """The servers of each frontend, by name, and the ports on which a balancer serves them.

    Args:
        secure: frontends whose servers speak TLS, with the certificate of the authority that they are checked
            against.
    """

    servers: dict[str, Sequence[str]]
    secure: dict[str, Path]
    ports: dict[str, int] = field(default_factory=dict)

    def elsewhere(self) -> Sites:
        """The same servers for another balancer."""
        return Sites(self.servers, self.secure, {name: free_port() for name in self.servers})


def _pylb(folder: Path, disk: Path, sites: Sites) -> list[str]:
    text = _PYLB.format(folder=folder, disk=disk, workers=WORKERS)
    for name, port in sites.ports.items():
        text += frontend(name, port, backend=name)
        more = _PYLB_BACKEND
        if name in sites.secure:
            more += f'tls = {{ca = "{sites.secure[name]}", name = "localhost"}}\n'
        text += backend(name, sites.servers[name], more)
    (folder / "pylb.toml").write_text(text)
    return [sys.executable, "-m", "pylb", "serve", "-c", str(folder / "pylb.toml")]


def _haproxy(folder: Path, disk: Path, sites: Sites) -> list[str]:
    text = _HAPROXY.format(workers=WORKERS)
    for name, port in sites.ports.items():
        text += f"frontend {name}\n  bind 127.0.0.1:{port}\n  default_backend {name}\nbackend {name}\n"
        tls = ""
        if name in sites.secure:
            tls = f" ssl verify required ca-file {sites.secure[name]} sni str(localhost) verifyhost localhost"
            tls += " check-sni localhost"
        for number, server in enumerate(sites.servers[name]):
            text += f"  server s{number} {server}{tls}\n"
    (folder / "haproxy.cfg").write_text(text)
    return ["haproxy", "-W", "-db", "-f", str(folder / "haproxy.cfg")]


@contextmanager
def _running(name: str, folder: Path, disk: Path, sites: Sites, preload: Path | None) -> Iterator[Program]:
    folder.mkdir(exist_ok=True)
    command = (_pylb if name == "pylb" else _haproxy)(folder, disk, sites)
    if preload is not None:
        command = ["env", f"LD_PRELOAD={preload}", *command]
    # HAProxy writes its access log there, pylb what it has to say itself.
    out = disk / "haproxy.log" if name == "haproxy" else folder / "out"
    port = next(iter(sites.ports.values()))
    program = start(command, out, port, lambda port: status_of(port) == 200)
    try:
        yield program
    finally:
        program.stop()


@contextmanager
def balancers(
    folder: Path, disk: Path, sites: Sites, preload: Path | None
) -> Iterator[dict[str, tuple[Program, Sites]]]:
    """Both, with the ports of each.

    Args:
        disk: where they write their access logs.
        preload: a library that they are started with.
    """
    with ExitStack() as stack:
        found: dict[str, tuple[Program, Sites]] = {}
        for name in NAMES:
            own = sites.elsewhere()
            found[name] = stack.enter_context(_running(name, folder / name, disk, own, preload)), own
        yield found
