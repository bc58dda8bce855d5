"""An error of pylb's own costs the request in which it happens, and nothing else.

A worker on a real loop, with real sockets, plays scenes that lead through all of its modules. Every line of
them in which something is called raises once, each in a run of its own; then everything must be as it was.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import re
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trustme
import uvloop

from pylb.config.model import Timeouts
from pylb.scoreboard import Field, ServerField
from pylb.worker import process
from pylb.worker.listeners import Listener
from pylb.worker.server import connect
from tests.worker.faults.injector import Injector, Site
from tests.worker.faults.scenes import SCENES
from tests.worker.faults.servers import http1_server
from tests.worker.faults.stage import GET, LIMIT, Stage, get


async def _until(what: str, true: Callable[[], object]) -> None:
    try:
        async with asyncio.timeout(LIMIT):
            while not true():
                await asyncio.sleep(0.002)
    except TimeoutError:
        raise AssertionError(f"never {what}") from None


async def _play(
    folder: Path, scene: Callable[[Stage], Awaitable[None]], injector: Injector, patience: float
) -> None:
    loop = asyncio.get_running_loop()
    async with Stage(folder, loop, patience) as stage:
        worker = stage.worker
        core = worker.core
        try:
            async with asyncio.timeout(LIMIT):
                with injector():
                    await scene(stage)
                    if not stage.life.done():
                        stage.hang_up()
                        await _until("empty", lambda: not core.clients)
        except TimeoutError:
            raise AssertionError("a client waits for ever") from None
        if injector.at is None or injector.fired:
            # These must be answered, however busy the machine is.
            core.timeouts = Timeouts()
            for backend in worker.backends.values():
                backend.timeouts = core.timeouts
            async with asyncio.timeout(LIMIT):
                for bind in ("plain", "http2back", "proxied"):
                    first = b"PROXY UNKNOWN\r\n" if bind == "proxied" else b""
                    got = await stage.ask(bind, first + GET)
                    assert got.startswith(b"HTTP/1.1 200 "), f"another client got {got!r} on {bind}"
            stage.hang_up()
        assert not stage.life.done(), "the worker ended"
        await _until("no tunnels", lambda: not core.tunnels)
        await _until("no clients", lambda: not core.clients)
        worker.flush()
        assert worker.cells[Field.CONNECTIONS] == 0
        assert worker.cells[Field.IN_FLIGHT] == 0
        columns = [stage.board.server_column(ServerField.ACTIVE, number) for number in range(6)]
        assert [sum(column) for column in columns] == [0] * 6
        await _until(
            "rid of server connections",
            lambda: all(getattr(one, "exchange", None) is None for one in core.server_connections),
        )
        assert core.adopting == 0
        if injector.fired:
            assert core.counters[Field.INTERNAL] >= 1


def _run(
    folder: Path, scene: Callable[[Stage], Awaitable[None]], injector: Injector, patience: float = 0.25
) -> None:
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_play(folder, scene, injector, patience))


def _try(folder: Path, scene: Callable[[Stage], Awaitable[None]], site: Site) -> bool:
    """Raise at one line, and tell whether the scene came there; if not, once more with longer timeouts."""
    for patience in (0.05, 0.25):
        injector = Injector(site)
        _run(folder, scene, injector, patience)
        if injector.fired:
            return True
    return False


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    made = ca.issue_cert("localhost")
    made.private_key_and_cert_chain_pem.write_to_path(str(folder / "both.pem"))
    return folder


_tried: set[Site] = set()
"""Lines at which an error was raised; a later scene tries those again that one missed."""


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.__name__)
def test_an_error_anywhere_costs_its_own_request_only(
    scene: Callable[[Stage], Awaitable[None]],
    folder: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level(logging.CRITICAL)
    monkeypatch.setattr(process, "_TICK", 0.01)  # deadlines are looked at so often
    look = Injector()
    _run(folder, scene, look)
    assert look.visited
    wrong = []
    for site in look.visited:
        if site in _tried:
            continue
        try:
            if _try(folder, scene, site):
                _tried.add(site)
        except BaseException as error:
            _tried.add(site)
            wrong.append(f"{Path(site[0]).name}:{site[1]}: {error!r}")
    gc.collect()
    assert not wrong, "\n".join([f"{len(wrong)} of {len(look.visited)}:", *wrong])


def test_a_connect_that_raises_what_nobody_expects_is_answered_and_said_once(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a name to look for in the server's certificate did that can't be a name."""

    async def fails(*_: object) -> None:
        raise ValueError("label empty or too long")

    async def play() -> None:
        async with Stage(folder, asyncio.get_running_loop()) as stage:
            monkeypatch.setattr(connect, "_open", fails)
            for _ in range(5):
                assert (await stage.ask("plain", GET)).startswith(b"HTTP/1.1 500 ")
            monkeypatch.undo()
            assert (await stage.ask("plain", GET)).startswith(b"HTTP/1.1 200 ")
            stage.worker.flush()
            assert stage.worker.cells[Field.INTERNAL] == 5
            assert sum(stage.board.server_column(ServerField.ACTIVE, 0)) == 0

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(play())
    (said,) = [record for record in caplog.records if record.name == "pylb"]
    assert said.levelno == logging.ERROR and said.exc_info is not None
    assert "label empty or too long" in said.getMessage()


