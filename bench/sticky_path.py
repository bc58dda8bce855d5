"""``python -m bench.sticky_path``: what stickiness and outlier detection cost per request, without a socket.

As `bench.path`: one exchange after the other over transports that do nothing, here with several backends in
turns, so that all have the same share of what disturbs. Each figure is the fastest of many rounds.
"""

from __future__ import annotations

from typing import Any

from bench.path import REQUESTS, ROUNDS, Path
from pylb.config.model import Outliers, Sticky

HEAD = "GET /item/{} HTTP/1.1\r\nHost: example.org\r\nUser-Agent: bench\r\nAccept: */*\r\n{}\r\n"
OTHERS = "Cookie: session={:x}; theme=dark\r\n"
OWN = "Cookie: session={:x}; SRV=s; theme=dark\r\n"

BACKENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain": (OTHERS, {}),
    "sticky, no cookie yet": (OTHERS, {"sticky": Sticky(cookie="SRV")}),
    "sticky, its cookie": (OWN, {"sticky": Sticky(cookie="SRV")}),
    "outliers": (OTHERS, {"outliers": Outliers()}),
    "all of it, panic and min_servers too": (
        OWN,
        {"sticky": Sticky(cookie="SRV"), "outliers": Outliers(), "panic": 0.5, "min_servers": 1},
    ),
}


def main() -> None:
    """Measure, and say it."""
    paths = {name: Path(**keys) for name, (_, keys) in BACKENDS.items()}
    equal = {name: float("inf") for name in paths}
    differing = dict(equal)
    for number in range(ROUNDS):
        for name, path in paths.items():
            cookie = BACKENDS[name][0]
            same = HEAD.format(1, cookie.format(104729)).encode()
            equal[name] = min(equal[name], path.microseconds([same] * REQUESTS))
            some = range(number * REQUESTS, number * REQUESTS + REQUESTS)
            heads = [HEAD.format(one, cookie.format(one * 104729)).encode() for one in some]
            differing[name] = min(differing[name], path.microseconds(heads))
    for what, found in (("equal heads", equal), ("differing heads", differing)):
        for name, microseconds in found.items():
            more = microseconds - found["plain"]
            print(f"{what}, {name}: {microseconds:.2f} µs ({more:+.2f})")


if __name__ == "__main__":
    main()
