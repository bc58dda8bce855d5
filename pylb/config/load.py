"""From what users write (a TOML file, or the quick form's flags) to the model.

Every mistake is reported, each as one line that names the key as it stands in the file.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import re
import tomllib
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from pylb.config.address import Address, parse_address
from pylb.config.conflicts import conflicts
from pylb.config.files import read_regular
from pylb.config.model import Config
from pylb.config.runtime import default_admin_path
from pylb.config.trials import problems
from pylb.excerpt import shown

# The file has HAProxy's singular section names; the model holds lists of them.
_SECTIONS = {"frontend": "frontends", "backend": "backends", "server": "servers"}
_SINGULAR = {plural: singular for singular, plural in _SECTIONS.items()}

_LARGEST_FILE = 4 * 1024 * 1024  # bytes; the supervisor does nothing else while it reads them
_DEEPEST = 500
"""Dots of a key. No key of ours has as many, and `tomllib` needs their number squared."""
_STRING = re.compile(r"\"[^\"\n]*\"|'[^'\n]*'")
_MOST_BINDS = 1024
"""So that their names fit into one message to a worker (`pylb.net.channel.MAX_PACKET`)."""

# Of two that begin alike the longer one is first.
_MARKS = (
    (codecs.BOM_UTF8, "UTF-8 with a byte order mark (BOM)"),
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


class ConfigError(Exception):
    """The configuration can't be used; ``problems`` has one line per mistake."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def load_file(path: str | os.PathLike[str]) -> Config:
    """Read a TOML file, and look at the files that it names.

    Raises:
        ConfigError: with every mistake in it, or in them.
        OSError: the file can't be read.
    """
    return with_files(from_document(read_document(path)))


def with_files(config: Config) -> Config:
    """The same, once the files that it names have been found good; raises ConfigError."""
    found = problems(config)
    if found:
        raise ConfigError(found)
    return config


