"""h2load: its command, what it prints and logs, and the CPU time that a balancer needs per HTTP/2 request.

Source: https://nghttp2.org/documentation/h2load.1.html, version 1.52.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.rig.report import quantile

FIELDS = (
    "user-agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0",
    "accept: text/html,application/xhtml+xml",
    "accept-encoding: gzip, deflate, br",
    "accept-language: en-US,en;q=0.9",
)
_TARGETS = 5000


@dataclass(frozen=True)
class Load:
    """What h2load's one thread sends over TLS, in so many connections with so many streams each."""

    path: str = "/small"
    connections: int = 10
    streams: int = 10
    varied: bool = False
    """Whether the target, with a query that looks like a session's, is one of 5,000."""


def targets(load: Load, url: str) -> list[str]:
    """The URLs that are asked for, in turn."""
    if not load.varied:
        return [url + load.path]
    return [
        f"{url}{load.path}?item={number * 7919 % 100_000}"
        f"&session=eyJhbGciOiJIUzI1Ni{number * 104729 % 1_000_003}Is"
        for number in range(_TARGETS)
    ]


def command(load: Load, seconds: int, uris: Path, log: Path) -> list[str]:
    """``uris`` holds the `targets`; ``log`` gets a line per response."""
    line = ["h2load", "-c", str(load.connections), "-m", str(load.streams), "-D", str(seconds)]
    line += [word for field in FIELDS for word in ("-H", field)]
    return [*line, f"--log-file={log}", "-i", str(uris)]


def parse(output: str, log: Iterable[str]) -> dict[str, float | None]:
    """What h2load prints, and its log: moment in µs, status, response time in µs.

    Raises:
        ValueError: that is not what h2load prints.
    """
    counts = re.search(
        r"requests: .*?(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", output
    )
    rate = re.search(r"([\d.]+) req/s", output)
    if counts is None or rate is None:
        raise ValueError(f"not h2load's output: {output[:200]}")
    _, good, failed, *_ = map(int, counts.groups())  # errors and timeouts are among those that failed
    times = [int(line.split("\t")[2]) / 1000 for line in log if line.count("\t") >= 2]
    return {
        "good": good,
        "rps": float(rate[1]),
        "p50_ms": round(quantile(times, 0.5), 3) if times else None,
        "p99_ms": round(quantile(times, 0.99), 3) if times else None,
        "failed": failed,
    }


def turn(
    url: str, load: Load, seconds: int, cpu: Callable[[], float], wrap: Sequence[str] = ()
) -> dict[str, float | None]:
    """One turn of a balancer, as `bench.rig.wrk.turn` has it."""
    with tempfile.TemporaryDirectory(prefix="pylb-h2load-") as text:
        uris, log = Path(text, "uris"), Path(text, "log")
        uris.write_text("\n".join(targets(load, url)) + "\n")
        before = cpu()
        line = [*wrap, *command(load, seconds, uris, log)]
        done = subprocess.run(line, capture_output=True, text=True, check=True)
        used = cpu() - before
        found = parse(done.stdout, log.read_text().splitlines())
    good = found.pop("good")
    return {"us": round(1e6 * used / good, 2) if good else None} | found
