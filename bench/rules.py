"""``python -m bench.rules``: what rules and access logs cost per request, and maps per line and look-up.

The same requests go through a frontend without rules, with one route and with a thousand, and with an access
log (to /dev/null), over transports that do nothing (`bench.path`), in turns and in pieces of a hundred; each
piece counts as fast as it was fastest, as what disturbs one only adds to it. Ratios of one run can be
compared, microseconds of two machines can't.
"""

from __future__ import annotations

import random
import time
import tomllib
from collections.abc import Callable
from functools import partial
from pathlib import Path as FilePath
from typing import Any

from bench.path import Path
from bench.rig.command import parser
from bench.rig.report import in_words, machine, pyplot, write
from pylb.config import routing
from pylb.config.accesslog import AccessLog
from pylb.config.load import from_document
from pylb.rules.decision import Rules
from pylb.rules.maps import Kind, Map
from pylb.rules.template import compile as template
from pylb.worker.mapfiles import LINES_AT_ONCE

ROUNDS = 40
PIECE = 100
"""Requests that are timed together."""
HOSTS, PATHS = 100, 10
ROUTES = HOSTS * PATHS
LINES = 100_000
_FORMATS = ("haproxy", "combined", "json", "{client.ip} {status} {uri} {time.total}")
_MIXED = """
[[rule]]
match = { source = ["10.0.0.0/8", "2001:db8::/32"], path = "/admin" }
backend = "b1"
[[rule]]
match = { header = { X-Debug = "yes" } }
backend = "b2"
[[rule]]
match = { path_glob = "*.php" }
backend = "b3"
"""
_EDITS = """
[[rule]]
request_headers.remove = ["X-Debug", "X-Internal-*"]
request_headers.set = { X-Real-IP = "{client.ip}", X-Host = "{host}", X-From = "pylb" }
request_headers.add = { X-Tag = "a" }
response_headers.remove = ["Server", "X-Powered-By"]
response_headers.set = { X-Frame-Options = "DENY", X-Content-Type-Options = "nosniff" }
"""


def _requests() -> list[bytes]:
    """One for each route, in no order, with other fields as browsers send them."""
    fields = (
        "User-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: text/html,*/*\r\nCookie: session=1a2b3c4d"
    )
    made = [
        f"GET /p{path}/item/{path * 79 + host} HTTP/1.1\r\nHost: h{host}.example\r\n{fields}\r\n\r\n".encode()
        for host in range(HOSTS)
        for path in range(PATHS)
    ]
    random.Random(1).shuffle(made)
    return made


def _rules(text: str, place: object = None) -> Rules | None:
    """These rules; all backends that they name are one."""
    document: dict[str, Any] = tomllib.loads(text)
    names = ["b", *(f"b{number}" for number in range(ROUTES))]
    document = {
        "frontend": {"name": "f", "bind": "127.0.0.1:80", "backend": "b", **document},
        "backend": [{"name": name, "server": "127.0.0.1:9"} for name in names],
    }
    config = from_document(document)
    return routing.compiled(config, config.frontends[0], {}, dict.fromkeys(names, place))


def _route(match: str, number: int) -> str:
    return f'[[rule]]\nmatch = {{ {match} }}\nbackend = "b{number}"\n'


def _thousand() -> str:
    return "".join(
        _route(f'host = "h{host}.example", path = "/p{path}"', host * PATHS + path)
        for host in range(HOSTS)
        for path in range(PATHS)
    )


CASES: dict[str, Callable[[], str]] = {
    "no rules": lambda: "",
    "1 route": lambda: _route('host = "h7.example", path = "/p7"', 0),
    f"{ROUTES} routes by host and path": _thousand,
    f"{ROUTES} routes by path": lambda: "".join(
        _route(f'path = "/p{number % PATHS}/item/{number}"', number) for number in range(ROUTES)
    ),
    "1 route, and 3 other rules": lambda: _MIXED + _route('host = "h7.example", path = "/p7"', 0),
    f"{ROUTES} routes, and 3 other rules": lambda: _MIXED + _thousand(),
    "10 header edits": lambda: _EDITS,
    "a path's prefix rewritten": lambda: '[[rule]]\nrewrite.path = { prefix = "/p7", to = "/q" }',
}
"""By name, the rules."""


LOGS = {f"access log, {format_}": AccessLog(to="/dev/null", format=format_) for format_ in _FORMATS}
"""By name, access logs of a frontend without rules."""


