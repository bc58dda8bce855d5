"""The admin address: status, scaling and metrics over HTTP (aiohttp)."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from aiohttp import web


def application(
    status: Callable[[], dict[str, Any]],
    pin: Callable[[int | None], None],
    metrics: Callable[[], bytes],
    limits: tuple[int, int],
) -> web.Application:
    """The HTTP application; ``limits`` are the fewest and most workers that ``/scale`` takes."""
    least, most = limits

    async def get_status(request: web.Request) -> web.Response:
        return web.json_response(status())

    async def get_metrics(request: web.Request) -> web.Response:
        return web.Response(
            body=metrics(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def post_scale(request: web.Request) -> web.Response:
        try:
            body = await request.json()
        except (json.JSONDecodeError, UnicodeDecodeError):
            body = None
        count = body.get("n") if isinstance(body, dict) else None
        if count == "auto":
            pin(None)
            return web.json_response({"message": "the number of workers follows the idle cores again"})
        if type(count) is int and least <= count <= most:
            pin(count)
            return web.json_response({"message": f"pinned to {count} workers until 'scale auto'"})
        error = f"n must be 'auto' or a number from {least} to {most}, as workers.min and max say"
        return web.json_response({"error": error}, status=400)

    app = web.Application(client_max_size=65536)
    app.router.add_get("/status", get_status)
    app.router.add_get("/metrics", get_metrics)
    app.router.add_post("/scale", post_scale)
    return app
