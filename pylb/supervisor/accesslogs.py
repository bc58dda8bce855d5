"""The files of the access logs: opened by the supervisor with its rights, written by the workers.

A worker has the descriptors by its fork, under the same numbers. After USR1 the supervisor opens each file
anew under its number, so that workers to come have it, and sends it to those that are there: they may have no
right to open it themselves.

Floor: above `processes`. It knows no generation; which configurations are in use it is told.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from pylb.config.logtarget import Destination, Target, destination, open_file, targets
from pylb.config.model import Config
from pylb.log import log
from pylb.net.channel import send_connections
from pylb.supervisor.processes import Worker


class AccessLogs:
    """What is open, by path."""

    def __init__(self) -> None:
        self._files: dict[str, int] = {}
        self._unsent: list[tuple[Worker, str]] = []

    def open(self, config: Config) -> dict[Target, int | Destination]:
        """Open what a configuration's access logs need, unless it is open.

        Raises:
            OSError: a file can't be opened, a name can't be looked up, or nobody is at a socket.
        """
        found: dict[Target, int | Destination] = {}
        for _, target in targets(config):
            if target.syslog is not None:
                found[target] = destination(target)
            elif not target.path:
                found[target] = 1
            else:
                if target.path not in self._files:
                    self._files[target.path] = open_file(target.path)
                found[target] = self._files[target.path]
        return found

    def reopen(self, configs: Iterable[Config], workers: Iterable[Worker]) -> None:
        """Open all files anew, as they have been renamed; what can't be opened is written on as it is.

        Args:
            configs: those that workers have or will have; what none of them names is closed.
        """
        self.close_others(configs)
        workers = list(workers)
        for path, number in self._files.items():
            try:
                fresh = open_file(path)
            except OSError as error:
                log.error("access log %s: can't be reopened, the old file is written on: %s", path, error)
                continue
            os.dup2(fresh, number, inheritable=False)
            os.close(fresh)
            for worker in workers:
                if any(target.path == path for _, target in targets(worker.config)):
                    self._send(worker, path)
        log.info("access logs reopened: %s", ", ".join(self._files) or "there are no files")

    def tick(self) -> None:
        """Send what a worker's channel had no room for."""
        unsent, self._unsent = self._unsent, []
        for worker, path in unsent:
            if path in self._files and worker.channel.fileno() >= 0:
                self._send(worker, path)

    def _send(self, worker: Worker, path: str) -> None:
        sent = send_connections(worker.channel, {"op": "reopen", "path": path}, [self._files[path]])
        if not sent and (worker, path) not in self._unsent:
            self._unsent.append((worker, path))

    def close_others(self, configs: Iterable[Config]) -> None:
        """Close what none of these configurations names."""
        used = {target.path for config in configs for _, target in targets(config)}
        for path in [path for path in self._files if path not in used]:
            with contextlib.suppress(OSError):
                os.close(self._files.pop(path))
