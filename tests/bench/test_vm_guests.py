"""How guests are steered, and what is made of what was measured in them; no guest is needed for that."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bench.vm import accuracy, image, libvirtd, serial
from bench.vm.calls import Agent, GuestError, Qmp

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


def line(**fields: Any) -> bytes:
    return json.dumps(fields).encode() + b"\n"


async def qmp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """QEMU's monitor: greets, tells of events in between, refuses what it doesn't know, ends at "quit"."""
    writer.write(line(QMP={"version": {}, "capabilities": []}))
    while asked := await reader.readline():
        request = json.loads(asked)
        writer.write(line(event="STOP"))
        if request["execute"] == "quit":
            break
        if request["execute"] == "nonsense":
            writer.write(line(error={"class": "CommandNotFound", "desc": "not found"}, id=request["id"]))
        else:
            writer.write(line(**{"return": request}))
            writer.write(line(**{"return": request.get("arguments", {}), "id": request["id"]}))
    writer.close()


async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An agent in whose port the answer to somebody before lies, and half a line of it."""
    writer.write(line(**{"return": 1}) + b'{"return": {"pi')
    while asked := await reader.readline():
        request = json.loads(asked.lstrip(b"\xff"))
        if request["execute"] == "guest-sync-delimited":
            writer.write(b"\xff" + line(**{"return": 4711}))  # somebody's before
            writer.write(b"\xff" + line(**{"return": request["arguments"]["id"]}))
        else:
            writer.write(line(**{"return": request["execute"], "id": request["id"]}))
    writer.close()


async def test_calls_of_the_monitor(tmp_path: Path) -> None:
    async with await asyncio.start_unix_server(qmp, tmp_path / "qmp"):
        calls = Qmp(tmp_path / "qmp")
        assert await calls.call("device_add", {"id": "cpu-1"}) == {"id": "cpu-1"}
        with pytest.raises(GuestError, match="nonsense: not found"):
            await calls.call("nonsense", {})
        with pytest.raises(ConnectionError):
            await calls.call("quit", {})
        assert await calls.call("cont", {}) == {}  # connects anew
        calls.close()


async def test_calls_of_the_agent_pass_over_what_lies_in_the_port(tmp_path: Path) -> None:
    async with await asyncio.start_unix_server(agent, tmp_path / "agent"):
        calls = Agent(tmp_path / "agent")
        assert await calls.call("guest-ping", {}) == "guest-ping"
        calls.close()
    with pytest.raises(OSError):
        await Agent(tmp_path / "none").call("guest-ping", {})


def test_errors_are_of_the_turns_medians() -> None:
    cases = [accuracy.Case(0.5, 2, True, 0.4, needs, 1.0) for needs in (0.9, 1.2, 9.0)]
    idle, starved = rows = accuracy.summary([*cases, accuracy.Case(0.25, 1, False, 0.25, 0.3, 1.0)])
    assert (starved["truth"], starved["needs"]) == (1.0, {"median": 1.2, "min": 0.9, "max": 9.0})
    assert starved["error"] == pytest.approx(0.2)
    assert starved["error_of_ran"] == pytest.approx(0.6)
    assert idle["error"] == pytest.approx(0.05)
    tick = {"cpu": 1.0, "cpu_p99": 2.0, "wall": 3.0, "wall_p99": 4.0}
    found = {"cases": rows, "tick": tick, "accelerator": "tcg", "turns": 3, "cores": 2, "machine": {}}
    found["load"] = 0.5
    text = "\n".join(accuracy.page(found))
    assert "Mean error in 2 cases: **0.12 cores** (limit 0.1); by what the neighbour runs" in text
    assert "would be 0.30" in text
    assert "median 1.00 ms of CPU, 99 % 2.00 ms (limit 2 ms); by the clock 3.00 and 4.00 ms" in text


def test_pages() -> None:
    times = serial.together([(1.0, 0.1), (2.0, 0.3), (6.0, 0.2)])
    found: dict[str, Any] = {
        "machine": {}, "accelerator": "tcg", "load": 0.5, "turns": 3, "connections_without_balancer": 0,
        "echo": {"median": 0.3, "p99": 4.5}, "hello": {"median": 20, "p99": 30},
        "troubles": dict.fromkeys(serial.TROUBLES, times),
    }  # fmt: skip
    lines = serial.page(found)
    assert any("| a line of 150 bytes and the same back | 0.30 ms | 4.50 ms |" in line for line in lines)
    assert "| machine reset | 0.20 s | 0.30 s | pylb's first answer | 2.00 s |" in lines
    rows = [{"what": "pins", "seen": "[0]", "good": False}]
    assert "| pins | [0] | no |" in libvirtd.page({"machine": {}, "accelerator": "tcg", "rows": rows})


def test_why_guests_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.vm.image.os.geteuid", lambda: 1000)
    assert "need root" in image.missing()
    monkeypatch.setattr("bench.vm.image.os.geteuid", lambda: 0)
    monkeypatch.setattr("bench.vm.image.shutil.which", lambda tool: None if "qemu" in tool else tool)
    assert "apt-get install qemu-system-x86" in image.missing()
    with pytest.raises(RuntimeError, match="qemu-system-x86"):
        image.image()
