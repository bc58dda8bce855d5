"""The admin address: status, scaling and metrics over HTTP (aiohttp).

Below `main`, above `gate`. What it serves comes from callables; it knows neither scoreboard nor supervisor.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from pylb.control.gate import Asked, Gate

LARGEST_BODY = 65536
"""Bytes of a request's body."""

Pin = Callable[[int | None], Awaitable[tuple[int, str]]]
"""Asks the supervisor to pin the number of workers; gives the status and the sentence that says what was
done."""


def application(
    status: Callable[[], dict[str, Any]],
    pin: Pin,
    metrics: Callable[[], bytes],
    limits: tuple[int, int],
    gate: Gate,
    why: Callable[[str], dict[str, Any]] = lambda name: {"servers": []},
) -> web.Application:
    """The HTTP application; ``limits`` are the fewest and most workers that ``/scale`` takes."""
    least, most = limits

    @web.middleware
    async def guarded(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        fields = request.headers
        hosts = fields.getall("Host", [])
        refusal = gate.refusal(
            Asked(
                *(request.method, hosts[0] if len(hosts) == 1 else None, fields.get("Origin")),
                *(fields.get("Content-Type"), fields.get("Authorization")),
            )
        )
        if refusal is None:
            return await handler(request)
        code, reason = refusal
        answer = web.json_response({"error": reason}, status=code)
        if code == 401:
            answer.headers["WWW-Authenticate"] = "Bearer"
        return answer

    async def get_status(request: web.Request) -> web.Response:
        return web.json_response(status())

    async def get_metrics(request: web.Request) -> web.Response:
        return web.Response(
            body=metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def get_why(request: web.Request) -> web.Response:
        name = request.query.get("server", "")
        found = why(name)
        if not found["servers"]:
            return web.json_response({"error": f"no server {name!r}; write BACKEND/SERVER"}, status=404)
        return web.json_response(found)

    async def post_scale(request: web.Request) -> web.Response:
        body = await _json(request)
        count = body.get("n") if isinstance(body, dict) else None
        if count == "auto":
            code, said = await pin(None)
        elif type(count) is int and least <= count <= most:
            code, said = await pin(count)
        else:
            code = 400
            said = f"n must be 'auto' or a number from {least} to {most}, as workers.min and max say"
        return web.json_response({"message" if code < 400 else "error": said}, status=code)

    # Bodies aren't decompressed: no client needs that here, and a small body could become a large one.
    app = web.Application(
        client_max_size=LARGEST_BODY, middlewares=[guarded], handler_args={"auto_decompress": False}
    )
    app.router.add_get("/status", get_status)
    app.router.add_get("/metrics", get_metrics)
    app.router.add_get("/why", get_why)
    app.router.add_post("/scale", post_scale)
    return app


async def _json(request: web.Request) -> object:
    """The body read as JSON; None where it isn't JSON."""
    data = await request.read()
    try:
        return json.loads(data)
    except (ValueError, RecursionError):  # a wrong encoding, too many digits or brackets
        return None
