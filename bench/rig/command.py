"""A benchmark as a command: its options, the programs that it needs, and what it shows while it runs."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

T = TypeVar("T")
RESULTS = Path(__file__).parents[1] / "results"
PACKAGES = {
    "haproxy": "haproxy",
    "nginx": "nginx-light",
    "wrk": "wrk",
    "taskset": "util-linux",
    "nft": "nftables",
    "ip": "iproute2",
    "unshare": "util-linux",
    "slowhttptest": "slowhttptest",
    "h2load": "nghttp2-client",
    "testssl": "testssl.sh",
    "docker": "docker.io",
    "dockerd": "docker.io",
}
"""Debian's package of each tool."""

console = Console()


def parser(about: str | None) -> argparse.ArgumentParser:
    """Of a benchmark's options; it has ``--out``."""
    made = argparse.ArgumentParser(description=about)
    made.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER", help="[bench/results]")
    return made


def need(options: argparse.ArgumentParser, *tools: str, root: bool = False) -> None:
    """End with a usage error unless these programs are installed, and this is root where it must be."""
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        packages = " ".join(dict.fromkeys(PACKAGES[tool] for tool in missing))
        options.error(f"{', '.join(missing)} not installed (apt-get install {packages})")
    if root and os.geteuid():
        options.error("needs root, to make cgroups")


def in_turns(names: Sequence[T], turns: int) -> Iterator[tuple[int, T]]:
    """The number of each turn and who has it; the order is reversed each time, so that what else the machine
    does hits all."""
    for number in range(turns):
        for name in names[:: -1 if number % 2 else 1]:
            yield number, name


def progress() -> Progress:
    """A bar with how much there is, and the time that is left."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console)
