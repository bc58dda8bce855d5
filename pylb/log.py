"""Logging set-up shared by every process: lines for people or one JSON object per line.

Everything goes to standard error through one handler. A line is written with one ``write``, so lines
of different processes don't mix.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Literal

log = logging.getLogger("pylb")

_role = "supervisor"

# What a LogRecord holds anyway; whatever else is found in it was given through ``extra``.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def set_role(role: str) -> None:
    """Say which process this is (``supervisor``, ``worker 0``, ``control``); shown on every line."""
    global _role
    _role = role


class ConsoleFormatter(logging.Formatter):
    """``2026-01-31 12:00:00.123 INFO  [worker 0 123] text``."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.created))
        text = record.getMessage()
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
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
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def setup(format: Literal["console", "json"] = "console", level: str = "info") -> None:
    """Log to standard error; calling it again replaces the earlier set-up.

    Other libraries' warnings (asyncio's above all) are written in the same way.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if format == "json" else ConsoleFormatter())
    logging.getLogger().handlers[:] = [handler]
    logging.captureWarnings(True)
    log.setLevel(level.upper())