def test_a_factory_that_raises_does_not_stop_the_listener(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """libuv waits until what it has accepted is taken; after an error nobody would."""

    async def play() -> None:
        async with Stage(folder, asyncio.get_running_loop()) as stage:
            monkeypatch.setattr(Listener, "protocol", lambda listener: {}[listener])
            assert await stage.ask("plain", GET) == b""
            monkeypatch.undo()
            async with asyncio.timeout(50):
                assert (await stage.ask("plain", GET)).startswith(b"HTTP/1.1 200 ")

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(play())


def test_a_connect_without_descriptors_is_nobodys_error_and_pauses_accepting(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def none_left(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    async def play() -> None:
        async with Stage(folder, asyncio.get_running_loop()) as stage:
            worker = stage.worker
            monkeypatch.setattr(connect, "_open", none_left)
            for _ in range(2):
                assert (await stage.ask("plain", GET)).startswith(b"HTTP/1.1 503 ")
                await _until("accepting again", lambda: worker.listeners._accepting)
            monkeypatch.undo()
            assert (await stage.ask("plain", GET)).startswith(b"HTTP/1.1 200 ")
            worker.flush()
            assert worker.cells[Field.PAUSES] == 2
            assert sum(stage.board.server_column(ServerField.ERRORS, 0)) == 0

    caplog.set_level(logging.INFO)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(play())
    said = [record.getMessage() for record in caplog.records if record.name == "pylb"]
    assert said[0] == "out of descriptors: Too many open files"
    assert len(said) == 3 and said[1].startswith("accepting is paused: ")
    assert said[2].startswith("accepting goes on after ")


def test_a_server_that_fails_is_named_once_and_again_when_it_works(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def play() -> None:
        async with Stage(folder, asyncio.get_running_loop()) as stage:
            for _ in range(3):
                assert (await stage.ask("down", GET)).startswith(b"HTTP/1.1 503 ")
            server = await asyncio.start_server(http1_server, sock=stage.closed)
            assert (await stage.ask("down", GET)).startswith(b"HTTP/1.1 200 ")
            for path in ("/junk", "/drop", "/never"):
                await stage.ask("plain", get(path))
            server.close()
            for level, text in stage.worker.core.repeats.due(stage.worker.core.now + 20):
                logging.getLogger("pylb").log(level, text)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(play())
    said = "\n".join(
        f"{record.levelname} {record.getMessage()}" for record in caplog.records if record.name == "pylb"
    )
    said = re.sub(r"127\.0\.0\.1:\d+", "ADDRESS", said)
    for name in "ab":
        assert said.count(f"WARNING server down/{name} at ADDRESS: connection refused\n") == 1
    assert len(re.findall(r"server down/[ab] at ADDRESS: connection refused \(5 more in ", said)) == 1
    assert said.count("can be connected to again, after 6 failures") == 1
    for line in (
        "WARNING server http1/s1 at ADDRESS: bad response: ",
        "WARNING server http1/s1 at ADDRESS: closed the connection before its response was whole",
        "WARNING server http1/s1 at ADDRESS: no answer in time (timeouts.server)",
    ):
        assert said.count(line) == 1, f"{line}\n{said}"
