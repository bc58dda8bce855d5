"""``python -m bench.docker_demo``: drive the demo of compose.yaml, which must be up, and write what it did.

Locust is told through its web page's own interface how many visitors there are; meanwhile pylb's status is
read inside its container once a second. At the end, while clients with keep-alive connections send without
pause, ``docker compose stop pylb``: every request that was sent must be answered.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

import psutil

from bench.machine import in_words

LOCUST = "http://127.0.0.1:8089"
BALANCER = ("127.0.0.1", 8080)
CLIENTS = 32
_WATCH = """
import json, time
from pylb.config.address import parse_address
from pylb.control import view
for _ in range(120):
    print(json.dumps(view.fetch(parse_address("unix:/run/pylb/admin.sock"), "GET", "/status")), flush=True)
    time.sleep(1)
"""


@dataclass
class Answers:
    """What the clients saw at the stop."""

    answered: int = 0
    lost: list[str] = field(default_factory=list)


def say(text: str) -> None:
    """What is going on, for who waits."""
    print(text, file=sys.stderr, flush=True)


def locust(path: str, **form: object) -> dict[str, Any]:
    """Ask Locust; with a form, tell it."""
    body = urllib.parse.urlencode(form).encode() if form else None
    with urllib.request.urlopen(LOCUST + path, body, timeout=10) as answer:
        found: dict[str, Any] = json.load(answer)
        return found


def wait_for_locust(seconds: float = 60.0) -> None:
    """Until its two workers are there, or this time is over: they start after the balancer."""
    until = time.monotonic() + seconds
    workers: list[object] = []
    while len(workers) < 2 and time.monotonic() < until:
        with contextlib.suppress(OSError, ValueError):
            workers = locust("/stats/requests")["workers"]
        time.sleep(0.5)


async def _client(seen: Answers) -> None:
    """Requests on one connection after the other, until no more can be made."""
    while True:
        try:
            reader, writer = await asyncio.open_connection(*BALANCER)
        except OSError:
            return
        try:
            closing = False
            while not closing:
                writer.write(b"GET / HTTP/1.1\r\nHost: demo\r\n\r\n")
                head = (await reader.readuntil(b"\r\n\r\n")).lower()
                start = head.index(b"\ncontent-length:") + 16
                await reader.readexactly(int(head[start : head.index(b"\r", start)]))
                seen.answered += 1
                closing = b"\nconnection: close" in head
        except (OSError, EOFError, ValueError) as error:
            seen.lost.append(f"{type(error).__name__}: {error}")
        finally:
            writer.close()


async def stop_under_load(compose: list[str]) -> tuple[Answers, float]:
    """Stop the balancer while clients send; gives what they saw, and the seconds it took."""
    seen = Answers()
    clients = [asyncio.create_task(_client(seen)) for _ in range(CLIENTS)]
    await asyncio.sleep(2)
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(*compose, "stop", "pylb", stderr=subprocess.DEVNULL)
    await process.wait()
    took = time.monotonic() - began
    await asyncio.wait_for(asyncio.gather(*clients), 10)
    return seen, took


def drive(compose: list[str], steps: list[tuple[int, float]]) -> list[dict[str, Any]]:
    """Let visitors come and go; one record a second."""
    watch = subprocess.Popen(
        [*compose, "exec", "-T", "pylb", "python", "-c", _WATCH], stdout=subprocess.PIPE, text=True
    )
    latest: dict[str, Any] = {}

    def follow() -> None:
        assert watch.stdout is not None
        for line in watch.stdout:
            latest.update(json.loads(line))

    threading.Thread(target=follow, daemon=True).start()
    records: list[dict[str, Any]] = []
    began = time.monotonic()
    try:
        for visitors, seconds in steps:
            locust("/swarm", user_count=visitors, spawn_rate=50)
            psutil.cpu_percent()
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                time.sleep(1)
                if not latest:
                    continue
                scaling = latest["scaling"]
                records.append({
                    "second": round(time.monotonic() - began, 1), "visitors": visitors,
                    "workers": sum(worker["state"] == "serving" for worker in latest["workers"]),
                    "busy": [round(worker["busy"], 2) for worker in latest["workers"]],
                    "requests": latest["totals"]["requests"], "errors": latest["totals"]["status_5xx"],
                    "machine": round(psutil.cpu_percent() / 100 * (os.cpu_count() or 1), 2),
                    "reason": scaling["reason"],
                    "grant": scaling["grant_reason"],
                })  # fmt: skip
                now = records[-1]
                say(f"{now['second']:4.0f} s  {visitors} visitors  {now['workers']} workers: {now['reason']}")
        records[-1]["fail_ratio"] = locust("/stats/requests")["fail_ratio"]
        records[-1]["decisions"] = latest["scaling"]["decisions"]
    finally:
        with suppress(OSError):
            urllib.request.urlopen(LOCUST + "/stop", b"", timeout=10).close()
        watch.terminate()
        watch.wait()
    return records


def inspect(compose: list[str], what: str) -> str:
    """A fact that the engine knows of pylb's container."""
    name = subprocess.run([*compose, "ps", "-q", "pylb"], capture_output=True, text=True).stdout.strip()
    done = subprocess.run(["docker", "inspect", "-f", what, name], capture_output=True, text=True)
    return done.stdout.strip()


