"""``python -m bench.docker_demo``: drive the demo of compose.yaml, which must be up, and write what it did.

Locust is told through its web page's own interface how many visitors there are; meanwhile pylb's status is
read inside its container once a second. At the end, while clients with keep-alive connections send without
pause, ``docker compose stop pylb``: every request that was sent must be answered.
"""

from __future__ import annotations

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
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import psutil

from bench.rig.clients import exchange
from bench.rig.command import parser
from bench.rig.processes import wait_for
from bench.rig.report import in_words, write

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


def has_workers() -> bool:
    """Whether Locust's two workers are there: they start after the balancer."""
    with contextlib.suppress(ValueError):
        return len(locust("/stats/requests")["workers"]) >= 2
    return False


async def _client(seen: Answers) -> None:
    """Requests on one connection after the other, until no more can be made."""
    while True:
        try:
            reader, writer = await asyncio.open_connection(*BALANCER)
        except OSError:
            return
        try:
            kept = True
            while kept:
                kept = await exchange(reader, writer)
                seen.answered += 1
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
        with contextlib.suppress(OSError):
            urllib.request.urlopen(LOCUST + "/stop", b"", timeout=10).close()
        watch.terminate()
        watch.wait()
    return records


def inspect(compose: list[str], what: str) -> str:
    """A fact that the engine knows of pylb's container."""
    name = subprocess.run([*compose, "ps", "-q", "pylb"], capture_output=True, text=True).stdout.strip()
    done = subprocess.run(["docker", "inspect", "-f", what, name], capture_output=True, text=True)
    return done.stdout.strip()


def stretches(records: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What went on while visitors and workers were the same; means."""
    for (visitors, workers), run in groupby(records, key=lambda one: (one["visitors"], one["workers"])):
        stretch = list(run)
        first, last = stretch[0], stretch[-1]
        seconds = last["second"] - first["second"]
        yield {
            "from": first["second"],
            "to": last["second"],
            "visitors": visitors,
            "workers": workers,
            "busy": sum(sum(one["busy"]) / max(1, len(one["busy"])) for one in stretch) / len(stretch),
            "machine": sum(one["machine"] for one in stretch) / len(stretch),
            "rps": (last["requests"] - first["requests"]) / seconds if seconds else None,
        }


def table(found: list[dict[str, Any]]) -> list[str]:
    """One line for each stretch."""
    return [
        "| seconds | visitors | workers | each busy | machine busy, cores | requests/s |",
        "|---|---|---|---|---|---|",
        *(
            f"| {one['from']:.0f}–{one['to']:.0f} | {one['visitors']} | {one['workers']} | {one['busy']:.0%} "
            f"| {one['machine']:.1f} | {'' if one['rps'] is None else format(one['rps'], '.0f')} |"
            for one in found
        ),
    ]


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--compose", default="docker compose", help="the command, with its -f options")
    options.add_argument("--steps", default="20:5,80:16,20:24", help="visitors:seconds, in turn")
    chosen = options.parse_args()
    compose = chosen.compose.split()
    steps = [(int(one.split(":")[0]), float(one.split(":")[1])) for one in chosen.steps.split(",")]
    health = inspect(compose, "{{.State.Health.Status}}")
    if health != "healthy":
        options.error(f"pylb's container is {health or 'not up'}; start it: {chosen.compose} up -d --build")
    with contextlib.suppress(TimeoutError):
        wait_for("Locust has two workers", has_workers, 60)
    records = drive(compose, steps)
    say(f"stopping the balancer while {CLIENTS} clients send without pause")
    seen, took = asyncio.run(stop_under_load(compose))
    code = inspect(compose, "{{.State.ExitCode}}")
    lost = dict(Counter(seen.lost))
    found = list(stretches(records))
    last = {key: records[-1][key] for key in ("fail_ratio", "errors", "decisions")}
    lines = [
        "# The docker compose demo, driven", "",
        f"Written by `python -m bench.docker_demo --compose '{chosen.compose}'`. {in_words()}.", "",
        f"Health of the container before: **{health}**. Locust's share of failed requests: "
        f"{last['fail_ratio']:.0%}; 5xx: {last['errors']}.", "",
        *table(found), "", "What the balancer decided:", "",
        *(f"- {one['from']} → {one['to']}: {one['reason']}" for one in last["decisions"]), "",
        f"`docker compose stop pylb` with {CLIENTS} clients that send without pause: {took:.1f} s, exit code "
        f"**{code}**; {seen.answered} requests answered, **{len(seen.lost)} lost**"
        f"{': ' + '; '.join(sorted(lost)) if lost else ''}.",
    ]  # fmt: skip
    stop = {"seconds": took, "exit_code": code, "answered": seen.answered, "lost": lost}
    write("docker", {"stretches": found, "stop": stop} | last, lines, chosen.out)
    grew = max(one["workers"] for one in records) > records[0]["workers"] == records[-1]["workers"]
    sys.exit(0 if grew and health == "healthy" and code == "0" and not seen.lost else 1)


if __name__ == "__main__":
    main()
