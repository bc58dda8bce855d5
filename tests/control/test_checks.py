"""What follows from checks: the table, the log, what is kept, status; with servers on loopback."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from bench.rig.balancer import PATIENCE, free_port
from pylb.config.load import from_document
from pylb.config.model import Backend
from pylb.control.checks import Checks
from pylb.control.servers import Server
from pylb.control.watch import Places
from pylb.scoreboard import Scoreboard
from pylb.servers import Admin, Column, Health, Table


class Site:
    """A server on loopback whose health is set, and which notes each check."""

    def __init__(self) -> None:
        self.port = 0
        self.answer = b"HTTP/1.1 200 OK\r\n\r\n"
        self.asked = 0
        self._changed = asyncio.Condition()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            async with self._changed:
                self.asked += 1
                self._changed.notify_all()
            writer.write(self.answer)
            await writer.drain()
        except (OSError, EOFError):
            pass
        finally:
            writer.close()

    async def next_check(self, more: int = 1) -> None:
        """Wait until so many further checks have come."""
        wanted = self.asked + more
        async with asyncio.timeout(PATIENCE), self._changed:
            await self._changed.wait_for(lambda: self.asked >= wanted)

    def stop(self) -> None:
        if self._server is not None:
            self._server.close()


@pytest.fixture
async def site() -> AsyncIterator[Site]:
    one = Site()
    await one.start()
    yield one
    one.stop()


class Stage:
    """The checks beside a table, and what they have told."""

    def __init__(self, kept: dict[str, Any] | None = None, table: Table | None = None) -> None:
        self.table = table or Table(Scoreboard(1, 16))
        self.kept: dict[str, Any] = {} if kept is None else kept
        self.changes = 0
        self._changed = asyncio.Event()
        self.checks = Checks(self.table, {}, dict(self.kept), self._keep, self._change)

    def _keep(self, key: str, value: Any) -> None:
        self.kept[key] = value

    def _change(self) -> None:
        self.changes += 1
        self._changed.set()

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait for what comes with a change of the table."""
        async with asyncio.timeout(PATIENCE):
            while not true():
                self._changed.clear()
                await self._changed.wait()

    def health(self, index: int = 0) -> Health:
        return Health(self.table.get(Column.HEALTH, index))

    def last(self, index: int = 0) -> dict[str, Any]:
        status = self.checks.status(index)
        assert status is not None
        last = status["last"]
        assert isinstance(last, dict)
        return last


def backend(*ports: int, name: str = "b", **check: Any) -> Backend:
    """A backend whose servers are checked every 10 ms."""
    settings = {"path": "/", "interval": 0.01, "jitter": 0, "timeout": 30} | check
    settings = {key: value for key, value in settings.items() if value is not None}
    document = {
        "frontend": [{"name": "f", "bind": "127.0.0.1:8080", "backend": name}],
        "backend": [{"name": name, "server": [f"127.0.0.1:{port}" for port in ports], "check": settings}],
    }
    return from_document(document).backends[0]


def servers(of: Backend, first: int = 0) -> list[Server]:
    return [Server(of, server, first + number) for number, server in enumerate(of.servers)]


