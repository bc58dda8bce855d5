"""Ejections: from workers' counters to the table of servers, the log, and what ``why`` and status say."""

from __future__ import annotations

from typing import Any

import pytest

from pylb.config.load import from_document
from pylb.control import backends, snapshot, why
from pylb.control.ejections import Ejections
from pylb.control.observations import Observations
from pylb.control.servers import Servers
from pylb.net.serverlists import Listed, as_configured, packets
from pylb.scoreboard import Scoreboard, ServerField
from pylb.servers import Admin, Column, Ejected, Health, Table


class Plane:
    """The part of a control plane that judges servers, and the scoreboard that two workers write to."""

    def __init__(
        self, kept: dict[str, Any] | None = None, board: Scoreboard | None = None, **backend: Any
    ) -> None:
        section = {"name": "b", "server": [f"127.0.0.1:{port}" for port in range(1, 5)], **backend}
        self.config = from_document(
            {"frontend": {"name": "f", "bind": "127.0.0.1:80", "backend": "b"}, "backend": section}
        )
        self.board = board or Scoreboard(2)
        self.table = Table(self.board)
        self.kept: dict[str, Any] = {} if kept is None else kept
        self.told = 0
        self.servers = Servers(self.config, self.board, as_configured(self.config), 1)
        self.observations = Observations(self.keep)
        self.observations.take_back(self.kept)
        self.ejections = Ejections(
            self.board, self.servers, self.observations, self.keep, self.changed, self.kept
        )
        self.now = 1000.0
        self.look()

    def keep(self, key: str, value: Any) -> None:
        if value is None:
            self.kept.pop(key, None)
        else:
            self.kept[key] = value

    def changed(self) -> None:
        self.told += 1

    def look(self, seconds: float = 0.25) -> None:
        self.now += seconds
        self.ejections.look(self.now)

    def fail(self, server: int = 0, times: int = 5, field: ServerField = ServerField.ERRORS) -> None:
        """So many failures, which both workers have seen."""
        column = self.board.server_column(field, server)
        column[0] += times // 2
        column[1] += times - times // 2
        self.look()

    def ejected(self, server: int = 0) -> Ejected:
        return Ejected(self.table.get(Column.EJECTED, server))

    def why(self, server: int = 0) -> dict[str, Any]:
        entry = snapshot.servers(self.board, self.servers.indices)[server]
        return why.described(entry, self.observations.told(("b", entry["name"], entry["address"])), 0.0)


OUTLIERS = {"eject": 30, "good": 2}


def test_failures_that_several_workers_have_seen_eject_a_server_until_it_is_tried(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plane = Plane(outliers=OUTLIERS)
    plane.fail(times=4)
    assert plane.ejected() is Ejected.IN and plane.told == 0
    plane.fail(times=1, field=ServerField.BAD)
    assert plane.ejected() is Ejected.OUT and plane.told == 1
    assert not plane.table.usable(0) and plane.table.down(0)
    assert "server b/s1 at 127.0.0.1:1 is ejected: 5 failures in a row; for 30 s" in caplog.text
    plane.look(29)
    assert plane.ejected() is Ejected.OUT
    plane.look(1)
    assert plane.ejected() is Ejected.TRIED
    assert plane.table.usable(0) and plane.table.part(0) < 0.1 < plane.table.part(1)
    plane.board.server_column(ServerField.GOOD, 0)[1] += 2
    plane.look()
    assert plane.ejected() is Ejected.IN and plane.table.part(0) == 1
    assert "is back: 2 good answers" in caplog.text


def test_why_tells_since_when_and_by_what() -> None:
    plane = Plane(outliers=OUTLIERS)
    found = plane.why()
    assert "since" not in found and "nothing has changed" in why.text(found)
    plane.fail()
    found = plane.why()
    assert (found["state"], found["aspect"]) == ("ejected", "outliers")
    assert "5 failures in a row" in why.text(found).splitlines()[0]
    plane.table.supervisor_set(Column.ADMIN, 0, Admin.MAINTENANCE)
    plane.look()
    assert (plane.why()["state"], plane.why()["why"]) == ("maintenance", "by an operator")
    plane.table.supervisor_set(Column.ADMIN, 0, Admin.READY)
    plane.table.control_set(Column.HEALTH, 0, Health.DOWN)
    plane.look()
    assert (plane.why()["state"], plane.why()["aspect"]) == ("down", "health")
    plane.table.control_set(Column.HEALTH, 0, Health.UP)
    plane.look()
    assert plane.why()["state"] == "ejected"  # its checks pass, its answers don't
    assert [change["state"] for change in plane.why()["changes"]] == [
        *("ejected", "maintenance", "ready", "down", "up")
    ]


def test_the_next_control_plane_goes_on_and_knows_why() -> None:
    plane = Plane(outliers=OUTLIERS)
    plane.fail()
    since = plane.why()["since"]
    after = Plane(plane.kept, plane.board, outliers=OUTLIERS)
    assert after.ejected() is Ejected.OUT
    assert (after.why()["since"], after.why()["why"]) == (since, "5 failures in a row; for 30 s")
    after.look(40)
    assert after.ejected() is Ejected.TRIED
    after.fail(times=1)
    assert after.why()["why"].endswith("for 60 s")
    # A configuration without outliers ends what the last one has begun.
    assert Plane(plane.kept, plane.board).ejected() is Ejected.IN


def test_what_was_kept_by_whomever_hurts_nothing() -> None:
    kept = {"outliers b s1 127.0.0.1:1": ["x"], "observations b s1 127.0.0.1:1": 7}
    plane = Plane(kept, outliers=OUTLIERS)
    plane.fail()
    assert plane.ejected() is Ejected.OUT


def test_servers_that_go_are_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    plane = Plane(outliers=OUTLIERS)
    plane.fail()
    assert len(plane.kept) == 2
    left = [Listed(server, index) for index, server in enumerate(plane.config.backends[0].servers)][1:]
    for packet in packets("b", 2, left):
        plane.servers.hear(packet)
    assert plane.kept == {}
    plane.fail(1)
    assert plane.ejected(1) is Ejected.OUT


def test_a_backend_without_outliers_is_not_judged() -> None:
    plane = Plane()
    plane.fail(times=1000)
    assert plane.ejected() is Ejected.IN and plane.kept == {}


def test_panic_is_told_once_and_status_knows_it(caplog: pytest.LogCaptureFixture) -> None:
    plane = Plane(panic=0.5, min_servers=3)

    def told() -> dict[str, Any]:
        (entry,) = backends.told(plane.servers, plane.ejections.panics)
        return entry

    assert told() == {
        **{"name": "b", "servers": 4, "usable": 4, "min_servers": 3, "short": False, "panic": False}
    }
    for server in (0, 1, 2):
        plane.table.control_set(Column.HEALTH, server, Health.DOWN)
        plane.look()
    assert (told()["usable"], told()["short"], told()["panic"]) == (1, True, True)
    assert caplog.text.count("1 of 4 servers are healthy: all are used, healthy or not (panic)") == 1
    plane.table.control_set(Column.HEALTH, 0, Health.UP)
    plane.look()
    assert not told()["panic"]
    assert "2 of 4 servers are healthy: only these are used again" in caplog.text
