"""Cgroups of both versions; what loops really get is checked by ``python -m bench.testbed``."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.guest import slow_clock
from bench.testbed import CORE, PERIOD_US, Group, mounts
from pylb.worker.runqueue import RunQueue


def test_the_hierarchies_are_found(tmp_path: Path) -> None:
    table = tmp_path / "mounts"
    table.write_text(
        "cgroup /a/cpu cgroup rw,cpu 0 0\ncgroup /a/cpuacct cgroup rw,cpuacct 0 0\n"
        "cgroup2 /a/unified cgroup2 rw 0 0\n"
    )
    assert mounts(table) == (1, [Path("/a/cpu"), Path("/a/cpuacct")])
    table.write_text("cgroup /a/both cgroup rw,cpu,cpuacct 0 0\n")
    assert mounts(table) == (1, [Path("/a/both")])
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu io\n")
    table.write_text(f"cgroup2 {tmp_path} cgroup2 rw 0 0\n")
    assert mounts(table) == (2, [tmp_path])
    (tmp_path / "cgroup.controllers").write_text("io\n")
    with pytest.raises(OSError, match="no cgroup"):
        mounts(table)


@pytest.mark.parametrize("version", [1, 2])
def test_a_limit_is_a_part_of_a_real_core(tmp_path: Path, version: int) -> None:
    folder = tmp_path / "g"
    folder.mkdir()
    if version == 1:
        (folder / "cpu.cfs_quota_us").write_text("-1")
    group = Group("g", (version, [tmp_path]))
    group.limit(2)
    quota = int(2 * CORE * PERIOD_US)
    if version == 2:
        assert (tmp_path / "cgroup.subtree_control").read_text() == "+cpu"
        assert (folder / "cpu.max").read_text() == f"{quota} {PERIOD_US}"
        (folder / "cpu.stat").write_text("usage_usec 1000000\n")
    else:
        assert (folder / "cpu.cfs_quota_us").read_text() == str(quota)
        assert (folder / "cpu.cfs_period_us").read_text() == str(PERIOD_US)
        (folder / "cpuacct.usage").write_text("1000000000\n")
    assert group.use() == 1 / CORE
    group.add(42)
    assert (folder / "cgroup.procs").read_text() == "42"


def test_a_guest_counts_its_cpu_time_in_virtual_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    used, waited = 0, 0
    monkeypatch.setattr(time, "process_time_ns", lambda: used)
    monkeypatch.setattr(RunQueue, "waited_ns", lambda self: waited)
    slow_clock(0.25)
    run_queue = RunQueue()
    # A quarter of a second of a real core, the rest of it throttled: the virtual one was busy all the time.
    used, waited = 250_000_000, 750_000_000
    assert (time.process_time_ns(), run_queue.waited_ns()) == (1_000_000_000, 0)
    # A further second in which others had the core for half of the time.
    used, waited = used + 125_000_000, waited + 875_000_000
    assert (time.process_time_ns(), run_queue.waited_ns()) == (1_500_000_000, 500_000_000)


def test_termination_leaves_nothing_behind() -> None:
    code = """
import signal
from bench.testbed import tidy_when_terminated
tidy_when_terminated()
try:
    print("made", flush=True)
    signal.pause()
finally:
    print("removed", flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "made\n"
    process.terminate()
    assert process.communicate(timeout=50)[0] == "removed\n"
    assert process.returncode == 128 + signal.SIGTERM
