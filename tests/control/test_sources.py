"""Files, HTTP, Docker and functions as sources of servers."""

from __future__ import annotations

import asyncio
import json
import os
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiohttp import web

from pylb.config.model import Discover
from pylb.control.sources.docker import DockerSource
from pylb.control.sources.file import FileSource
from pylb.control.sources.function import FunctionSource
from pylb.control.sources.http import HttpSource
from pylb.control.sources.source import Access, Source
from pylb.discover.found import Failed

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def section(**keys: Any) -> Discover:
    return Discover.model_validate(keys)


async def addresses(one: Source) -> list[str]:
    return sorted(found.address for found in (await one.look()).servers)


@asynccontextmanager
async def serving(handler: Handler, place: str = "", tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    """The address of an HTTP server; ``place`` is the path of a unix socket."""
    app = web.Application()
    app.router.add_get("/{path:.*}", handler)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.UnixSite(runner, place) if place else web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    try:
        yield place or f"127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


# -- files -------------------------------------------------------------------------------------------


async def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    file = tmp_path / "servers"
    one = FileSource(section(file=str(file)))
    with pytest.raises(FileNotFoundError):
        await one.look()
    file.write_text("10.0.0.1:80\n")
    assert await addresses(one) == ["10.0.0.1:80"]
    first = await one.look()
    assert await one.look() is first  # it has not been read again
    new = tmp_path / "new"
    new.write_text('["10.0.0.2:80"]')
    os.replace(new, file)
    assert await addresses(one) == ["10.0.0.2:80"]


async def test_a_broken_file_is_refused_each_time(tmp_path: Path) -> None:
    file = tmp_path / "servers"
    file.write_text("10.0.0.1:80\nx y z\n")
    one = FileSource(section(file=str(file)))
    for _ in range(2):
        with pytest.raises(Failed, match="line 2"):
            await one.look()
    file.unlink()
    os.mkfifo(file)
    with pytest.raises(OSError, match="no regular file"):
        await one.look()


# -- HTTP --------------------------------------------------------------------------------------------


async def test_a_document_comes_once_until_it_changes() -> None:
    seen: list[tuple[int, str | None]] = []
    servers, status = ["10.0.0.1:80"], 200

    async def handler(request: web.Request) -> web.Response:
        assert request.headers["Authorization"] == "Bearer secret"
        assert request.headers["Accept-Encoding"] == "identity"
        tag = f'"{"+".join(servers)}"'
        code = 304 if request.headers.get("If-None-Match") == tag else status
        seen.append((code, request.headers.get("If-None-Match")))
        return web.Response(
            status=code, headers={"ETag": tag}, text=json.dumps(servers) if code == 200 else ""
        )

    async with serving(handler) as address:
        one = HttpSource(section(http=f"http://{address}/servers.json"), Access("secret"))
        try:
            assert await addresses(one) == ["10.0.0.1:80"]
            assert await addresses(one) == ["10.0.0.1:80"]
            servers = ["10.0.0.2:80"]
            assert await addresses(one) == ["10.0.0.2:80"]
            assert [code for code, _ in seen] == [200, 304, 200]
            status, servers = 500, []
            with pytest.raises(Failed, match="status 500"):
                await one.look()
            status, servers = 200, ["?"]
            with pytest.raises(Failed, match=r"\[0\]: '\?' is not"):
                await one.look()
            with pytest.raises(Failed, match=r"\[0\]"):  # and not: unchanged
                await one.look()
        finally:
            await one.close()


async def test_redirects_and_large_documents_are_refused() -> None:
    async def handler(request: web.Request) -> web.Response:
        if request.path == "/large":
            return web.Response(text="[" + " " * (2 << 20) + "]")
        raise web.HTTPFound("/large")

    async with serving(handler) as address:
        for path, said in (("large", "more than 1024 KiB"), ("moved", "status 302")):
            one = HttpSource(section(http=f"http://{address}/{path}"), Access())
            with pytest.raises(Failed, match=said):
                await one.look()
            await one.close()


async def test_a_certificate_is_verified() -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(text='["10.0.0.1:80"]')

    ca = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("localhost").configure_cert(context)
    trusted = ssl.create_default_context()
    ca.configure_trust(trusted)
    async with serving(handler, tls=context) as address:
        url = f"https://localhost:{address.rpartition(':')[2]}/"
        one = HttpSource(section(http=url), Access(tls=trusted))
        assert await addresses(one) == ["10.0.0.1:80"]
        await one.close()
        one = HttpSource(section(http=url), Access())
        with pytest.raises(Failed, match="certificate verify failed"):
            await one.look()
        await one.close()


# -- Docker ------------------------------------------------------------------------------------------


class Engine:
    """As much of Docker's engine as is asked."""

    def __init__(self) -> None:
        self.containers: list[dict[str, Any]] = []
        self.events: list[web.StreamResponse] = []
        self.asked: list[tuple[str, dict[str, list[str]]]] = []

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.asked.append((request.path, json.loads(request.query["filters"])))
        if request.path == "/containers/json":
            return web.json_response(self.containers)
        response = web.StreamResponse()
        await response.prepare(request)
        self.events.append(response)
        await asyncio.get_running_loop().create_future()
        return response

    def start(self, host: str, **labels: str) -> None:
        self.containers.append({
            "Names": [f"/c{len(self.containers)}"], "State": "running", "Status": "Up", "Ports": [],
            "Labels": {"pylb.backend": "web", "pylb.port": "80"} | labels,
            "NetworkSettings": {"Networks": {"bridge": {"IPAddress": host}}},
        })  # fmt: skip


async def test_containers_come_with_events(tmp_path: Path) -> None:
    engine = Engine()
    async with serving(engine.handle, str(tmp_path / "docker.sock")) as path:
        one = DockerSource(section(docker=f"unix:{path}"), "web")
        try:
            assert await addresses(one) == []
            assert [path for path, _ in engine.asked] == ["/events", "/containers/json"]
            assert engine.asked[1][1] == {"label": ["pylb.backend=web"], "status": ["running"]}
            engine.start("172.17.0.2")
            await engine.events[0].write(b'{"Action":"start"}\n')
            await one.changed()
            assert await addresses(one) == ["172.17.0.2:80"]
            assert len(engine.events) == 1
        finally:
            await one.close()
    with pytest.raises(Failed, match="docker.sock"):
        await one.look()  # the engine has stopped
    engine.events.clear()
    async with serving(engine.handle, str(tmp_path / "docker.sock")):
        assert await addresses(one) == ["172.17.0.2:80"]
        await one.close()


# -- functions ---------------------------------------------------------------------------------------

FLEET = """
import threading
calls, gate = [], threading.Event()
def plain():
    calls.append(threading.current_thread().name)
    return ["10.0.0.1:80", {"address": "10.0.0.2:80", "weight": 3}]
async def awaited():
    return {"servers": [{"host": "fd00::1", "port": 80}]}
async def generated():
    yield ["10.0.0.1:80"]
    yield ["10.0.0.2:80"]
    raise LookupError("registry is gone")
def broken():
    raise SystemExit("no")
def slow():
    calls.append("slow")
    gate.wait()
    return ["10.0.0.1:80"]
def wrong():
    return 3
"""


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (tmp_path / "discover_fleet.py").write_text(FLEET)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "discover_fleet", raising=False)
    import discover_fleet  # type: ignore[import-not-found]

    return discover_fleet


