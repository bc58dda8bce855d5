"""The admin address's part about servers: what is running, and changes of it.

Below `main`, beside `admin`. What a change may say the supervisor decides, which carries it out; here it is
only passed on. No change can name a file, code or anything of TLS.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from pylb.config.backend import Server as ServerConfig
from pylb.control.servers import Server, Servers
from pylb.net.serverlists import PLAIN
from pylb.servers import Admin, Column, Forced

Ask = Callable[[dict[str, Any]], Awaitable[tuple[int, str]]]
"""Has the supervisor carry out an order; gives an HTTP status and a sentence."""


def keys_of(server: ServerConfig) -> dict[str, Any]:
    """A server as its keys in a file, those with a default left out."""
    found = {key: getattr(server, key) for key in PLAIN & server.model_fields_set}
    return found | {
        "name": server.name,
        "address": str(server.address),
        "weight": server.weight,
        "state": server.state,
    }


def running(servers: Servers, server: Server) -> dict[str, Any]:
    """A server as it runs: its keys with the operator's changes, and what no key of a file says."""
    table, index = servers.table, server.index
    keys = keys_of(server.config)
    keys["weight"] = weight if (weight := table.get(Column.WEIGHT, index)) >= 0 else keys["weight"]
    if (maxconn := table.get(Column.MAXCONN, index)) >= 0:
        keys["maxconn"] = maxconn
    keys["state"] = Admin(table.get(Column.ADMIN, index)).name.lower()
    forced = {Forced.UP: "off", Forced.DOWN: "down"}.get(Forced(table.get(Column.FORCED, index)), "on")
    return keys | {"backend": server.backend.name, "source": server.source, "health": forced}


def add_routes(app: web.Application, servers: Servers, file: str | None, ask: Ask) -> None:
    """Serve ``/servers``."""

    async def get_servers(request: web.Request) -> web.Response:
        loaded = [
            keys_of(one) | {"backend": backend.name}
            for backend in servers.backends.values()
            for one in backend.servers
        ]
        now = [running(servers, one) for one in servers]
        return web.json_response(
            {"message": f"{len(now)} servers", "file": file, "loaded": loaded, "servers": now}
        )

    async def change(request: web.Request) -> web.Response:
        backend, name = request.match_info["backend"], request.match_info.get("name", "")
        try:
            body = json.loads(await request.read() or b"{}")
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            return web.json_response({"error": "expected a JSON object"}, status=400)
        if request.method == "DELETE":
            body = {"remove": True}
        elif not name:
            body = {"add": body}
        status, said = await ask({"op": "change", "backend": backend, "server": name, "what": body})
        return web.json_response({"message" if status < 400 else "error": said}, status=status)

    app.router.add_get("/servers", get_servers)
    app.router.add_post("/servers/{backend}", change)
    app.router.add_post("/servers/{backend}/{name}", change)
    app.router.add_delete("/servers/{backend}/{name}", change)
