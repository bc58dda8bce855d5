"""Sources asked in turn, and what the supervisor is told of it."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence
from typing import Any

import pytest

from pylb.config.model import Backend, Config, Discover, Frontend, Server
from pylb.control.discovery import Discovery, Watch, key_of
from pylb.control.names import Names
from pylb.control.orders import Orders
from pylb.control.sources.source import Source
from pylb.discover.found import Answer, Failed, Found
from pylb.net import messages

Said = Sequence[str] | Exception


class Scripted(Source):
    """Gives what it was told to, the last of it for ever."""

    def __init__(self, *answers: Said) -> None:
        self.answers = list(answers)
        self.event = asyncio.Event()
        self.closed = False

    async def look(self) -> Answer:
        said = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(said, Exception):
            raise said
        return Answer(tuple(map(Found, said)))

    async def changed(self) -> None:
        await self.event.wait()
        self.event.clear()

    async def close(self) -> None:
        self.closed = True


class Supervisor(Orders):
    """Its end of the channel: what it was told, by backend and source, and what it keeps."""

    def __init__(self) -> None:
        self.servers: dict[tuple[str, str], list[dict[str, Any]]] = {}
        self.kept: dict[str, Any] = {}
        self.messages = 0

    def send(self, message: dict[str, Any]) -> None:
        assert not messages.wrong(message, messages.TO_SUPERVISOR)
        self.messages += 1
        if message["op"] == "discovered":
            self.servers[message["backend"], message["source"]] = message["servers"]
        else:
            assert message["op"] == "keep"
            self.kept[message["key"]] = message["value"]

    def addresses(self, source: str = "dns") -> list[str]:
        return [server["address"] for server in self.servers["web", source]]


def section(**more: Any) -> Discover:
    return Discover.model_validate({"name": "dns", "dns": "app.internal:80", "weight": 5} | more)


def watch(source: Source, supervisor: Supervisor, kept: object = None, **more: Any) -> Watch:
    return Watch(section(**more), "web", source, supervisor, kept)


async def test_the_supervisor_is_told_of_changes_only_and_keeps_them() -> None:
    supervisor = Supervisor()
    one = watch(Scripted(["10.0.0.1:80"], ["10.0.0.1:80"], ["10.0.0.1:80", "10.0.0.2:80"]), supervisor)
    assert one.status()["answered"] is None
    await one.look()
    assert supervisor.servers["web", "dns"] == [
        {"name": "10.0.0.1:80", "address": "10.0.0.1:80", "weight": 5}
    ]
    before = supervisor.messages
    await one.look()
    assert supervisor.messages == before
    await one.look()
    assert supervisor.addresses() == ["10.0.0.1:80", "10.0.0.2:80"]
    after = Supervisor()
    again = watch(Scripted(Failed("it is down")), after, supervisor.kept[key_of("web", "dns")])
    task = asyncio.create_task(again.run())
    while not again.error:
        await asyncio.sleep(0)
    task.cancel()
    assert after.addresses() == ["10.0.0.1:80", "10.0.0.2:80"]
    assert again.status()["error"] == "it is down" and again.status()["failures"] == 1
    other = watch(
        Scripted(Failed("it is down")), Supervisor(), supervisor.kept[key_of("web", "dns")], dns="b:80"
    )
    assert not other.course.known  # what another name had


async def test_failures_and_doubted_answers_leave_the_servers(caplog: pytest.LogCaptureFixture) -> None:
    supervisor = Supervisor()
    three = ["10.0.0.1:80", "10.0.0.2:80", "10.0.0.3:80"]
    failures = (Failed("SERVFAIL"), Failed("SERVFAIL"), OSError(2, "No such file"), TimeoutError())
    one = watch(Scripted(three, *failures, ["10.0.0.4:80"], [], three, ["127.0.0.1:80"]), supervisor)
    with caplog.at_level(logging.INFO, "pylb"):
        for _ in range(9):
            await one.look()
            assert supervisor.addresses() == three
    text = caplog.text
    assert text.count("SERVFAIL; 3 servers stay") == 1  # said once
    for said in ("No such file", "no answer within 5 s", "would remove 3 of 3", "answers with no server"):
        assert said in text
    assert "127.0.0.1:80 is refused" in one.error
    assert one.failures == 5


async def test_a_first_answer_without_servers_is_said(caplog: pytest.LogCaptureFixture) -> None:
    supervisor = Supervisor()
    one = watch(Scripted(Failed("NXDOMAIN"), [], ["10.0.0.1:80"]), supervisor)
    await one.look()
    assert "NXDOMAIN; there is no server of it until it has one" in caplog.text
    await one.look()
    assert "it answers with no server" in caplog.text and supervisor.addresses() == []
    await one.look()
    assert supervisor.addresses() == ["10.0.0.1:80"]


async def test_it_looks_again_when_the_source_says_so_and_closes_it() -> None:
    supervisor = Supervisor()
    source = Scripted(["10.0.0.1:80"], ["10.0.0.1:80", "10.0.0.2:80"])
    one = watch(source, supervisor, interval=3600)
    task = asyncio.create_task(one.run())
    while not supervisor.servers:
        await asyncio.sleep(0)
    source.event.set()
    while len(supervisor.addresses()) < 2:
        await asyncio.sleep(0)
    assert 3590 < one.status()["next"] <= 3600
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert source.closed


def test_sources_of_a_configuration() -> None:
    config = Config(
        frontends=(Frontend.model_validate({"name": "f", "bind": "127.0.0.1:80", "backend": "web"}),),
        backends=(Backend(name="web", discover=(section(), Discover(file="/etc/servers"))),),
    )
    found = Discovery(config, {}, {}, Supervisor())
    assert [(one["backend"], one["source"], one["asks"]) for one in found.status()] == [
        ("web", "dns", "dns app.internal:80"), ("web", "file", "file /etc/servers"),
    ]  # fmt: skip
    assert [name for name, _ in found.parts()] == [
        "discovery by dns app.internal:80",
        "discovery by file /etc/servers",
    ]


async def test_a_name_that_can_not_be_resolved_is_said_and_when_it_can(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    servers = ("app.internal:80", "10.0.0.1:80", "unix:/run/x.sock", "[fd00::1]:80")
    backend = Backend(name="web", servers=tuple(Server.model_validate(one) for one in servers))
    config = Config(
        frontends=(Frontend.model_validate({"name": "f", "bind": "127.0.0.1:80", "backend": "web"}),),
        backends=(backend,),
    )
    one = Names(config)
    assert list(one.unresolved) == [("web", "s1")] and not one.status()
    known: list[str] = []

    async def getaddrinfo(host: str, *_: object, **__: object) -> list[str]:
        if host not in known:
            raise socket.gaierror(-2, "Name or service not known")
        return [host]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    with caplog.at_level(logging.INFO, "pylb"):
        await one.look()
        await one.look()
        assert (
            caplog.text.count("server web/s1: app.internal can't be resolved (Name or service not known)")
            == 1
        )
        assert [(entry["source"], entry["error"]) for entry in one.status()] == [
            ("server s1", "Name or service not known")
        ]
        known.append("app.internal")
        await one.look()
    assert "app.internal can be resolved now" in caplog.text
    assert not one.unresolved and not one.status()
