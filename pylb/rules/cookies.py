"""What a server says of its own name and paths, for clients that know another: ``Location``, ``Set-Cookie``.

Each function gives a handler for the values of such fields, as `edits` runs them.

Floor: above `edits`; below plans.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from pylb.rules.edits import Handler, replaced
from pylb.rules.template import Template
from pylb.rules.view import View

_NAMES = {"secure": b"Secure", "httponly": b"HttpOnly"}
_BAD_ATTRIBUTE = re.compile(rb"[;\x00-\x1f\x7f]")


def location(begin: Template, to: Template) -> Handler:
    """Replaces the beginning of a ``Location``."""

    def handle(value: bytes, view: View) -> bytes:
        old = begin(view)
        return to(view) + value[len(old) :] if old and value.startswith(old) else value

    return handle


def location_regex(expression: str, to: Template, unsafe: bool) -> Handler:
    """Replaces what an expression finds first in a ``Location``; raises ValueError for a bad one."""
    return replaced(expression, to, unsafe)


@dataclass(frozen=True, slots=True)
class CookieEdit:
    """What is done to a server's cookies (RFC 6265 §4.1); None leaves an attribute as it is."""

    names: frozenset[bytes] = frozenset()
    """Cookies that are meant; none: all."""
    path: Template | None = None
    path_from: bytes | None = None
    """The beginning of a path that is replaced by ``path``; None: all of any path is."""
    domain: Template | None = None
    """What comes out empty removes the attribute: the cookie is this host's alone."""
    domain_from: bytes | None = None
    """The only domain that is replaced, in lower case; None: any is."""
    secure: bool | None = None
    http_only: bool | None = None
    same_site: bytes | None = None
    """Empty removes it."""


def cookies(edits: Sequence[CookieEdit]) -> Handler:
    """Edits a ``Set-Cookie``."""

    def handle(value: bytes, view: View) -> bytes:
        for edit in edits:
            value = _edited(value, edit, view)
        return value

    return handle


def _edited(value: bytes, edit: CookieEdit, view: View) -> bytes:
    pair, *attributes = value.split(b";")
    if edit.names and pair.partition(b"=")[0].strip(b"\t ") not in edit.names:
        return value
    names = [one.partition(b"=")[0].strip(b"\t ").lower() for one in attributes]
    # Of several with one name the last one counts (§5.3).
    given = {name: one.partition(b"=")[2].strip(b"\t ") for name, one in zip(names, attributes, strict=True)}
    new: dict[bytes, bytes | None] = {}
    if edit.path is not None:
        new |= _path(edit.path, edit.path_from, given.get(b"path"), view)
    if edit.domain is not None:
        new |= _domain(edit.domain, edit.domain_from, given.get(b"domain"), view)
    if edit.secure is not None:
        new[b"secure"] = b"; Secure" if edit.secure else None
    if edit.http_only is not None:
        new[b"httponly"] = b"; HttpOnly" if edit.http_only else None
    if edit.same_site is not None:
        new[b"samesite"] = b"; SameSite=" + edit.same_site if edit.same_site else None
    kept = [b";" + one for name, one in zip(names, attributes, strict=True) if name not in new]
    return pair + b"".join(kept) + b"".join(text for text in new.values() if text)


def _path(to: Template, begin: bytes | None, given: bytes | None, view: View) -> dict[bytes, bytes | None]:
    if begin is None:
        path = to(view)
    elif given is not None and (given == begin or given.startswith(begin.rstrip(b"/") + b"/")):
        rest = given[len(begin.rstrip(b"/")) :]
        path = to(view).rstrip(b"/") + rest or b"/"
    else:
        return {}
    return {b"path": b"; Path=" + _BAD_ATTRIBUTE.sub(b"", path)}


def _domain(to: Template, old: bytes | None, given: bytes | None, view: View) -> dict[bytes, bytes | None]:
    if given is None or (old is not None and given.lower().lstrip(b".") != old.lstrip(b".")):
        return {}
    domain = _BAD_ATTRIBUTE.sub(b"", to(view))
    return {b"domain": b"; Domain=" + domain if domain else None}