async def test_a_server_goes_and_comes_back(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    stage.checks.change(servers(backend(site.port)), [])
    assert stage.health() is Health.UNKNOWN
    await stage.until(lambda: stage.health() is Health.UP)
    assert caplog.messages == []
    site.answer = b"HTTP/1.1 503 No\r\n\r\n"
    await stage.until(lambda: stage.health() is Health.DOWN)
    status = stage.checks.status(0)
    assert status is not None and status["phase"] == "down"
    assert status["reason"] == "it answers 503, expected 200-399"
    who = f"health: server b/s1 at 127.0.0.1:{site.port}"
    assert caplog.messages == [
        f"{who} is down: it answers 503, expected 200-399 (3 checks in a row failed)",
        "health: backend b has no server whose checks pass",
    ]
    site.answer = b"HTTP/1.1 200 OK\r\n\r\n"
    await stage.until(lambda: stage.health() is Health.UP)
    assert caplog.messages[-1].startswith(f"{who} is up again, after 0.")
    assert caplog.messages[-1].endswith(" s: it answers 200")
    stage.checks.stop()
    status = stage.checks.status(0)
    assert status is not None and (status["changes"], status["failures"]) == (3, 3)


async def test_the_first_check_takes_a_new_server_out(caplog: pytest.LogCaptureFixture) -> None:
    stage = Stage()
    stage.checks.change(servers(backend(free_port(), free_port(), fall=50)), [])
    await stage.until(lambda: stage.health(0) is stage.health(1) is Health.DOWN)
    stage.checks.stop()
    assert stage.last()["reason"] == "connection refused"
    assert caplog.messages[0].endswith(" is down: connection refused")
    assert [message for message in caplog.messages if "no server" in message] == [
        "health: backend b has no server whose checks pass"
    ]


@pytest.mark.parametrize(
    ("init", "others", "expected"),
    [
        ("up", True, Health.UNKNOWN),
        ("check", False, Health.UNKNOWN),
        ("check", True, Health.DOWN),
        ("down", False, Health.DOWN),
    ],
)
async def test_before_the_first_check(init: str, others: bool, expected: Health) -> None:
    stage = Stage()
    known, new = servers(backend(free_port(), free_port(), init=init))
    if others:
        stage.table.control_set(Column.HEALTH, known.index, Health.UP)
    stage.checks.change([known, new], [])
    assert stage.health(new.index) is expected
    stage.checks.stop()


async def test_a_new_control_plane_goes_on(site: Site) -> None:
    site.answer = b"HTTP/1.1 500 No\r\n\r\n"
    stage = Stage()
    checked = servers(backend(site.port, fall=3, rise=3))
    stage.checks.change(checked, [])
    await stage.until(lambda: stage.health() is Health.DOWN)
    site.answer = b"HTTP/1.1 200 OK\r\n\r\n"
    kept = stage.kept
    async with asyncio.timeout(PATIENCE):
        while next(iter(kept.values()))["phase"] != [4, 2]:
            await site.next_check()
            await asyncio.sleep(0)
    stage.checks.stop()
    before = stage.checks.status(0)
    again = Stage(kept, stage.table)
    again.checks.change(checked, [])
    after = again.checks.status(0)
    assert before is not None and after is not None
    for key in ("phase", "row", "since", "reason"):
        assert after[key] == before[key]
    assert again.health() is Health.DOWN
    asked = site.asked
    await again.until(lambda: again.health() is Health.UP)
    assert site.asked == asked + 1  # the third in a row
    again.checks.stop()


async def test_what_was_kept_of_another_server_is_forgotten() -> None:
    kept = {"check b s1 127.0.0.1:1": {"phase": [1, 0], "since": 1.0, "reason": "x"}}
    stage = Stage(kept)  # the table knows nothing of this one
    stage.checks.change(servers(backend(1)), [])
    status = stage.checks.status(0)
    assert status is not None and (status["phase"], status["since"]) == ("unknown", None)
    stage.checks.stop()


async def test_servers_with_the_same_address_and_check_are_checked_together(site: Site) -> None:
    stage = Stage()
    for number, name in enumerate(("a", "b", "c")):
        interval = 600 if name == "c" else 60
        stage.checks.change(servers(backend(site.port, name=name, interval=interval), number), [])
    await stage.until(lambda: all(stage.health(index) is Health.UP for index in range(3)))
    assert site.asked == 2
    stage.checks.stop()


async def test_one_that_comes_later_has_the_state_of_those_that_share_its_check(site: Site) -> None:
    stage = Stage()
    stage.checks.change(servers(backend(site.port, name="a", interval=60)), [])
    await stage.until(lambda: stage.health() is Health.UP)
    stage.checks.change(servers(backend(site.port, name="b", interval=60), 1), [])
    assert stage.health(1) is Health.UP and site.asked == 1
    stage.checks.stop()


async def test_a_server_that_goes_is_checked_no_more(site: Site) -> None:
    stage = Stage()
    checked = servers(backend(site.port))
    stage.checks.change(checked, [])
    await site.next_check()
    stage.checks.change([], checked)
    assert stage.checks.status(0) is None
    assert list(stage.kept.values()) in ([], [None])
    asked = site.asked
    other = Site()
    await other.start()
    stage.checks.change(servers(backend(other.port)), [])
    await other.next_check(5)
    assert site.asked <= asked + 1  # one may have been under way
    stage.checks.stop()
    other.stop()


async def test_a_change_of_something_else_leaves_the_state(site: Site) -> None:
    stage = Stage()
    (one,) = servers(backend(site.port, interval=60))
    stage.checks.change([one], [])
    await stage.until(lambda: stage.health() is Health.UP)
    heavier = Server(one.backend, one.config.model_copy(update={"weight": 7}), one.index)
    stage.checks.change([heavier], [one])
    assert stage.health() is Health.UP and stage.last()["passed"] and site.asked == 1
    unchecked = Server(one.backend, one.config.model_copy(update={"check": False}), one.index)
    stage.checks.change([unchecked], [heavier])
    assert stage.health() is Health.UNKNOWN and stage.checks.status(0) is None


async def test_a_server_in_maintenance_is_not_checked(site: Site) -> None:
    stage = Stage()
    other = Site()
    await other.start()
    stage.table.supervisor_set(Column.ADMIN, 0, Admin.MAINTENANCE)
    stage.checks.change(servers(backend(site.port, other.port)), [])
    await other.next_check(5)
    assert site.asked == 0
    stage.table.supervisor_set(Column.ADMIN, 0, Admin.READY)
    await site.next_check()
    stage.checks.stop()
    other.stop()


async def test_an_agent_says_which_share_it_wants(site: Site) -> None:
    stage = Stage()
    site.answer = b"up 50%\n"
    stage.checks.change(
        servers(backend(site.port, path=None, type="agent", send="how are you?\r\n\r\n")), []
    )
    await stage.until(lambda: stage.health() is Health.UP)
    assert stage.table.weight(0, 10) == 5
    site.answer = b"drain\n"
    await stage.until(lambda: stage.table.weight(0, 10) == 0)
    assert stage.health() is Health.UP
    site.answer = b"ready\n"
    await stage.until(lambda: stage.table.weight(0, 10) == 10)
    site.answer = b"maint # new disk\n"
    await stage.until(lambda: stage.health() is Health.DOWN)
    status = stage.checks.status(0)
    assert status is not None and status["reason"] == "the agent says 'maint # new disk'"
    stage.checks.stop()


def test_no_more_checks_than_places_at_a_time() -> None:
    places = Places(2)
    started: list[int] = []
    for number in range(4):
        places.take(lambda number=number: started.append(number))  # type: ignore[misc]
    assert started == [0, 1]
    places.give()
    assert started == [0, 1, 2]
    for _ in range(3):
        places.give()
    assert started == [0, 1, 2, 3]
    places.take(lambda: started.append(4))
    assert started[-1] == 4
