"""Files and JSON documents that list servers. Above `fitness`.

A list has a server per line, as on the command line (``10.0.0.1:80,weight=2``). A JSON document is a list, or
an object with ``servers``, of texts like these lines, of objects with ``address`` (or ``host`` and ``port``),
``weight`` and ``backup``, or of Prometheus's groups of ``targets``. Other keys mean nothing here. A document
with a mistake is refused as a whole, since it may have been written by half.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from pylb.discover.fitness import address_of, checked
from pylb.discover.found import LARGEST_WEIGHT, Failed, Found


def lines_or_json(data: bytes, port: int | None) -> tuple[Found, ...]:
    """The servers of a file; raises `Failed`."""
    if data.lstrip()[:1] in (b"[", b"{"):
        return of_json(data, port)
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise Failed("it is not UTF-8") from None
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        line = line.partition("#")[0].strip()
        if line:
            try:
                found.append(_of_text(line, port))
            except ValueError as error:
                raise Failed(f"line {number}: {error}") from None
    return tuple(found)


def of_json(data: bytes, port: int | None) -> tuple[Found, ...]:
    """The servers of a JSON document; raises `Failed`."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise Failed(f"it is not JSON: {error}") from None
    return of_value(value, port)


def of_value(value: object, port: int | None) -> tuple[Found, ...]:
    """The servers of a parsed document, or of what a function gave; raises `Failed`."""
    if isinstance(value, dict):
        value = value.get("servers")
    if not isinstance(value, list | tuple):
        raise Failed('expected a list of servers, or an object with "servers"')
    found: list[Found] = []
    for position, entry in enumerate(value):
        try:
            found += _of_entry(entry, port)
        except ValueError as error:
            raise Failed(f"[{position}]: {error}") from None
    return tuple(found)


def _of_entry(entry: Any, port: int | None) -> Iterator[Found]:
    if isinstance(entry, Found):
        entry = {"address": entry.address, "weight": entry.weight, "backup": entry.backup}
    if isinstance(entry, str):
        yield _of_text(entry, port)
    elif not isinstance(entry, dict):
        raise ValueError("expected an address, or an object")
    elif "targets" in entry:
        targets = entry["targets"]
        if not isinstance(targets, list) or not all(isinstance(one, str) for one in targets):
            raise ValueError("targets is a list of addresses")
        for target in targets:
            yield Found(checked(target, port))
    else:
        yield Found(_address(entry, port), weight(entry.get("weight")), _truth(entry.get("backup")))


def _address(entry: dict[Any, Any], port: int | None) -> str:
    address, host, own = entry.get("address"), entry.get("host"), entry.get("port", port)
    if own is not None and type(own) is not int:
        raise ValueError("port is a number from 1 to 65535")
    if isinstance(address, str):
        return checked(address, own)
    if isinstance(host, str):
        return address_of(host, own)
    raise ValueError("address is missing")


def _of_text(text: str, port: int | None) -> Found:
    address, *settings = (part.strip() for part in text.replace(" ", ",").split(",") if part.strip())
    given: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if key == "weight" and equals and value.isascii() and value.isdigit() and len(value) < 9:
            given["weight"] = weight(int(value))
        elif key == "backup" and value in ("", "true", "false"):
            given["backup"] = value != "false"
        else:
            raise ValueError(f"expected weight=N or backup after the address, not {setting!r:.80}")
    return Found(checked(address, port), **given)


def weight(value: object) -> int | None:
    """A server's weight, None for none; raises ValueError."""
    if value is None:
        return None
    if type(value) is not int or not 0 <= value <= LARGEST_WEIGHT:
        raise ValueError(f"weight is a number from 0 to {LARGEST_WEIGHT}")
    return value


def _truth(value: object) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise ValueError("backup is true or false")
    return value