def function(name: str, **more: Any) -> FunctionSource:
    return FunctionSource(section(function=f"discover_fleet:{name}", **more))


async def test_functions_of_each_kind(fleet: Any) -> None:
    one = function("plain")
    answer = await one.look()
    assert [(found.address, found.weight) for found in answer.servers] == [
        ("10.0.0.1:80", None),
        ("10.0.0.2:80", 3),
    ]
    assert fleet.calls == ["discover_fleet:plain"]  # a thread of its own
    assert await addresses(function("awaited")) == ["[fd00::1]:80"]
    one = function("generated")
    assert await addresses(one) == ["10.0.0.1:80"]
    assert await addresses(one) == ["10.0.0.2:80"]
    with pytest.raises(Failed, match=r"registry is gone.*discover_fleet.py:\d+"):
        await one.look()
    assert await addresses(one) == ["10.0.0.1:80"]  # it is begun anew


async def test_whatever_a_function_raises_is_a_failure(fleet: Any) -> None:
    for name, said in (("broken", "SystemExit"), ("missing", "no attribute 'missing'"), ("wrong", "a list")):
        one = function(name)
        for _ in range(2):
            with pytest.raises(Failed, match=said):
                await one.look()


async def test_a_call_that_hangs_is_not_made_twice(fleet: Any) -> None:
    one = function("slow", timeout=0.01)
    for _ in range(3):
        with pytest.raises(Failed, match=r"has not returned within 0\.01 s"):
            await one.look()
    fleet.gate.set()
    patient = function("slow", timeout=50)
    assert await addresses(patient) == ["10.0.0.1:80"]
    assert fleet.calls == ["slow", "slow"]
