"""Nobody reads standard error any more: a worker is killed, then the balancer is told to stop.

Each logs there: pylb always, HAProxy in master-worker mode (``-W``) about its workers, nginx by
``error_log``.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from bench.failures.report import Row
from bench.rig.origins import origin
from bench.rig.peers import Site, running
from bench.rig.processes import status_of

PATIENCE = 6.0
"""Seconds after which something that did not happen counts as never."""


OPTIONS: dict[str, dict[str, Any]] = {
    "pylb": {},
    "haproxy": {"master": True, "settings": "  log stderr format raw local0 notice\n"},
    "nginx": {"log": "stderr notice"},
}


def _seconds(port: int) -> float | None:
    """How long it takes until a request is answered; None for never."""
    began = time.monotonic()
    while time.monotonic() < began + PATIENCE:
        if status_of(port, seconds=0.5) == 200:
            return time.monotonic() - began
        time.sleep(0.02)
    return None


def _fill(fd: int) -> None:
    """Leave no room in a pipe, whose other users go on blocking."""
    os.set_blocking(fd, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(fd, b"." * 4096)
    os.set_blocking(fd, True)


def _play(name: str, folder: Path, server: str) -> Row:
    site = Site([server])
    read, write = os.pipe()
    try:
        with running(name, folder, site, stderr=write, **OPTIONS[name]) as program:
            process = program.process
            _fill(write)
            (killed,) = program.workers(1)
            killed.kill()
            with contextlib.suppress(psutil.TimeoutExpired):
                killed.wait(PATIENCE)
            back = _seconds(site.port)
            ended = process.poll() is not None
            process.send_signal(signal.SIGTERM)
            began = time.monotonic()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(PATIENCE)
            stop = time.monotonic() - began
            stopped = process.poll() is not None
    finally:
        os.close(read)
        os.close(write)
    if back is not None:
        outcome = f"answers again after {back:.2f} s"
    else:
        outcome = "ends with its worker" if ended else f"answers nobody within {PATIENCE:g} s"
    if not ended:
        outcome += f"; TERM ends it in {stop:.2f} s" if stopped else f"; TERM does nothing in {PATIENCE:g} s"
    figures = {"back": -1 if back is None else round(back, 3), "stopped": stop if stopped else -1}
    return Row("standard error is a full pipe; kill -9 of the worker, then TERM", name, outcome, figures)


def run() -> list[Row]:
    """All three, one after the other."""
    with origin() as server, tempfile.TemporaryDirectory() as folder:
        return [_play(name, Path(folder, name), server) for name in OPTIONS]
