"""A reload's new servers are checked by a process of their own, for which it waits, but not for ever."""

from __future__ import annotations

import os
import socket
import time
from typing import Any

from bench.rig.processes import wait_for
from pylb.config.load import from_document
from pylb.config.model import Config
from pylb.net.listeners import Listeners
from pylb.scoreboard import Scoreboard
from pylb.servers import Column, Health, Table
from pylb.supervisor.firstchecks import PATIENCE, FirstChecks
from pylb.supervisor.generations import Generation
from pylb.supervisor.secrets import Secrets
from pylb.supervisor.servers import Servers


def config(*ports: int, **check: Any) -> Config:
    servers = [f"127.0.0.1:{port}" for port in ports]
    return from_document(
        {
            "frontend": [{"name": "f", "bind": "127.0.0.1:8080", "backend": "b"}],
            "backend": [{"name": "b", "server": servers, "check": {"timeout": 60} | check}],
        }
    )


class Stage:
    """The first checks of a reload from one configuration to another."""

    def __init__(self, before: Config, after: Config) -> None:
        board = Scoreboard(1, 16)
        self.table = Table(board)
        servers = Servers(board, before)
        servers.prepare(after, [before])
        self.indices = [one.index for one in servers.listed(after.backends[0])]
        self.checks = FirstChecks(board, servers, lambda generation: None)
        self.checks.begin(Generation(2, after, Secrets(), Listeners([], 1, 1)), before)

    def health(self) -> list[int]:
        return [self.table.get(Column.HEALTH, index) for index in self.indices]

    def wait(self) -> None:
        """Wait for the end of the process, as the supervisor hears of it."""
        pid, status = wait_for("its end", lambda: (found := os.waitpid(-1, os.WNOHANG))[0] and found) or (
            0,
            1,
        )
        assert status == 0 and self.checks.ended(pid) and not self.checks.ended(pid)


def test_new_servers_are_checked_and_no_others() -> None:
    with socket.create_server(("127.0.0.1", 0)) as good, socket.socket() as bad:
        bad.bind(("127.0.0.1", 0))  # and doesn't listen
        port, refused = good.getsockname()[1], bad.getsockname()[1]
        stage = Stage(config(1), config(1, port, refused))
        assert stage.checks.under_way
        stage.wait()
    assert not stage.checks.under_way
    assert stage.health() == [Health.UNKNOWN, Health.UP, Health.DOWN]


def test_nothing_is_waited_for_without_new_servers() -> None:
    assert not Stage(config(1), config(1)).checks.under_way
    assert not Stage(config(1), config(1, 2, init="up")).checks.under_way


def test_a_server_that_does_not_answer_holds_a_reload_up_for_a_while_only() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        stage = Stage(config(1), config(1, silent.getsockname()[1], type="redis"))
        connection, _ = silent.accept()
        assert connection.recv(100)  # the check is under way
        now = time.monotonic()
        assert not stage.checks.late(now) and stage.checks.under_way
        assert stage.checks.late(now + PATIENCE) and not stage.checks.under_way
        assert not connection.recv(100)  # its process is gone
        connection.close()
    assert stage.health() == [Health.UNKNOWN, Health.UNKNOWN]
