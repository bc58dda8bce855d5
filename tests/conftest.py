"""Settings for all tests, and what lets processes of pytest-xdist run them at the same time.

A file's tests stay in one process, one after the other, so that a module's fixtures exist once. Files with
real processes, which take longest, come first: the short ones level what is left at the end.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import hypothesis
import pytest

from bench.rig import balancer

# How long an example takes is the machine's affair, and no promise of what is tested.
hypothesis.settings.register_profile("pylb", deadline=None)
hypothesis.settings.load_profile("pylb")

TESTS = Path(__file__).parent
LONGEST = ("deploy", "e2e", "supervisor", "worker", "controller")
"""Folders, those first whose files take longest."""
PROCESSES = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))

if PROCESSES > 1:
    balancer.PORTS = (int(os.environ["PYTEST_XDIST_WORKER"].removeprefix("gw")), PROCESSES)


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "alone: no other process runs a test meanwhile")
    if config.getoption("numprocesses", None):
        config.option.dist = "loadfile"
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    def rank(item: pytest.Item) -> int:
        folder = item.path.relative_to(TESTS).parts[0]
        return LONGEST.index(folder) if folder in LONGEST else len(LONGEST)

    items.sort(key=rank)


@contextmanager
def _turn(alone: bool) -> Iterator[None]:
    """Wait until the tests that run in other processes allow this one.

    Whoever comes passes a gate and then holds the room, with others or alone; who waits to be alone stays
    in the gate, so that nobody passes it meanwhile.
    """
    with ExitStack() as opened:
        gate, room = (opened.enter_context((TESTS / name).open()) for name in ("__init__.py", "conftest.py"))
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        try:
            yield
        finally:
            fcntl.flock(room, fcntl.LOCK_UN)  # a forked child may hold the descriptor


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, object, object]:
    if PROCESSES == 1:
        return (yield)
    with _turn(item.get_closest_marker("alone") is not None):
        return (yield)
