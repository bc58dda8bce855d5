"""Texts with variables: ``https://{host}{uri}``, filled in from a request.

Control bytes of a value, CR and LF among them, are left out, so that a client's bytes add no line. Values
that come from the normalised path are percent-encoded where they have to be, since it was decoded. ``{{`` and
``}}`` are braces.

Floor: above `view` and `regex`; below matchers.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from urllib.parse import quote

from pylb.rules.view import View, field_name

Getter = Callable[[View], bytes]
Template = Callable[[View], bytes]

_CONTROLS = bytes([*range(32), 127])
_PARTS = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]|[^{}]+")
_SAFE_IN_PATH = "/:@!$&'()*+,;=-._~"


def _path(view: View) -> bytes:
    return encoded(view.some_path)


def encoded(path: bytes) -> bytes:
    """A decoded path as it may stand in a URL."""
    return path if path.isalnum() else quote(path, safe=_SAFE_IN_PATH).encode()


def _segment(position: int, view: View) -> bytes:
    segments = view.some_path.split(b"/")
    return encoded(segments[position]) if position < len(segments) else b""


def _label(position: int, view: View) -> bytes:
    labels = view.host.split(b".")
    return labels[position - 1] if position <= len(labels) else b""


def _header(name: bytes, view: View) -> bytes:
    return view.field(name) or b""


def _cookie(name: bytes, view: View) -> bytes:
    return view.cookie(name) or b""


def _argument(name: bytes, view: View) -> bytes:
    return view.argument(name) or b""


def _group(name: str, view: View) -> bytes:
    return view.groups.get(name, b"")


def _decoded_path(view: View) -> bytes:
    return view.path


VARIABLES: Mapping[str, Getter] = {
    "method": lambda view: view.method,
    "scheme": lambda view: view.scheme,
    "host": lambda view: view.host,
    "port": lambda view: b"%d" % view.port,
    "uri": lambda view: view.target,
    "path": _path,
    "raw_path": lambda view: view.raw_path,
    "query": lambda view: view.query,
    "client.ip": lambda view: view.client,
    "client.peer": lambda view: view.peer,
    "protocol": lambda view: view.protocol.encode(),
    "tls.sni": lambda view: view.sni,
    "tls.subject": lambda view: view.subject,
    "tls.version": lambda view: view.tls_version.encode(),
    "request.id": lambda view: view.request_id,
    "server.name": lambda view: view.server,
    "backend.name": lambda view: view.backend,
}
"""Those without a name of the user's in them."""

FAMILIES: Mapping[str, str] = {
    "header": "NAME",
    "cookie": "NAME",
    "argument": "NAME",
    "path": "N",
    "host": "N",
    "re": "GROUP",
    "map": "NAME",
}
"""Those with one: ``{header.User-Agent}``, ``{path.1}`` (the first segment), ``{re.id}``."""


def compile(text: str, maps: Mapping[str, Getter] | None = None, decoded: bool = False) -> Template:
    """The function that fills a text in.

    Args:
        maps: by name, what a map has for a request.
        decoded: whether ``{path}`` stays decoded, to be compared and not to be sent.

    Raises:
        ValueError: with a sentence that names the variable.
    """
    parts = list(_parsed(text, maps or {}))
    if decoded:
        parts = [_decoded_path if part is _path else part for part in parts]
    if all(isinstance(part, bytes) for part in parts):
        whole = b"".join(part for part in parts if isinstance(part, bytes))
        return lambda view: whole
    if len(parts) == 1:
        (only,) = parts
        assert not isinstance(only, bytes)
        return lambda view: only(view).translate(None, _CONTROLS)

    def fill(view: View) -> bytes:
        return b"".join(
            [part if isinstance(part, bytes) else part(view).translate(None, _CONTROLS) for part in parts]
        )

    return fill


def variables(text: str) -> list[str]:
    """The names in the braces of a text."""
    return [match[1] for match in _PARTS.finditer(text) if match[1] is not None]


def _parsed(text: str, maps: Mapping[str, Getter]) -> Iterable[bytes | Getter]:
    for match in _PARTS.finditer(text):
        if match[1] is not None:
            yield getter(match[1], maps)
        elif match[0] in ("{", "}"):
            raise ValueError(f"a single {match[0]}; write {match[0] * 2} for a brace")
        else:
            yield (match[0][:1] if match[0] in ("{{", "}}") else match[0]).encode()


def getter(name: str, maps: Mapping[str, Getter]) -> Getter:
    """What gives a variable's value; raises ValueError with a sentence."""
    simple = VARIABLES.get(name)
    if simple is not None:
        return simple
    family, dot, rest = name.partition(".")
    if not dot or not rest or family not in FAMILIES:
        known = [*VARIABLES, *(f"{one}.{what}" for one, what in FAMILIES.items())]
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean {{{close[0]}}}?" if close else f"known: {', '.join(known)}"
        raise ValueError(f"no variable {{{name}}}; {hint}")
    if family in ("path", "host"):
        if re.fullmatch(r"[1-9][0-9]?", rest) is None:
            raise ValueError(f"{{{name}}}: expected a number from 1 after the dot")
        return partial(_segment if family == "path" else _label, int(rest))
    if family == "map":
        if rest not in maps:
            raise ValueError(f"{{{name}}}: no map {rest!r}; {did_you_mean(rest, maps)}")
        return maps[rest]
    if family == "header":
        return partial(_header, field_name(rest))
    if family == "cookie":
        return partial(_cookie, rest.encode())
    if family == "argument":
        return partial(_argument, rest.encode())
    return partial(_group, rest)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """What a message adds to a name that isn't known."""
    known = list(known)
    close = difflib.get_close_matches(name, known, 1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"defined: {', '.join(known)}" if known else "none is defined"
