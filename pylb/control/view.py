"""The operator's end of the admin address: asking, and showing the answer on a terminal.

Only the command line uses it; of a running balancer it knows what ``/status`` answers.
"""

from __future__ import annotations

import http.client
import json
import socket
import time
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pylb.config.address import Address
from pylb.net.adminsocket import aside_of

_MOST_FAILING = 10


class AdminError(Exception):
    """The balancer answered with an error."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def fetch(
    address: Address,
    method: str,
    path: str,
    body: object = None,
    timeout: float = 5,
    token: str | None = None,
) -> dict[str, Any]:
    """Ask the admin address for JSON.

    Where there is no unix socket, the one is asked that a draining instance has moved away from there.

    Raises:
        OSError: nobody answers there.
        AdminError: the answer is an error.
    """
    fields = {} if body is None else {"Content-Type": "application/json"}
    if token is not None:
        fields["Authorization"] = f"Bearer {token}"
    try:
        response, text = _ask(address, method, path, body, timeout, fields)
    except FileNotFoundError:
        aside = aside_of(address.path) if address.is_unix else []
        if not aside:
            raise
        response, text = _ask(Address("", 0, aside[-1]), method, path, body, timeout, fields)
    try:
        answer = json.loads(text)
    except ValueError:
        raise AdminError(f"{address}: {response.status} {response.reason}") from None
    if not isinstance(answer, dict) or response.status < 400 and not answer.keys() & {"workers", "message"}:
        raise AdminError(f"what answers at {address} is not pylb's admin address")
    if response.status >= 400:
        raise AdminError(str(answer.get("error", response.reason)))
    return answer


def _ask(
    address: Address, method: str, path: str, body: object, timeout: float, fields: dict[str, str]
) -> tuple[http.client.HTTPResponse, bytes]:
    connection = (
        _UnixConnection(address.path, timeout)
        if address.is_unix
        else http.client.HTTPConnection(address.host, address.port, timeout=timeout)
    )
    try:
        connection.request(method, path, None if body is None else json.dumps(body), fields)
        response = connection.getresponse()
        return response, response.read()
    except http.client.HTTPException as error:
        raise OSError(f"no HTTP answer: {error}") from None
    finally:
        connection.close()


def serving(status: dict[str, Any]) -> bool:
    """Whether any worker serves."""
    return any(worker["state"] == "serving" for worker in status["workers"])


def _bar(share: float, width: int = 6) -> Text:
    full = round(share * width)
    colour = "red" if share > 0.9 else "yellow" if share > 0.6 else "green"
    return Text("█" * full + "░" * (width - full) + f" {share:4.0%}", style=colour)


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def _table(title: str, *columns: str, numbers: frozenset[str]) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", no_wrap=True)
    return table


def _sources(sources: list[dict[str, Any]]) -> Table:
    """Where servers are looked for."""
    table = _table(
        "Discovery",
        *("backend", "source", "asks", "servers", "answered", "next", "last error"),
        numbers=frozenset({"servers"}),
    )
    for one in sources:
        answered = "never" if one["answered"] is None else f"{_duration(one['answered'])} ago"
        error = one["error"] or ("its answer is asked for again" if one["doubted"] else "")
        table.add_row(
            *(Text(one[key]) for key in ("backend", "source", "asks")),
            *(f"{one['servers']:,}", answered, f"in {_duration(one['next'])}", Text(error, "yellow")),
        )
    table.columns[-1].no_wrap = False
    return table


def _failing(servers: list[dict[str, Any]]) -> Text:
    """A line for each server whose last health check has failed, up to `_MOST_FAILING`."""
    text = Text()
    failing = [(one, one["check"]) for one in servers if one.get("check") and one["check"]["last"]]
    failing = [(one, check) for one, check in failing if not check["last"]["passed"]]
    for server, check in failing[:_MOST_FAILING]:
        reason, since = check["last"]["reason"], check["since"]
        how = f"{check['phase']} for {_duration(time.time() - since)}" if since else check["phase"]
        text.append(f"{server['backend']}/{server['name']}, {how}: {reason}\n", "red")
    if len(failing) > _MOST_FAILING:
        text.append(f"… and {len(failing) - _MOST_FAILING} further servers whose checks fail\n", "red")
    return text


def render(status: dict[str, Any]) -> RenderableType:
    """``/status`` as tables."""
    scaling = status["scaling"]
    colour = "yellow" if scaling["pinned"] is not None else "default"
    connected = Text.assemble(f"{scaling['controller']}, ", ("connected", "green"))
    if not scaling["controller_connected"]:
        problem = scaling["controller_problem"] or "no answer yet"
        connected = Text.assemble(f"{scaling['controller']}, ", (f"not connected: {problem}", "red"))
    # Text, not markup: names and reasons may hold brackets.
    head = Table.grid(padding=(0, 2, 0, 0))
    head.add_row(
        Text(f"pylb {status['version']}", "bold"),
        f"up {_duration(status['uptime'])}, generation {status['generation']}",
    )
    head.add_row(
        "workers",
        Text.assemble(
            (str(scaling["target"]), "bold"),
            f" of {scaling['min']}..{scaling['max']}: ",
            (scaling["reason"], colour),
        ),
    )
    head.add_row("controller", connected)
    head.add_row("grant", Text(scaling["grant_reason"]))
    workers = _table(
        "Workers",
        *("slot", "pid", "state", "connections", "tunnels", "active", "requests", "busy"),
        numbers=frozenset({"slot", "pid", "connections", "tunnels", "active", "requests"}),
    )
    for worker in status["workers"]:
        workers.add_row(
            str(worker["slot"]),
            str(worker["pid"]),
            worker["state"],
            f"{worker['connections']:,}",
            f"{worker['tunnels']:,}",
            f"{worker['in_flight']:,}",
            f"{worker['requests']:,}",
            _bar(worker["busy"]),
        )
    servers = _table(
        "Servers",
        *("backend", "server", "address", "state", "active", "requests", "errors"),
        numbers=frozenset({"active", "requests", "errors"}),
    )
    for server in status["servers"]:
        servers.add_row(
            *(Text(server[key]) for key in ("backend", "name", "address", "state")),
            f"{server['active']:,}",
            f"{server['requests']:,}",
            f"{server['errors']:,}",
        )
    queues = _table(
        "Queues",
        *("backend", "waiting", "queued", "on average", "too late", "no room"),
        numbers=frozenset({"waiting", "queued", "on average", "too late", "no room"}),
    )
    for queue in status.get("queues", ()):
        served = queue["queued"] - queue["waiting"] - queue["late"]
        average = f"{1000 * queue['waited_s'] / served:,.0f} ms" if served > 0 else ""
        counts = (f"{queue[key]:,}" for key in ("late", "full"))
        queues.add_row(
            Text(queue["backend"]), f"{queue['waiting']:,}", f"{queue['queued']:,}", average, *counts
        )
    failing = _failing(status["servers"])
    totals = status["totals"]
    troubles = Text("", "yellow")
    for backend in status.get("backends", ()):
        if backend["panic"] or backend["short"]:
            of = f"{backend['usable']} of {backend['servers']} servers are usable"
            least = f"; at least {backend['min_servers']} should be" if backend["short"] else ""
            panic = "; all are used (panic)" if backend["panic"] else ""
            troubles.append(f"\nbackend {backend['name']}: {of}{least}{panic}")
    foot = Text(
        f"{totals['requests']:,} requests: {totals['status_2xx']:,} 2xx, {totals['status_3xx']:,} 3xx, "
        f"{totals['status_4xx']:,} 4xx, {totals['status_5xx']:,} 5xx; {totals['retries']:,} retries, "
        f"{totals['handed_over']:,} connections handed over"
    )
    if lost := status.get("log_lost"):
        foot.append(f"\n{lost:,} lines of the log were dropped, as nobody read it", "yellow")
    if lost := totals.get("access_lost"):
        foot.append(f"\n{lost:,} lines of the access log are missing", "yellow")
    python = status.get("python")
    if python and not python["optimised"]:
        foot.append(
            f"\nPython {python['version']} ({python['words']}) makes requests dearer than an optimised build "
            "does: see docs/python.md",
            "yellow",
        )
    foot.append_text(troubles)
    discovery: list[RenderableType] = [_sources(status["discovery"]), ""] if status.get("discovery") else []
    waiting = (queues, "") if queues.row_count else ()
    return Group(head, "", workers, "", servers, failing, *waiting, *discovery, foot)
