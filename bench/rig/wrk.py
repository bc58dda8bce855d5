"""wrk: its command, what it prints, and the CPU time that a balancer needs for each of its requests.

Source: https://github.com/wg/wrk, version 4.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

_VARIED = Path(__file__).with_name("varied.lua")
_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}  # in milliseconds

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


@dataclass(frozen=True)
class Load:
    """What wrk's one thread sends."""

    path: str = "/small"
    connections: int = 64
    fields: tuple[str, ...] = ()
    varied: bool = False
    """Whether target, cookie and trace differ in each request, so that no head is ever seen twice."""


@dataclass(frozen=True)
class Seen:
    """What wrk counted; response times in milliseconds, None where nothing was answered."""

    requests: int
    rps: float
    p50_ms: float | None
    p99_ms: float | None
    failed: int


def command(url: str, load: Load, seconds: int) -> list[str]:
    """``url`` without the path."""
    line = ["wrk", "--latency", "-t1", f"-c{load.connections}", f"-d{seconds}s"]
    for field in load.fields:
        line += ["-H", field]
    return [*line, *(["-s", str(_VARIED)] if load.varied else []), url + load.path]


def parse(output: str) -> Seen:
    """What wrk prints with ``--latency``.

    Raises:
        ValueError: that is not what wrk prints.
    """
    requests = re.search(r"(\d+) requests in", output)
    rate = re.search(r"Requests/sec:\s*([\d.]+)", output)
    if requests is None or rate is None:
        raise ValueError(f"not wrk's output: {output[:200]}")

    def percentile(share: int) -> float | None:
        found = re.search(rf"\b{share}%\s+([\d.]+)(us|ms|s|m)\b", output)
        return round(float(found[1]) * _UNITS[found[2]], 3) if found else None

    errors = re.search(r"connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    bad = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    failed = sum(map(int, errors.groups())) if errors else 0
    return Seen(
        *(int(requests[1]), float(rate[1]), percentile(50), percentile(99)),
        failed=failed + (int(bad[1]) if bad else 0),
    )


def run(url: str, load: Load, seconds: int, wrap: Sequence[str] = ()) -> Seen:
    """Load it; ``wrap`` is a command that runs the one behind it."""
    line = [*wrap, *command(url, load, seconds)]
    return parse(subprocess.run(line, capture_output=True, text=True, check=True).stdout)


def turn(
    url: str, load: Load, seconds: int, cpu: Callable[[], float], wrap: Sequence[str] = ()
) -> dict[str, float | None]:
    """One turn of a balancer: what wrk saw, and ``us``, its CPU time per request that did not fail.

    Args:
        cpu: gives the CPU seconds that the balancer has used so far.
    """
    before = cpu()
    seen = run(url, load, seconds, wrap)
    used = cpu() - before
    good = seen.requests - seen.failed
    return {
        "us": round(1e6 * used / good, 2) if good > 0 else None,
        "rps": seen.rps,
        "p50_ms": seen.p50_ms,
        "p99_ms": seen.p99_ms,
        "failed": seen.failed,
    }
