"""``python -m bench.locust_ceiling``: how many requests per second Locust itself makes here.

Each user class loads a bare nginx that answers 128 bytes, with one Locust process and with two
(``--processes``), and wrk does so for comparison. What a class reaches here is the most that it can show of
any balancer on this machine. Needs nginx, wrk and the bench extra (Locust).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.rig import origins, wrk
from bench.rig.balancer import free_port
from bench.rig.command import console, need, parser
from bench.rig.processes import cpu_seconds
from bench.rig.report import in_words, machine, write
from bench.rig.wrk import Load

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


def report(results: list[dict[str, Any]], ceiling: float, load: float, seconds: int, folder: Path) -> None:
    """JSON and Markdown."""
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
    lines += ["", f"wrk (C), one thread on CPU 0: {ceiling:.0f} req/s."]
    about = machine() | {"load_before": f"{load:.2f}"}
    document = {"machine": about, "users": USERS, "seconds": seconds, "wrk": ceiling, "results": results}
    write("locust", document, lines, folder)


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--seconds", type=int, default=5, help="per measurement [5]")
    options.add_argument("--only", default="", help="part of a class's name")
    chosen = options.parse_args()
    need(options, "nginx", "wrk", "taskset")
    load = os.getloadavg()[0]
    with (
        tempfile.TemporaryDirectory(prefix="pylb-locust-") as text,
        origins.nginx(Path(text, "servers"), ("taskset", "-c", "1")) as (nginx, servers),
    ):
        plain = Path(text, "requests_user.py")
        plain.write_text(_REQUESTS)
        wrap = ("taskset", "-c", "0")
        ceiling = wrk.run(f"http://{servers[0]}", Load(connections=USERS), min(3, chosen.seconds), wrap).rps
        console.log(f"wrk: {ceiling:.0f}/s")
        results = []
        for name, client, file in CLASSES:
            if chosen.only not in name:
                continue
            result: dict[str, Any] = {"class": name, "client": client}
            for processes in (1, 2):
                before = cpu_seconds(nginx.process.pid)
                one = run_locust(file or plain, name, servers[0], processes, chosen.seconds)
                one["nginx"] = (cpu_seconds(nginx.process.pid) - before) / chosen.seconds
                result[str(processes)] = one
                console.log(f"{name}, {processes} process(es): {one['rps']:.0f}/s, {one['failures']} failed")
            results.append(result)
    report(results, ceiling, load, chosen.seconds, chosen.out)


if __name__ == "__main__":
    main()
