"""Raises an error at one line of the worker's modules, the first time that it is reached."""

from __future__ import annotations

import ast
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pylb.worker

FOLDER = Path(pylb.worker.__file__).parent
_FOLDER = f"{FOLDER}/"
Site = tuple[str, int]


class Fault(Exception):
    """What nobody expects."""


def _calls() -> frozenset[Site]:
    """The lines of the worker's modules in which something is called or awaited."""
    found = set()
    for file in FOLDER.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call | ast.Await):
                found.add((str(file), node.lineno))
    return frozenset(found)


CALLS = _calls()
# What runs only in a process of its own, or only after an error.
NOT_TRIED = {
    *("run", "_main", "serve", "__init__", "_tick", "spawn", "_spawned"),
    *("internal", "crashed", "cut_off", "call"),
}


class Injector:
    """Raises at one line, at its first visit; without one it notes which are visited."""

    def __init__(self, at: Site | None = None) -> None:
        self.at = at
        self.visited: list[Site] = []
        self.fired = False

    def _call(self, frame: FrameType, event: str, arg: object) -> Any:
        code = frame.f_code
        here = code.co_filename
        wanted = here == self.at[0] if self.at is not None else here.startswith(_FOLDER)
        return self._line if wanted and code.co_name not in NOT_TRIED else None

    def _line(self, frame: FrameType, event: str, arg: object) -> Any:
        if event == "line":
            here = (frame.f_code.co_filename, frame.f_lineno)
            if here == self.at:
                self.fired = True
                raise Fault(f"{here}")  # Python stops tracing then
            if self.at is None and here in CALLS and here not in self.visited:
                self.visited.append(here)
        return self._line

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        sys.settrace(self._call)
        try:
            yield
        finally:
            sys.settrace(None)
