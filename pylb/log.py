"""Logging set-up shared by every process: lines for people or one JSON object per line.

Known to all processes; it knows nothing of pylb. Everything goes to standard error by `controller.stderr`:
no process ever waits for a reader, and lines for which there is no room are dropped and counted. A line is
written with one ``write``, so that lines of different processes don't mix. Control characters in it are
escaped, so that what clients and servers send can't make lines of its own.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from typing import Literal

from controller import stderr
from controller.stderr import clean, indented

log = logging.getLogger("pylb")

_role = "supervisor"
_handler: stderr.Handler | None = None
_sink: stderr.Stderr | None = None

# Attributes that every LogRecord has; any other was given through ``extra``.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def in_child(role: str) -> None:
    """Set what every line says of a process that was just forked: ``worker 0``, ``control``."""
    global _role
    _role = role
    if _sink is not None:
        _sink.forked()


class ConsoleFormatter(logging.Formatter):
    """``2026-01-31 12:00:00.123 INFO  [worker 0 123] text``; lines of a traceback are indented."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        text = clean(record.getMessage())
        if record.exc_info:
            text += indented(self.formatException(record.exc_info))
        level = record.levelname
        return f"{moment}.{int(record.msecs):03d} {level:<7} [{_role} {record.process}] {text}"


class JsonFormatter(logging.Formatter):
    """One JSON object per line, with the ``extra`` fields of the record as keys of their own."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "ts": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "role": _role,
            "pid": record.process,
            "message": record.getMessage(),
        }
        for key, value in vars(record).items():
            if key not in _STANDARD and key not in line:
                line[key] = value
        if record.exc_info:
            exception = self.formatException(record.exc_info)
            room = stderr.PIECE - len(json.dumps(line, default=str)) - len(', "exception": ""\n')
            # Another process could write into a line that is longer than a piece.
            if len(json.dumps(exception)) > room:
                exception = _shortened(exception, room)
            line["exception"] = exception
        return json.dumps(line, default=str)


def _shortened(traceback: str, room: int) -> str:
    """The first and the last lines of a traceback, which take at most ``room`` bytes as JSON."""
    lines = traceback.split("\n")
    lines = [line if len(json.dumps(line)) < room // 3 else line[: room // 20] for line in lines]
    sizes = [len(json.dumps(line)) for line in lines]  # two quotes a line, in place of its line end
    first, last, used = 0, len(lines) - 1, sizes[-1] + 40
    while first < last and used + sizes[first] < room // 2:
        used += sizes[first]
        first += 1
    while first < last and used + sizes[last - 1] < room:
        used += sizes[last - 1]
        last -= 1
    return "\n".join([*lines[:first], f"  ... {last - first} lines left out", *lines[last:]])


def setup(format: Literal["console", "json"] = "console", level: str = "info") -> None:
    """Log to standard error; calling it again replaces the earlier set-up.

    Other libraries' warnings (asyncio's above all) are written in the same way.
    """
    global _handler, _sink
    _sink = stderr.take_over()
    _handler = stderr.Handler(_sink)
    _handler.setFormatter(JsonFormatter() if format == "json" else ConsoleFormatter())
    logging.getLogger().handlers[:] = [_handler]
    logging.captureWarnings(True)
    log.setLevel(level.upper())


def count_lost(add: Callable[[int], None]) -> None:
    """Have lines of this process that are dropped added to a cell of the scoreboard."""
    if _sink is not None:
        _sink.on_lost = add
        if _sink.lost:
            add(_sink.lost)


def tick(lost: int | None = None) -> None:
    """Write lines that wait for room; every process calls this several times a second.

    Args:
        lost: lines that all processes have dropped so far; the supervisor gives it, which logs that sum.
    """
    if _sink is not None:
        _sink.finish()
        if lost is not None and _handler is not None:
            _sink.tell(lost, _handler.warning)