def measure(rounds: int) -> dict[str, float]:
    """Microseconds per request of each case."""
    requests = _requests()
    pieces = [requests[at : at + PIECE] for at in range(0, len(requests), PIECE)]
    paths = {name: Path(partial(_rules, text())) for name, text in CASES.items()}
    paths |= {name: Path(log=log) for name, log in LOGS.items()}
    best = {name: [float("inf")] * len(pieces) for name in paths}
    for _ in range(rounds):
        for number, piece in enumerate(pieces):
            for name, path in paths.items():
                best[name][number] = min(best[name][number], path.microseconds(piece))
    return {name: sum(figures) / len(figures) for name, figures in best.items()}


def _keys(kind: Kind) -> list[bytes]:
    numbers = range(LINES)
    if kind == "network":
        return [b"%d.%d.%d.0/24" % (11 + (n >> 16), n >> 8 & 255, n & 255) for n in numbers]
    return [b"/t%d/app" % n if kind == "prefix" else b"t%d.example.org" % n for n in numbers]


def _asked(kind: Kind, key: bytes) -> bytes:
    """What of a request is looked up: below the key, where the kind has a below."""
    below = {"prefix": key + b"/x/y", "domain": b"www." + key, "network": key.replace(b".0/24", b".77")}
    return below.get(kind, key)


def _load(one: Map, text: bytes) -> tuple[float, float]:
    """Read a file's text; the seconds, and the milliseconds of the longest piece."""
    reading = one.reading(text)
    took: list[float] = []
    done = False
    while not done:
        began = time.perf_counter()
        done = reading.step(LINES_AT_ONCE)
        took.append(time.perf_counter() - began)
    one.take(reading)
    return sum(took), max(took) * 1000


def maps() -> dict[str, tuple[float, float, float]]:
    """By kind, the seconds to load a file of `LINES` lines, the milliseconds of the longest of the pieces in
    which a worker does so, and the microseconds of a look-up."""
    figures: dict[str, tuple[float, float, float]] = {}
    kinds: tuple[Kind, ...] = ("exact", "prefix", "domain", "network")
    for kind in kinds:
        keys = _keys(kind)
        text = b"".join(key + b" backend-%d\n" % (number % 7) for number, key in enumerate(keys))
        one = Map("m", kind, template("{host}"))
        loads = [_load(one, text) for _ in range(5)]
        asked = [_asked(kind, key) for key in random.Random(1).sample(keys, 10_000)]
        fastest = [float("inf")] * PIECE
        for _ in range(20):
            for number in range(PIECE):
                piece, find = asked[number::PIECE], one.find
                began = time.perf_counter()
                for key in piece:
                    find(key)
                fastest[number] = min(fastest[number], (time.perf_counter() - began) / len(piece) * 1e6)
        loaded, longest = (min(some) for some in zip(*loads, strict=True))
        figures[kind] = loaded, longest, sum(fastest) / len(fastest)
    return figures


def page(best: dict[str, float], loads: dict[str, tuple[float, float, float]]) -> list[str]:
    """The results in Markdown."""
    none, one = best["no rules"], best["1 route"]
    lines = [
        "# What rules and access logs cost",
        "",
        f"Written by `python -m bench.rules`. {in_words()}.",
        "",
        "pylb's own Python per request over transports that do nothing, with heads that differ, in turns. "
        "Over sockets a request costs two to three times what the first line says, so ratios are smaller "
        "there.",
        "",
        "| | µs | more | to no rules | to 1 route |",
        "|---|---|---|---|---|",
    ]
    for name, figure in best.items():
        ratios = f"{figure / none:.2f} | {figure / one:.2f}"
        lines.append(f"| {name} | {figure:.2f} | {figure - none:.2f} | {ratios} |")
    lines += ["", f"| a map of {LINES} lines | load, s | longest piece, ms | look-up, µs |"]
    lines.append("|---|---|---|---|")
    for kind, (loaded, longest, looked_up) in loads.items():
        lines.append(f"| {kind} | {loaded:.2f} | {longest:.1f} | {looked_up:.2f} |")
    return lines


def draw(best: dict[str, float], path: FilePath) -> None:
    """What each case adds."""
    figure, axes = pyplot().subplots(figsize=(7, 3.5), layout="constrained")
    names = [name for name in best if name != "no rules"]
    axes.barh(names[::-1], [best[name] - best["no rules"] for name in names[::-1]])
    axes.set_xlabel("µs per request more than without rules and log")
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, and say it."""
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=ROUNDS, help=f"through all cases [{ROUNDS}]")
    chosen = options.parse_args()
    best = measure(chosen.rounds)
    loads = maps()
    write("rules", {"machine": machine(), "us": best, "maps": loads}, page(best, loads), chosen.out)
    draw(best, chosen.out / "rules.png")


if __name__ == "__main__":
    main()
