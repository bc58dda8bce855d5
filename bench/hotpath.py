"""``python -m bench.hotpath``: CPU per request of a pylb worker beside an HAProxy thread, in one run.

Both balance over the same two nginx servers on 127.0.0.1, pinned to CPU 0, while wrk and nginx have CPU 1.
They take turns, so that what else the machine does hits both. The figure is the CPU time that the worker (or
haproxy) process itself used, over the requests that wrk counted. Needs haproxy, nginx and wrk.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.balancer import Balancer, free_port
from bench.machine import in_words, machine

console = Console()
BROWSER = (
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Accept-Language: en-GB,en;q=0.9,de;q=0.8,fr;q=0.7",
    "Cache-Control: no-cache",
    "Cookie: session=" + "0123456789abcdef" * 12 + "; theme=dark; consent=yes",
    "DNT: 1",
    "Pragma: no-cache",
    "Referer: https://www.example.org/a/page/that/was/open/before?with=query&and=more",
    "Sec-Fetch-Dest: document",
    "Upgrade-Insecure-Requests: 1",
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "X-Requested-With: XMLHttpRequest",
)

CURL = ("Accept: */*", "User-Agent: curl/8.5.0")
_VARIED = Path(__file__).with_name("varied.lua")


@dataclass(frozen=True)
class Case:
    """One kind of load; ``bar`` is the largest ratio that is good enough."""

    name: str
    path: str
    connections: int
    bar: float
    fields: tuple[str, ...] = ()
    varied: bool = False
    """Whether target, cookie and trace differ in each request, so that no head is ever seen twice."""


CASES = (
    Case("small, 64 keep-alive", "/small", 64, 1.25),
    Case("small, 250 keep-alive", "/small", 250, 1.25),
    Case("12 headers, 64 keep-alive", "/small", 64, 1.5, BROWSER),
    Case("differing heads, few headers", "/small", 64, 1.25, CURL, varied=True),
    Case("differing heads, 12 headers", "/small", 64, 1.25, BROWSER, varied=True),
    Case("64 KiB, 64 keep-alive", "/64k", 64, 1.0),
    Case("1 MiB, 16 keep-alive", "/1m", 16, 1.0),
    Case("small, new connection each", "/small", 64, 1.7, ("Connection: close",)),
)


def cpu_seconds(pid: int) -> float:
    """User and system time of one process (man 5 proc, fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def start_nginx(folder: Path) -> tuple[subprocess.Popen[bytes], list[str]]:
    """The servers: one nginx process that listens on two ports."""
    (folder / "small").write_bytes(b"x" * 128)
    (folder / "64k").write_bytes(os.urandom(65536))
    (folder / "1m").write_bytes(os.urandom(1 << 20))
    folder.chmod(0o755)
    ports = [free_port(), free_port()]
    temps = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    listen = " ".join(f"listen 127.0.0.1:{port} backlog=4096;" for port in ports)
    (folder / "nginx.conf").write_text(
        f"worker_processes 1; daemon off; master_process off; pid {folder}/pid; error_log {folder}/err;\n"
        f"events {{ worker_connections 8192; }}\n"
        f"http {{ access_log off; keepalive_requests 1000000000; keepalive_timeout 300; {temps}\n"
        f"server {{ {listen} root {folder}; }} }}\n"
    )
    process = subprocess.Popen(
        ["taskset", "-c", "1", "nginx", "-e", f"{folder}/err", "-c", f"{folder}/nginx.conf"]
    )
    return process, [f"127.0.0.1:{port}" for port in ports]


def start_haproxy(folder: Path, servers: list[str]) -> tuple[subprocess.Popen[bytes], int]:
    """HAProxy with one thread; gives the process and its port."""
    port = free_port()
    lines = "".join(f"  server s{number} {server}\n" for number, server in enumerate(servers))
    (folder / "haproxy.cfg").write_text(
        "global\n  nbthread 1\n  maxconn 8000\n"
        "defaults\n  mode http\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
        "  option forwardfor\n  http-reuse always\n"
        f"frontend f\n  bind 127.0.0.1:{port}\n  default_backend b\n"
        f"backend b\n  balance roundrobin\n{lines}"
    )
    process = subprocess.Popen(["taskset", "-c", "0", "haproxy", "-db", "-q", "-f", f"{folder}/haproxy.cfg"])
    return process, port


def turn(case: Case, port: int, pid: int, seconds: int) -> dict[str, Any]:
    """Load one balancer for some seconds."""
    command = ["taskset", "-c", "1", "wrk", "-t1", f"-c{case.connections}", f"-d{seconds}s"]
    for field in case.fields:
        command += ["-H", field]
    if case.varied:
        command += ["-s", str(_VARIED)]
    before = cpu_seconds(pid)
    output = subprocess.run(
        [*command, f"http://127.0.0.1:{port}{case.path}"], capture_output=True, text=True, check=True
    ).stdout
    used = cpu_seconds(pid) - before
    requests = int(re.search(r"(\d+) requests in", output)[1])  # type: ignore[index]
    rate = float(re.search(r"Requests/sec:\s*([\d.]+)", output)[1])  # type: ignore[index]
    trouble = re.findall(r"(Socket errors.*|Non-2xx.*)", output)
    return {"us": 1e6 * used / max(1, requests), "rps": rate, "requests": requests, "trouble": trouble}


def measure(case: Case, peers: dict[str, tuple[int, int]], turns: int, seconds: int) -> dict[str, Any]:
    """Turns of all peers, the order reversed each time."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in peers}
    for number in range(turns):
        for name, (port, pid) in sorted(peers.items(), reverse=bool(number % 2)):
            one = turn(case, port, pid, seconds)
            runs[name].append(one)
            console.log(
                f"{case.name}: turn {number + 1}/{turns} {name}: "
                f"{one['us']:.1f} µs, {one['rps']:.0f}/s {one['trouble'] or ''}"
            )
    ratios = [ours["us"] / theirs["us"] for ours, theirs in zip(runs["pylb"], runs["haproxy"], strict=True)]
    return {
        "case": case.name,
        "bar": case.bar,
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "us": {name: statistics.median(run["us"] for run in done) for name, done in runs.items()},
        "rps": {name: statistics.median(run["rps"] for run in done) for name, done in runs.items()},
        "runs": runs,
    }


def haproxy_version() -> str:
    """As in ``haproxy -v``."""
    output = subprocess.run(["haproxy", "-v"], capture_output=True, text=True).stdout
    return output.split(" 20")[0].replace("HAProxy version ", "")


def write(results: list[dict[str, Any]], folder: Path) -> None:
    """JSON, Markdown and PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    about = machine() | {"haproxy": haproxy_version()}
    (folder / "hotpath.json").write_text(json.dumps({"machine": about, "results": results}, indent=1) + "\n")
    lines = [
        "# CPU per request: a pylb worker beside an HAProxy thread",
        "",
        f"Written by `make bench`. {in_words()}; haproxy: {about['haproxy']}.",
        f"Median of {len(results[0]['runs']['pylb'])} turns each, interleaved; in brackets the extremes.",
        "",
        "| case | pylb µs | HAProxy µs | ratio | bar | | pylb req/s | HAProxy req/s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        lines.append(
            f"| {one['case']} | {one['us']['pylb']:.1f} | {one['us']['haproxy']:.1f} | "
            f"**{one['ratio']:.2f}** ({one['ratio_min']:.2f} to {one['ratio_max']:.2f}) | {one['bar']} | "
            f"{'holds' if one['ratio'] <= one['bar'] else 'missed'} | "
            f"{one['rps']['pylb']:.0f} | {one['rps']['haproxy']:.0f} |"
        )
    (folder / "hotpath.md").write_text("\n".join(lines) + "\n")
    figure, axes = pyplot.subplots(figsize=(8, 4), layout="constrained")
    places = range(len(results))
    axes.barh(list(places), [one["ratio"] for one in results], color="#3b7dd8", height=0.5)
    axes.plot([one["bar"] for one in results], list(places), "k|", markersize=22, label="bar")
    axes.axvline(1, color="grey", linewidth=0.8)
    axes.set_yticks(list(places), [one["case"] for one in results])
    axes.invert_yaxis()
    axes.set_xlabel("CPU per request, pylb / HAProxy (less is better)")
    axes.legend()
    figure.savefig(folder / "hotpath.png", dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--turns", type=int, default=5, help="per balancer and case [5]")
    parser.add_argument("--seconds", type=int, default=3, help="per measurement [3]")
    parser.add_argument("--only", default="", help="part of a case's name")
    parser.add_argument("--out", type=Path, default=Path("bench/results"), help="folder [bench/results]")
    options = parser.parse_args()
    for tool in ("haproxy", "nginx", "wrk", "taskset"):
        if shutil.which(tool) is None:
            parser.error(f"{tool} is not installed (apt-get install haproxy nginx-light wrk util-linux)")
    folder = Path(tempfile.mkdtemp(prefix="pylb-bench-"))
    started: list[subprocess.Popen[bytes]] = []
    balancer: Balancer | None = None
    try:
        nginx, servers = start_nginx(folder)
        started.append(nginx)
        haproxy, port = start_haproxy(folder, servers)
        started.append(haproxy)
        pinned = ("taskset", "-c", "0")
        balancer = Balancer("--workers", "1", "--balance", "roundrobin", servers=servers, wrap=pinned)
        peers = {
            "pylb": (balancer.port, balancer.workers()[0]["pid"]),
            "haproxy": (port, haproxy.pid),
        }
        results = [
            measure(case, peers, options.turns, options.seconds)
            for case in CASES
            if options.only in case.name
        ]
    finally:
        if balancer is not None:
            balancer.stop()
        for process in started:
            process.terminate()
            process.wait()
        shutil.rmtree(folder, ignore_errors=True)
    table = Table("case", "pylb µs", "HAProxy µs", "ratio", "extremes", "bar", "pylb req/s", "HAProxy req/s")
    for one in results:
        good = one["ratio"] <= one["bar"]
        table.add_row(
            one["case"],
            f"{one['us']['pylb']:.1f}",
            f"{one['us']['haproxy']:.1f}",
            f"[{'green' if good else 'red'}]{one['ratio']:.2f}[/]",
            f"{one['ratio_min']:.2f}..{one['ratio_max']:.2f}",
            f"{one['bar']:.2f}",
            f"{one['rps']['pylb']:.0f}",
            f"{one['rps']['haproxy']:.0f}",
        )
    console.print(table)
    write(results, options.out)


if __name__ == "__main__":
    main()
