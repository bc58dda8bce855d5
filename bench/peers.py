"""``python -m bench.peers``: pylb, HAProxy, nginx, an aiohttp proxy and proxy.py in one run.

With one worker the balancer has CPU 0, the load (wrk) and the servers (nginx) have CPU 1; with two it has
both, and shares one. The balancers take turns in every case, in an order that is reversed each time, so that
what else the machine does hits all. The figure is the CPU time of all of a balancer's processes over the
requests that wrk counted; throughput and response times come second. At the end each one holds 10,000 idle
connections, or as many as the limit of descriptors lets HAProxy hold.
Needs haproxy, nginx and wrk, and the extra ``bench``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import resource
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from bench.hotpath import BROWSER, start_nginx
from bench.machine import machine
from bench.peer_processes import CONNECTIONS, DESCRIPTORS, PEERS, Peer, start
from bench.peers_report import write

IDLE = min(10_000, CONNECTIONS - 100)
console = Console()


@dataclass(frozen=True)
class Case:
    """One kind of load, from 64 connections at a time where not said otherwise."""

    name: str
    path: str = "/small"
    fields: tuple[str, ...] = ()
    tls: bool = False
    connections: int = 64


CASES = (
    Case("small"),
    Case("12 headers", fields=BROWSER),
    Case("new connection each", fields=("Connection: close",)),
    Case("64 KiB", "/64k"),
    Case("1 MiB", "/1m", connections=16),
    Case("TLS, small", tls=True),
    Case("TLS, 64 KiB", "/64k", tls=True),
)

_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


def parse_wrk(output: str) -> dict[str, Any]:
    """Requests, rate, p50 and p99 in milliseconds, and how many went wrong, from ``wrk --latency``.

    Raises:
        ValueError: that is not what wrk prints.
    """
    requests = re.search(r"(\d+) requests in", output)
    rate = re.search(r"Requests/sec:\s*([\d.]+)", output)
    if requests is None or rate is None:
        raise ValueError(f"not wrk's output: {output[:200]}")
    found: dict[str, Any] = {"requests": int(requests[1]), "rps": float(rate[1])}
    for percent in (50, 99):
        match = re.search(rf"\b{percent}%\s+([\d.]+)(us|ms|s|m)\b", output)
        found[f"p{percent}_ms"] = round(float(match[1]) * _UNITS[match[2]], 3) if match else None
    errors = re.search(r"connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    found["failed"] = sum(int(count) for count in errors.groups()) if errors else 0
    found["failed"] += int(bad[1]) if bad else 0
    return found


def turn(case: Case, peer: Peer, seconds: int) -> dict[str, Any]:
    """Load one balancer for some seconds."""
    command = ["taskset", "-c", "1", "wrk", "--latency", "-t1", f"-c{case.connections}", f"-d{seconds}s"]
    for field in case.fields:
        command += ["-H", field]
    url = f"https://127.0.0.1:{peer.tls_port}" if case.tls else f"http://127.0.0.1:{peer.port}"
    before = peer.cpu()
    output = subprocess.run([*command, url + case.path], capture_output=True, text=True, check=True).stdout
    used = peer.cpu() - before
    one = parse_wrk(output)
    good = one["requests"] - one["failed"]
    one["us"] = round(1e6 * used / good, 2) if good > 0 else None
    return one


@contextlib.contextmanager
def everyone(names: Sequence[str], folder: Path, servers: list[str], workers: int) -> Iterator[list[Peer]]:
    """All balancers, each with so many workers."""
    wrap = ("taskset", "-c", "0" if workers == 1 else "0,1")
    with contextlib.ExitStack() as stack:
        peers = []
        for name in names:
            peer = start(name, folder, servers, workers, wrap)
            stack.callback(peer.stop)
            peers.append(peer)
        yield peers


def idle_memory(peer: Peer, connections: int) -> dict[str, Any]:
    """Memory that idle connections cost, each after one request; those that it closed don't count."""
    before = peer.memory()
    request = f"GET /small HTTP/1.1\r\nHost: 127.0.0.1:{peer.port}\r\n\r\n".encode()
    held: list[socket.socket] = []
    try:
        for _ in range(connections):
            sock = socket.create_connection(("127.0.0.1", peer.port), timeout=10)
            held.append(sock)
            sock.sendall(request)
            sock.recv(65536)
        used = peer.memory() - before
        for sock in held:
            sock.setblocking(False)
        alive = sum(_alive(sock) for sock in held)
        return {"connections": alive, "bytes": used, "before": before}
    except OSError as error:
        return {"connections": len(held), "bytes": None, "before": before, "error": str(error)}
    finally:
        for sock in held:
            sock.close()