def table(records: list[dict[str, Any]]) -> list[str]:
    """One line for each stretch with the same visitors and workers."""
    lines = [
        "| seconds | visitors | workers | each busy | machine busy, cores | requests/s |",
        "|---|---|---|---|---|---|",
    ]
    for (visitors, workers), run in groupby(records, key=lambda one: (one["visitors"], one["workers"])):
        stretch = list(run)
        first, last = stretch[0], stretch[-1]
        seconds = last["second"] - first["second"]
        rate = f"{(last['requests'] - first['requests']) / seconds:.0f}" if seconds else ""
        busy = sum(sum(one["busy"]) / max(1, len(one["busy"])) for one in stretch) / len(stretch)
        machine = sum(one["machine"] for one in stretch) / len(stretch)
        lines.append(
            f"| {first['second']:.0f}–{last['second']:.0f} | {visitors} | {workers} | {busy:.0%} "
            f"| {machine:.1f} | {rate} |"
        )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--compose", default="docker compose", help="the command, with its -f options")
    parser.add_argument("--steps", default="20:5,80:16,20:24", help="visitors:seconds, in turn")
    parser.add_argument("--out", type=Path, default=Path("bench/results"), help="folder [bench/results]")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    compose = options.compose.split()
    steps = [(int(one.split(":")[0]), float(one.split(":")[1])) for one in options.steps.split(",")]
    health = inspect(compose, "{{.State.Health.Status}}")
    if health != "healthy":
        parser.error(f"pylb's container is {health or 'not up'}; start it: {options.compose} up -d --build")
    wait_for_locust()
    records = drive(compose, steps)
    say(f"stopping the balancer while {CLIENTS} clients send without pause")
    seen, took = asyncio.run(stop_under_load(compose))
    code = inspect(compose, "{{.State.ExitCode}}")
    decisions = records[-1]["decisions"]
    lines = [
        "# The docker compose demo, driven", "",
        f"Written by `python -m bench.docker_demo --compose '{options.compose}'`. {in_words()}.", "",
        f"Health of the container before: **{health}**. Locust's share of failed requests: "
        f"{records[-1]['fail_ratio']:.0%}; 5xx: {records[-1]['errors']}.", "",
        *table(records), "", "What the balancer decided:", "",
        *(f"- {one['from']} → {one['to']}: {one['reason']}" for one in decisions), "",
        f"`docker compose stop pylb` with {CLIENTS} clients that send without pause: {took:.1f} s, exit code "
        f"**{code}**; {seen.answered} requests answered, **{len(seen.lost)} lost**"
        f"{': ' + '; '.join(sorted(set(seen.lost))) if seen.lost else ''}.",
    ]  # fmt: skip
    record = {"steps": records, "stop": {"seconds": took, "exit_code": code, **asdict(seen)}}
    (options.out / "docker.json").write_text(json.dumps(record, indent=1) + "\n")
    (options.out / "docker.md").write_text("\n".join(lines) + "\n")
    print("\n".join(lines))
    grew = max(one["workers"] for one in records) > records[0]["workers"] == records[-1]["workers"]
    sys.exit(0 if grew and health == "healthy" and code == "0" and not seen.lost else 1)


if __name__ == "__main__":
    main()
