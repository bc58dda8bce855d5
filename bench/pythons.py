"""``python -m bench.pythons``: what a request costs a worker on different builds of Python, in one run.

The same pylb runs on each; all balance over the same servers and take turns (`bench.turns`). Ratios are over
the first Python, turn by turn. Without options these are the machine's own Python 3.11 and, unpacked beside
from Debian's newest suite (`bench.rig.unpacked`), 3.13 and 3.14, which are built with PGO and LTO; ``--python
NAME=PATH`` names others, as those that pyenv has built. The libraries that pylb needs are installed for each
into a folder of its own. Needs haproxy, nginx, wrk and h2load.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.rig import origins, peers, unpacked
from bench.rig.command import console, need, parser
from bench.rig.peers import Site
from bench.rig.processes import start, status_of
from bench.rig.report import in_words, machine, write
from bench.table import commit
from bench.table_report import answers, costs, interleaved
from bench.turns import BALANCERS, CLIENTS, Side, measure
from bench.workloads import WORKLOADS

_ROOT = Path(__file__).parents[1]
_NAMES = (
    *("small, 64 keep-alive", "differing heads, 12 headers", "new connection each", "TLS, small"),
    "HTTP/2, differing heads, 10 × 10",
)
CASES = tuple(one for one in WORKLOADS if one.name in _NAMES)
_ASK = (
    "import json, platform, sys; from pylb.interpreter import BUILD; "
    "print(json.dumps([f'{BUILD.version} ({BUILD.words})', f'{sys.version_info[0]}.{sys.version_info[1]}']))"
)


def unpacked_python(name: str) -> list[str]:
    """The command of one of Debian's newest Pythons, as ``python3.13``.

    Raises:
        Missing: it is not to be had.
    """
    root = unpacked.fetch(name)
    return ["env", f"PYTHONHOME={root}/usr", *unpacked.linked(root, f"usr/bin/{name}")]


def libraries(version: str) -> Path:
    """The folder with what pylb needs on this version of Python, as ``3.13``; installed once.

    Raises:
        Missing: there are no wheels for it.
    """
    folder = unpacked.FOLDER / f"libraries-{version}"
    if not folder.exists():
        short = version.replace(".", "")
        wanted = ["--python-version", version, "--implementation", "cp", "--only-binary", ":all:"]
        wanted += ["--abi", f"cp{short}", "--abi", "abi3", "--abi", "none"]
        done = subprocess.run(
            [sys.executable, "-m", "pip", "install", "-q", "--target", str(folder), *wanted, *requirements()],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise unpacked.Missing(done.stderr.strip()[-300:])
    return folder


def requirements() -> list[str]:
    """What pylb itself depends on."""
    project = tomllib.loads((_ROOT / "pyproject.toml").read_text())["project"]
    found: list[str] = project["dependencies"]
    return found


def prepared(command: Sequence[str], path: Sequence[Path]) -> list[str]:
    """A Python's command in an environment in which it finds pylb and its libraries."""
    line = list(command[1:] if command[0] == "env" else command)
    return ["env", f"PYTHONPATH={':'.join(map(str, (_ROOT, *path)))}", *line]


def versions_of(commands: Mapping[str, Sequence[str]]) -> dict[str, tuple[list[str], str]]:
    """By name, the command that finds its libraries, and the build in words, of those that can be had."""
    found = {}
    for name, command in commands.items():
        asked = subprocess.run([*command, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
                               capture_output=True, text=True)  # fmt: skip
        try:
            if asked.returncode:
                raise unpacked.Missing(asked.stderr.strip()[-300:])
            whole = prepared(command, [libraries(asked.stdout.strip())])
            said = subprocess.run([*whole, "-c", _ASK], capture_output=True, text=True, check=True)
        except (unpacked.Missing, subprocess.CalledProcessError) as error:
            console.print(f"without {name}: {getattr(error, 'stderr', None) or error}", markup=False)
            continue
        found[name] = whole, json.loads(said.stdout)[0]
    return found


def page(document: dict[str, Any]) -> list[str]:
    """All of it in Markdown."""
    names, workloads = list(document["pythons"]), document["workloads"]
    return [
        "# Which Python",
        "",
        f"Written by `python -m bench.pythons`. {in_words(document['machine'])}.",
        f"{interleaved(workloads)} The same pylb with one worker on each:",
        "",
        *(f"- {name}: {words}" for name, words in document["pythons"].items()),
        "",
        *costs(workloads, names, {}, names[0]),
        "",
        *answers(workloads, names, {}),
    ]


def _serves(port: int) -> int:
    return status_of(port, "/small")


def run(
    pythons: Mapping[str, Sequence[str]], turns: int, seconds: int, part: str, folder: Path
) -> dict[str, Any]:
    """All cases; the first of ``pythons`` is what the others are compared with."""
    found: dict[str, Any] = {}
    base = next(iter(pythons))
    with origins.nginx(folder / "servers", CLIENTS) as (_, servers), contextlib.ExitStack() as stack:
        there = {}
        for name, command in pythons.items():
            site = Site.with_tls(servers)
            place = folder / name
            place.mkdir()
            peers.certificate(place)
            words = peers.pylb(place, site)[1:]
            line = [*BALANCERS, *command, *words]
            program = start(line, place / "out", site.port, _serves, signal.SIGQUIT)
            stack.callback(program.stop)
            there[name] = Side(program, [site])
        for case in (one for one in CASES if part in one.name):
            balancers = measure(case, {name: side.turn for name, side in there.items()}, turns, seconds, base)
            found[case.name] = {"bar": None, "over": base, "balancers": balancers}
    return found


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--turns", type=int, default=5, help="per Python and workload [5]")
    options.add_argument("--seconds", type=int, default=1, help="per turn [1]")
    options.add_argument("--only", default="", metavar="PART", help="part of workloads' names")
    options.add_argument(
        "--python", action="append", metavar="NAME=PATH", default=[], help="a further one; may be repeated"
    )
    chosen = options.parse_args()
    need(options, "nginx", "wrk", "h2load", "taskset")
    commands: dict[str, Sequence[str]] = {}
    if os.access("/usr/bin/python3.11", os.X_OK):
        commands["debian-3.11"] = ["/usr/bin/python3.11"]
    for name in ("python3.13", "python3.14"):
        try:
            commands[f"debian-{name.removeprefix('python')}"] = unpacked_python(name)
        except unpacked.Missing as error:
            console.print(f"without {name}: {error}", markup=False)
    for named in chosen.python:
        name, _, path = named.partition("=")
        commands[name] = [path]
    pythons = versions_of(commands)
    with tempfile.TemporaryDirectory(prefix="pylb-pythons-") as folder:
        lines = {name: line for name, (line, _) in pythons.items()}
        found = run(lines, chosen.turns, chosen.seconds, chosen.only, Path(folder))
    builds = {name: words for name, (_, words) in pythons.items()}
    document = {"machine": machine() | {"commit": commit()}, "pythons": builds, "workloads": found}
    write("pythons", document, page(document), chosen.out)


if __name__ == "__main__":
    main()