def _alive(sock: socket.socket) -> bool:
    try:
        while sock.recv(65536):
            pass
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5, help="per balancer and case [5]")
    parser.add_argument("--seconds", type=int, default=2, help="per measurement [2]")
    parser.add_argument("--only", nargs="*", default=list(PEERS), help="balancers")
    parser.add_argument("--workers", nargs="*", type=int, default=[1, 2], help="how many each runs [1 2]")
    parser.add_argument("--idle", type=int, default=IDLE, help="idle connections")
    parser.add_argument("--draw", action="store_true", help="only draw, from the JSON of an earlier run")
    parser.add_argument("--out", type=Path, default=Path("bench/results"), help="folder [bench/results]")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "peers.json"
    if not options.draw:
        for tool in ("haproxy", "nginx", "wrk", "taskset"):
            if shutil.which(tool) is None:
                parser.error(f"{tool} is not installed (apt-get install haproxy nginx-light wrk util-linux)")
        file.write_text(json.dumps(run(options)) + "\n")
    write(json.loads(file.read_text()), options.out, console)


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All cases, then the idle connections."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    folder = Path(tempfile.mkdtemp(prefix="pylb-peers-"))
    folder.chmod(0o755)
    servers_home = folder / "servers"
    servers_home.mkdir()
    nginx, servers = start_nginx(servers_home)
    runs: dict[str, dict[str, list[dict[str, Any]]]] = {}
    idle: dict[str, dict[str, Any]] = {}
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    try:
        with Progress(*columns, console=console) as progress:
            steps = len(options.only) * (len(CASES) * options.turns * len(options.workers) + 1)
            bar = progress.add_task("", total=steps)
            for workers in options.workers:
                with everyone(options.only, folder, servers, workers) as peers:
                    for case in CASES:
                        key = f"{case.name}, {workers} worker{'s' if workers > 1 else ''}"
                        for number in range(options.turns):
                            for peer in peers[:: -1 if number % 2 else 1]:
                                progress.update(bar, description=f"{key}: {peer.name}")
                                one = turn(case, peer, options.seconds)
                                runs.setdefault(key, {}).setdefault(peer.name, []).append(one)
                                console.log(
                                    f"{key}: {peer.name} {one['us']} µs, {one['rps']:.0f}/s, "
                                    f"p99 {one['p99_ms']} ms, {one['failed']} failed"
                                )
                                progress.advance(bar)
            for name in options.only:
                progress.update(bar, description=f"{options.idle} idle connections: {name}")
                home = folder / "idle"
                home.mkdir(exist_ok=True)
                with everyone([name], home, servers, 1) as peers:
                    idle[name] = idle_memory(peers[0], options.idle)
                console.log(f"{options.idle} idle connections: {name} {idle[name]}")
                progress.advance(bar)
    finally:
        nginx.terminate()
        nginx.wait()
        shutil.rmtree(folder, ignore_errors=True)
    return {"machine": machine(), "versions": versions(), "runs": runs, "idle": idle}


def versions() -> dict[str, str]:
    """Of what was measured."""
    from importlib.metadata import version

    from bench.hotpath import haproxy_version

    nginx = subprocess.run(["nginx", "-v"], capture_output=True, text=True).stderr.strip().rpartition("/")[2]
    python = {name: version(name) for name in ("pylb", "aiohttp", "proxy.py")}
    return {"haproxy": haproxy_version(), "nginx": nginx, **python}


if __name__ == "__main__":
    main()
