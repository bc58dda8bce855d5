"""``python -m bench.locust_ceiling``: how many requests per second Locust itself makes here.

Each user class loads a bare nginx that answers 128 bytes, with one Locust process and with two
(``--processes``), and wrk does so for comparison. What a class reaches here is the most that it can show of
any balancer on this machine. Needs nginx, wrk and the bench extra (Locust).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.balancer import free_port
from bench.hotpath import cpu_seconds, start_nginx
from bench.machine import in_words, machine

console = Console()
USERS = 32
_HERE = Path(__file__).parent
_REQUESTS = '''"""What most locustfiles do: HttpUser, which sends through requests."""
import os
from locust import HttpUser, task

class Requests(HttpUser):
    @task
    def get(self):
        self.client.get(os.environ["BENCH_PATH"])
'''
# class, its client, its locustfile (None: the one above)
CLASSES = (
    ("Requests", "HttpUser (requests)", None),
    ("KeepAlive", "FastHttpUser (geventhttpclient)", _HERE / "locustfile.py"),
    ("NewConnection", "FastHttpUser, a connection per request", _HERE / "locustfile.py"),
    ("SocketKeepAlive", "raw socket", _HERE / "fast_user.py"),
    ("SocketNewConnection", "raw socket, a connection per request", _HERE / "fast_user.py"),
)


def run_locust(file: Path, name: str, address: str, processes: int, seconds: int) -> dict[str, Any]:
    """One class headless; nginx has CPU 1, so one process has CPU 0 and two have both."""
    command = ["taskset", "-c", "0" if processes == 1 else "0,1", sys.executable, "-m", "locust"]
    command += ["-f", str(file), "--headless", "--host", f"http://{address}", "-u", str(USERS)]
    command += ["-r", str(USERS), "-t", f"{seconds}s", "--json", "--loglevel", "WARNING"]
    if processes > 1:
        port = str(free_port())
        command += ["--processes", str(processes), "--master-bind-host", "127.0.0.1"]
        command += ["--master-bind-port", port, "--master-port", port]
    environment = {**os.environ, "BENCH_PATH": "/small", "PYTHONPATH": str(_HERE.parent)}
    locust = subprocess.Popen(
        [*command, name],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, trouble = locust.communicate(timeout=seconds + 30)
    except BaseException:
        os.killpg(locust.pid, signal.SIGKILL)  # its workers, too
        locust.wait()
        raise
    try:
        # With several processes each prints its own, empty list before the master's.
        entries = max(_lists(output), key=len)
    except ValueError:
        raise RuntimeError(
            f"{name}: no statistics; exit code {locust.returncode}: {trouble[-2000:]}"
        ) from None
    requests = sum(entry["num_requests"] for entry in entries)
    begin = min(entry["start_time"] for entry in entries)
    end = max(entry["last_request_timestamp"] for entry in entries)
    return {
        "rps": requests / (end - begin),
        "requests": requests,
        "failures": sum(entry["num_failures"] for entry in entries),
    }


def _lists(output: str) -> list[list[dict[str, Any]]]:
    """All JSON lists in what Locust printed."""
    found, position = [], 0
    while (position := output.find("[", position)) >= 0:
        one, position = json.JSONDecoder().raw_decode(output, position)
        found.append(one)
    return found


def run_wrk(address: str, seconds: int) -> float:
    """Requests per second of one wrk thread."""
    command = ["taskset", "-c", "0", "wrk", "-t1", f"-c{USERS}", f"-d{seconds}s", f"http://{address}/small"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return float(output.split("Requests/sec:")[1].split()[0])


def write(results: list[dict[str, Any]], wrk: float, load: float, seconds: int, folder: Path) -> None:
    """JSON and Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    about = machine() | {"load_before": f"{load:.2f}"}
    document = {"machine": about, "users": USERS, "seconds": seconds, "wrk": wrk, "results": results}
    (folder / "locust.json").write_text(json.dumps(document, indent=1) + "\n")
    lines = [
        "# How many requests per second Locust itself makes",
        "",
        f"Written by `python -m bench.locust_ceiling`. {in_words()}; load average before: {load:.2f}.",
        f"{USERS} users without pauses, {seconds} s each, a bare nginx on CPU 1 that answers 128 bytes. One",
        "process has CPU 0; of two one shares CPU 1 with nginx, so that they don't reach twice as much.",
        "",
        "| class | client | req/s, 1 process | req/s, 2 processes | nginx busy | failed |",
        "|---|---|---|---|---|---|",
    ]
    for one in results:
        single, double = one["1"], one["2"]
        lines.append(
            f"| {one['class']} | {one['client']} | {single['rps']:.0f} | {double['rps']:.0f} | "
            f"{single['nginx']:.0%}, {double['nginx']:.0%} | {single['failures'] + double['failures']} |"
        )
    lines += ["", f"wrk (C), one thread on CPU 0: {wrk:.0f} req/s."]
    (folder / "locust.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, help="per measurement [5]")
    parser.add_argument("--only", default="", help="part of a class's name")
    parser.add_argument("--out", type=Path, default=Path("bench/results"), help="folder [bench/results]")
    options = parser.parse_args()
    for tool in ("nginx", "wrk", "taskset"):
        if shutil.which(tool) is None:
            parser.error(f"{tool} is not installed (apt-get install nginx-light wrk util-linux)")
    load = os.getloadavg()[0]
    folder = Path(tempfile.mkdtemp(prefix="pylb-locust-"))
    plain = folder / "requests_user.py"
    plain.write_text(_REQUESTS)
    nginx, servers = start_nginx(folder)
    try:
        time.sleep(0.5)
        wrk = run_wrk(servers[0], min(3, options.seconds))
        console.log(f"wrk: {wrk:.0f}/s")
        results = []
        for name, client, file in CLASSES:
            if options.only not in name:
                continue
            result: dict[str, Any] = {"class": name, "client": client}
            for processes in (1, 2):
                before = cpu_seconds(nginx.pid)
                one = run_locust(file or plain, name, servers[0], processes, options.seconds)
                one["nginx"] = (cpu_seconds(nginx.pid) - before) / options.seconds
                result[str(processes)] = one
                console.log(f"{name}, {processes} process(es): {one['rps']:.0f}/s, {one['failures']} failed")
            results.append(result)
    finally:
        nginx.terminate()
        nginx.wait()
        shutil.rmtree(folder, ignore_errors=True)
    table = Table("class", "client", "req/s, 1 process", "req/s, 2 processes")
    for result in results:
        rates = [f"{result[key]['rps']:.0f}" for key in ("1", "2")]
        table.add_row(result["class"], result["client"], *rates)
    console.print(table)
    write(results, wrk, load, options.seconds, options.out)


if __name__ == "__main__":
    main()