def read_document(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Parse a TOML file without checking what it says; raises as `load_file`."""
    data = read_regular(path, _LARGEST_FILE)
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            raise ConfigError([f"not valid TOML: the file is {encoding}; save it as UTF-8 without a BOM"])
    try:
        text = data.decode()
        if any(line.count(".") > _DEEPEST for line in _STRING.sub("", text).splitlines()):
            raise RecursionError
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(["not valid TOML: it is nested too deeply"]) from None
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError, and a number of too many digits
        hint = "; it looks like UTF-16, save it as UTF-8" if b"\0" in data[:4] else ""
        raise ConfigError([f"not valid TOML: {error}{hint}"]) from None


def from_document(document: dict[str, Any]) -> Config:
    """Check a parsed document.

    Raises:
        ConfigError: with every mistake in it.
    """
    problems: list[str] = []
    try:
        translated = _translate(document, problems)
        problems += _links(translated)
    except RecursionError:
        raise ConfigError(["it is nested too deeply"]) from None
    config: Config | None = None
    try:
        config = Config.model_validate(translated)
    except RecursionError:
        raise ConfigError(["it is nested too deeply"]) from None
    except ValidationError as error:
        found = error.errors()
        # A list that holds a mistake is also reported as too short; the mistake itself says enough.
        problems[:0] = [
            _line(problem)
            for problem in found
            if problem["type"] != "too_short"
            or not any(
                other["loc"][: len(problem["loc"])] == problem["loc"] and other is not problem
                for other in found
            )
        ]
    if problems or config is None:
        raise ConfigError(problems)
    return config


def _translate(document: dict[str, Any], problems: list[str]) -> dict[str, Any]:
    """The document with the model's names; a plural that users must not write is a mistake."""
    translated: dict[str, Any] = {}
    for key, value in document.items():
        if key in _SINGULAR:
            problems.append(f"{key}: unknown key; did you mean [[{_SINGULAR[key]}]]?")
        elif key in ("frontend", "backend"):
            items = value if isinstance(value, list) else [value]
            translated[_SECTIONS[key]] = [_section(item) for item in items]
        else:
            translated[key] = value
    return translated


def _links(document: dict[str, Any]) -> list[str]:
    """What is wrong between sections, looked for in the document so that other mistakes don't hide it."""
    problems: list[str] = []
    sections = [document.get(name) or [] for name in ("frontends", "backends")]
    frontends, backends = (
        [item if isinstance(item, dict) else {} for item in section] if isinstance(section, list) else []
        for section in sections
    )
    names = [backend.get("name") for backend in backends]
    for number, name in enumerate(names):
        if name is not None and name in names[:number]:
            problems.append(f"backend[{number}].name: another backend is named {name!r}")
    bound: list[tuple[str, Address]] = []
    for number, frontend in enumerate(frontends):
        sni = frontend.get("sni")
        used = {"backend": frontend.get("backend")}
        if isinstance(sni, dict):
            used |= {f"sni.{name}": backend for name, backend in sni.items()}
        for key, name in used.items():
            path = f"frontend[{number}].{key}"
            if not isinstance(name, str):
                continue  # the model says what is wrong with it
            if name not in names:
                defined = ", ".join(str(one) for one in names)
                problems.append(f"{path}: no backend {name!r}; defined: {defined}")
            elif frontend.get("mode") == "tcp" and backends[names.index(name)].get("http2") is True:
                problems.append(f'{path}: {name!r} has http2, which mode "tcp" can\'t speak')
        binds = frontend.get("bind")
        for position, bind in enumerate(binds if isinstance(binds, list) else []):
            path = f"frontend[{number}].bind[{position}]"
            with contextlib.suppress(ValueError, AttributeError):
                bound.append((path, parse_address(bind)))
    if len(bound) > _MOST_BINDS:
        return [*problems, f"frontend: {len(bound)} addresses to bind, at most {_MOST_BINDS}"]
    with contextlib.suppress(ValueError, AttributeError):
        bound.append(("admin", parse_address(document.get("admin", f"unix:{default_admin_path()}"))))
    return problems + [f"{key}: {sentence}" for key, sentence in conflicts(bound)]


def _section(item: Any) -> Any:
    if not isinstance(item, dict):
        return item
    section = {_SECTIONS.get(key, key) if key == "server" else key: value for key, value in item.items()}
    for key in ("bind", "servers"):
        if key in section and not isinstance(section[key], list):
            section[key] = [section[key]]
    if isinstance(section.get("servers"), list):
        section["servers"] = [
            {"address": server} if isinstance(server, str) else server for server in section["servers"]
        ]
    return section


def _path(location: Sequence[int | str]) -> str:
    path = ""
    for part in location:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            name = _SINGULAR.get(part, part)
            path += f".{name}" if path else name
    return path


def _line(problem: Any) -> str:
    """One pydantic error as a line that names the key and the fix."""
    location = problem["loc"]
    path = _path(location)
    kind = problem["type"]
    given = problem.get("input")
    if kind == "extra_forbidden":
        return f"{path}: unknown key; allowed: {', '.join(_allowed(location[:-1]))}"
    if kind == "missing":
        return f"{path}: missing"
    message = problem["msg"].removeprefix("Value error, ")
    if kind in ("model_type", "dict_type"):
        message = "expected a table"
    message = message[0].lower() + message[1:] if message[1:2].islower() else message
    if isinstance(given, str | int | float | bool) and (text := shown(given, 120)) not in message:
        message += f" (got {text})"
    return f"{path}: {message}" if path else message


def _allowed(location: Sequence[int | str]) -> list[str]:
    """The keys of the section at a place of the model, in the user's words."""
    model: Any = Config
    for part in location:
        if isinstance(part, int):
            continue
        annotation = model.model_fields[part].annotation
        model = next(
            candidate
            for candidate in (annotation, *getattr(annotation, "__args__", ()))
            if isinstance(candidate, type) and issubclass(candidate, BaseModel)
        )
    return sorted(_SINGULAR.get(name, name) for name in model.model_fields)


def quick(
    binds: Sequence[str],
    servers: Sequence[str],
    *,
    balance: str = "leastconn",
    workers: str | None = None,
    controller: str | None = None,
    admin: str | None = None,
    log_format: str | None = None,
) -> Config:
    """The configuration of the quick form: all binds go to one backend of all servers.

    ``servers`` are addresses, each with an optional ``,weight=N``.

    Raises:
        ConfigError: with every mistake in it.
    """
    document: dict[str, Any] = {
        "frontend": [{"name": "main", "bind": list(binds), "backend": "main"}],
        "backend": [{"name": "main", "balance": balance, "server": [_server(text) for text in servers]}],
    }
    try:
        return from_document(override(document, workers, controller, admin, log_format))
    except ConfigError as error:
        raise ConfigError([_as_option(problem) for problem in error.problems]) from None


# A key of the document that the quick form makes, and the option that it came from.
_OPTIONS = (
    (re.compile(r"^frontend\[0\]\.bind\[\d+\]:"), "--bind:"),
    (re.compile(r"^backend\[0\]\.server\[\d+\](\.address)?(?=[.:])"), "--server"),
    (re.compile(r"^backend\[0\]\.balance:"), "--balance:"),
    (re.compile(r"^workers(?=[.:])"), "--workers"),
    (re.compile(r"^controller\.address:"), "--controller:"),
    (re.compile(r"^admin:"), "--admin:"),
    (re.compile(r"^log\.format:"), "--log-format:"),
)


def _as_option(problem: str) -> str:
    """The same line, naming what the user wrote on the command line."""
    for key, option in _OPTIONS:
        problem = key.sub(option, problem)
    return problem


def override(
    document: dict[str, Any],
    workers: str | None,
    controller: str | None,
    admin: str | None,
    log_format: str | None,
) -> dict[str, Any]:
    """The document with what was given on the command line put in."""
    if workers is not None:
        document["workers"] = workers_range(workers)
    if controller is not None:
        document["controller"] = {**document.get("controller", {}), "address": controller}
    if admin is not None:
        document["admin"] = admin
    if log_format is not None:
        document["log"] = {**document.get("log", {}), "format": log_format}
    return document


def workers_range(text: str) -> dict[str, int]:
    """``"2"`` or ``"1..4"`` as a ``[workers]`` section.

    Raises:
        ConfigError: it is neither.
    """
    match = re.fullmatch(r"(\d{1,6})(?:\.\.(\d{1,6}))?", text, re.ASCII)
    if match is None:
        raise ConfigError([f"--workers: expected N or MIN..MAX, as in 1..4 (got {shown(text)})"])
    return {"min": int(match[1]), "max": int(match[2] or match[1])}


def _server(text: str) -> dict[str, Any]:
    address, *options = text.split(",")
    server: dict[str, Any] = {"address": address}
    for option in options:
        key, equals, value = option.partition("=")
        if not equals:
            raise ConfigError([f"--server {text}: expected KEY=VALUE after the comma (got {option!r})"])
        server[key] = int(value) if re.fullmatch(r"\d{1,9}", value, re.ASCII) else value
    return server
