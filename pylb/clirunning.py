"""The commands that change a running balancer's servers: ``server`` and ``runtime``.

Above `cli`, to which they are added. They ask the admin address, and ``runtime save`` alone writes a file:
with the rights of who calls it, never with those of the balancer.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

from pylb.cli import TokenOption, app, ask, fail, takes

ACTIONS = {
    "drain": "no new clients; those that stick to it stay",
    "ready": "as usual again",
    "maintenance": "nothing goes to it",
    "weight": "weight N",
    "maxconn": "maxconn N",
    "address": "address HOST:PORT",
    "health": "health on|off|down",
    "add": "BACKEND add HOST:PORT [--name NAME] [--weight N] …",
    "remove": "what it has under way is answered",
    "restore": "as the configuration says",
}


@app.command()
@takes("admin")
def server(
    target: Annotated[str, typer.Argument(metavar="BACKEND[/SERVER]", help="web/s3; of add: web.")],
    action: Annotated[
        str | None, typer.Argument(metavar="ACTION", help="One of " + ", ".join(ACTIONS) + ".")
    ] = None,
    value: Annotated[str | None, typer.Argument(metavar="VALUE", help="Of weight, address, …")] = None,
    name: Annotated[str | None, typer.Option("--name", metavar="NAME", help="Of a server to add.")] = None,
    weight: Annotated[int | None, typer.Option("--weight", metavar="N", help="Of a server to add.")] = None,
    backup: Annotated[bool, typer.Option("--backup", help="Add it as a backup server.")] = False,
    token_file: TokenOption = None,
    *,
    admin: str | None,
) -> None:
    """Show a server, or change it while pylb runs: drain, ready, maintenance, weight, add, remove, …"""
    backend, _, one = target.partition("/")
    place = f"/servers/{quote(backend, safe='')}"
    if action is None:
        _show(ask(admin, token_file, "GET", "/servers"), backend, one)
        return
    if action not in ACTIONS:
        known = "\n".join(f"  {key:12} {text}" for key, text in ACTIONS.items())
        fail(f"server has no action {action!r:.40}; there are\n{known}")
    if action == "add":
        if one or value is None:
            fail("add is written: pylb server BACKEND add HOST:PORT [--name NAME] [--weight N]")
        given = {"address": value, "name": name, "weight": weight, "backup": backup or None}
        body: dict[str, Any] = {key: it for key, it in given.items() if it is not None}
        print(ask(admin, token_file, "POST", place, body)["message"])
        return
    if not one:
        fail(f"say which server: {backend}/NAME {action}")
    place += f"/{quote(one, safe='')}"
    if action == "remove":
        print(ask(admin, token_file, "DELETE", place, {})["message"])
        return
    if action == "restore":
        body = {"restore": True}
    elif action in ("drain", "ready", "maintenance"):
        body = {"state": action}
    elif value is None:
        fail(f"{action} needs a value: {ACTIONS[action]}")
    elif action in ("weight", "maxconn"):
        if not (value.isascii() and value.isdigit() and len(value) < 10):
            fail(f"{action} is a number (got {value!r:.40})")
        body = {action: int(value)}
    else:
        body = {action: value}
    print(ask(admin, token_file, "POST", place, body)["message"])


def _show(answer: dict[str, Any], backend: str, name: str) -> None:
    found = [one for one in answer["servers"] if one["backend"] == backend and name in ("", one["name"])]
    if not found:
        backends = ", ".join(sorted({one["backend"] for one in answer["servers"]}))
        fail(f"there is no server {backend}/{name}; backends with servers are {backends}")
    for one in found:
        keys = ("weight", "state", "maxconn", "health", "source")
        more = " ".join(f"{key}={one[key]}" for key in keys if one.get(key) not in (None, ""))
        print(f"{one['backend']}/{one['name']} {one['address']} {more}")


runtime = typer.Typer(
    help="What differs between a running balancer's servers and its file.", no_args_is_help=True
)
app.add_typer(runtime, name="runtime")

FileOption = Annotated[
    Path | None,
    typer.Option("-c", "--config", metavar="FILE", help="The file, if it is elsewhere than pylb says."),
]


@runtime.command()
@takes("admin")
def diff(config: FileOption = None, token_file: TokenOption = None, *, admin: str | None) -> None:
    """Show which servers run otherwise than the file says; the exit code is 1 where any does."""
    _, found, others, _ = _compared(config, ask(admin, token_file, "GET", "/servers"))
    for one in found:
        print("\n".join(one.lines()))
    for line in others:
        print(line)
    raise typer.Exit(1 if found or others else 0)


@runtime.command()
@takes("admin")
def save(config: FileOption = None, token_file: TokenOption = None, *, admin: str | None) -> None:
    """Write the changes of servers into the file, whose comments stay."""
    from pylb.config.saving import Unsaveable, saved

    files, found, others, loaded = _compared(config, ask(admin, token_file, "GET", "/servers"))
    for line in others:
        print(f"{line} (not saved: no key of the file says so)")
    if not found:
        print("nothing to save: the file says what runs")
        return
    for one in found:
        if one.before not in (one.after, loaded.get((one.backend, one.server))):
            fail(
                f"the file has changed since pylb has loaded it: {'; '.join(one.lines())}; "
                "reload pylb, then save again"
            )
    left = found
    texts: dict[str, tuple[bytes, str]] = {}
    for name in files:
        try:
            before = Path(name).read_bytes()
            text, still = saved(before.decode(), left)
        except (OSError, UnicodeDecodeError, Unsaveable) as error:
            fail(f"{name}: {error}")
        if still != left:
            texts[name] = before, text
        left = still
    if left:
        names = ", ".join(dict.fromkeys(one.backend for one in left))
        fail(f"no file names the backends {names} as such; change their servers by hand")
    for name, (before, text) in texts.items():
        try:
            _replace(name, before, text.encode())
        except OSError as error:
            fail(f"{name}: {error.strerror or error}")
        print(f"{name} written")
    print(f"{len(found)} servers saved; the next reload takes them over")


def _compared(
    config: Path | None, answer: dict[str, Any]
) -> tuple[list[str], list[Any], list[str], dict[tuple[str, str], Any]]:
    """The files; what differs in them from what runs; what a file can't say; what pylb has loaded."""
    from pylb.config.load import ConfigError, from_document, read_source
    from pylb.config.saving import differences
    from pylb.control.operate import keys_of

    path = str(config) if config is not None else answer["file"]
    if path is None:
        fail("pylb was started without a configuration file; there is nothing to compare with")
    try:
        source = read_source(path)
        configuration = from_document(source.document)
    except ConfigError as error:
        fail("; ".join(error.located))
    except OSError as error:
        fail(f"{path}: {error.strerror or error} (-c FILE)")
    file = [(one.name, keys_of(server)) for one in configuration.backends for server in one.servers]
    fixed = [one for one in answer["servers"] if one["source"] in ("", "added")]
    now = [(one["backend"], _keys(one)) for one in fixed]
    loaded = {(one["backend"], one["name"]): _keys(one) for one in answer["loaded"]}
    others = [
        f"! {one['backend']}/{one['name']} health: {one['health']}"
        for one in answer["servers"]
        if one["health"] != "on"
    ]
    return source.places.files, differences(file, now), others, loaded


def _keys(one: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in one.items() if key not in ("backend", "source", "health")}


def _replace(name: str, before: bytes, after: bytes) -> None:
    """Put a file in the place of another one, with its mode and, where that is allowed, its owner.

    Raises:
        OSError: it can't be written, or is another one than it was a moment ago.
    """
    real = os.path.realpath(name)
    number, temporary = tempfile.mkstemp(prefix=".pylb-save-", dir=os.path.dirname(real))
    try:
        with open(number, "wb") as file:
            about = os.stat(real)
            with contextlib.suppress(PermissionError):
                os.fchown(number, about.st_uid, about.st_gid)
            os.fchmod(number, stat.S_IMODE(about.st_mode))
            file.write(after)
            file.flush()
            os.fsync(number)
        if Path(real).read_bytes() != before:
            raise OSError("somebody else has just changed it; save again")
        os.rename(temporary, real)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
