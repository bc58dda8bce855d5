"""Edits of a head's field lines: set, add, remove, replace. Bytes in, bytes out.

A head is text of HTTP/1 here, whatever client and server speak. One expression finds all lines that an edit
means, in one pass; the lines that are set and added go to the end. ``X_Y`` is a spelling of ``X-Y``, since
CGI and WSGI servers take them for the same. What frames a message is out of reach: naming it is a mistake.

Floor: above templates and regexes; below plans.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from pylb.http.fields import TOKEN, any_case
from pylb.rules.regex import Regex, TooLong
from pylb.rules.template import Template
from pylb.rules.view import View

Handler = Callable[[bytes, View], bytes | None]
"""Gives a field's new value; None: the line is cut."""
Compile = Callable[[str], Template]
"""Makes a template of a text; raises ValueError with a sentence."""

_FOLD = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ_", b"abcdefghijklmnopqrstuvwxyz-")
_NAME = re.compile(TOKEN.decode() + "{1,256}")
_HOP_BY_HOP = frozenset(
    {"connection", "content-length", "keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding"}
    | {"upgrade"}
)
OF_REQUESTS = _HOP_BY_HOP | {"expect", "host", "http2-settings"}
"""Names in requests that no edit may touch."""
OF_RESPONSES = _HOP_BY_HOP
"""Names in responses that no edit may touch."""


class Edits:
    """What is done to the fields of a head.

    Args:
        handlers: by name, in lower case, what is done to the value of each such field.
        lines: names and values of new fields; one whose value is empty isn't sent.
        cut: names, or their beginnings with ``*`` at the end, of fields that are cut.
        untouched: names that a ``*`` leaves alone.
    """

    __slots__ = ("_signs", "_sub", "_handlers", "_fixed", "_lines")

    def __init__(
        self,
        handlers: Mapping[bytes, Sequence[Handler]],
        lines: Sequence[tuple[bytes, bytes | Template]],
        cut: Iterable[bytes],
        untouched: Iterable[str] = (),
    ) -> None:
        cut = list(cut)
        # Most heads have none of these, which is told faster than by the expression.
        self._signs = [(b"\n" + name.removesuffix(b"*")).translate(_FOLD) for name in (*handlers, *cut)]
        names = [_spelled(name) for name in handlers]
        names += [_spelled(name) if name[-1:] != b"*" else _below(name, untouched) for name in cut]
        self._sub = re.compile(rb"\r\n(" + b"|".join(names) + rb"):([^\r\n]*)").sub if names else None
        self._handlers = dict(handlers)
        # Those with a value that is always the same are put together beforehand, up to the first that isn't.
        fixed: list[bytes] = []
        self._lines: list[tuple[bytes, Template]] = []
        for name, value in lines:
            if not isinstance(value, bytes):
                self._lines.append((name + b": ", value))
            elif self._lines:
                self._lines.append((name + b": ", _always(value)))
            else:
                fixed.append(_line(name, value))
        self._fixed = b"".join(fixed)

    def apply(self, head: bytes, view: View) -> bytes:
        """The head with its fields edited."""
        if self._sub is not None:
            folded = head.translate(_FOLD)
            for sign in self._signs:
                if sign in folded:
                    head = self._sub(lambda match: self._changed(match, view), head)
                    break
        if not self._lines:
            return head[:-2] + self._fixed + b"\r\n" if self._fixed else head
        out = [head[:-2], self._fixed]
        for name, value in self._lines:
            text = value(view)
            if text:
                out += (name, text, b"\r\n")
        out.append(b"\r\n")
        return b"".join(out)

    def _changed(self, match: re.Match[bytes], view: View) -> bytes:
        """A line that was found, as it is to be."""
        name = match[1]
        value: bytes | None = match[2].strip(b"\t ")
        handlers = self._handlers.get(name.lower().replace(b"_", b"-"))
        if handlers is None:
            return b""
        for handle in handlers:
            if value is not None:
                value = handle(value, view)
        return b"" if value is None else b"\r\n%b: %b" % (name, value)


def _always(value: bytes) -> Template:
    return lambda view: value


def _line(name: bytes, value: bytes) -> bytes:
    return b"%b: %b\r\n" % (name, value) if value else b""


def _spelled(name: bytes) -> bytes:
    plain = re.escape(name.lower().replace(b"_", b"-")).replace(rb"\-", b"-")
    return any_case(plain).replace(b"-", b"[-_]")


def _below(name: bytes, untouched: Iterable[str]) -> bytes:
    others = b"|".join(_spelled(one.encode()) for one in untouched)
    return (b"(?!(?:" + others + b"):)" if others else b"") + _spelled(name[:-1]) + TOKEN + b"*"


def replaced(expression: str, to: Template, unsafe: bool) -> Handler:
    """Replaces what an expression finds first in a value; its groups are variables of ``to``.

    A value that is too long to be searched is cut: what the expression was to take out must not pass.

    Raises:
        ValueError: the expression is no good.
    """
    regex = Regex(expression, unsafe)

    def handle(value: bytes, view: View) -> bytes | None:
        try:
            match = regex.search(value)
        except TooLong:
            return None
        if match is None:
            return value
        start, end = match.span()
        return value[:start] + with_groups(to, regex.found(match), view) + value[end:]

    return handle


def with_groups(template: Template, found: Mapping[str, bytes], view: View) -> bytes:
    """The template filled in with what the groups of an expression have found."""
    groups = view.groups
    view.groups = {**groups, **found}
    try:
        return template(view)
    finally:
        view.groups = groups


def compiled(
    template: Compile,
    set: Mapping[str, str],
    add: Mapping[str, Sequence[str]],
    remove: Iterable[str],
    replace: Mapping[str, tuple[str, str]],
    untouched: frozenset[str],
    unsafe: bool,
    handlers: Mapping[bytes, Sequence[Handler]] | None = None,
) -> Edits | None:
    """The edits of a table; None where it has none. In this order: remove, replace, set, add.

    Args:
        replace: by name, an expression and what its first match becomes.
        untouched: `OF_REQUESTS` or `OF_RESPONSES`.
        handlers: further ones, which come after those of ``replace``.

    Raises:
        ValueError: a name, text or expression is no good.
    """
    for name in (*set, *add, *remove, *replace):
        check_name(name, untouched)
    all_handlers: dict[bytes, list[Handler]] = {}
    for name, (expression, to) in replace.items():
        key = name.lower().replace("_", "-").encode()
        all_handlers.setdefault(key, []).append(replaced(expression, template(to), unsafe))
    for key, some in (handlers or {}).items():
        all_handlers.setdefault(key, []).extend(some)
    pairs = [*set.items(), *((name, text) for name, texts in add.items() for text in texts)]
    lines = [(name.encode(), value_of(text, template)) for name, text in pairs]
    cut = [name.encode() for name in (*remove, *set)]
    if not (all_handlers or lines or cut):
        return None
    gone = {name.lower().replace("_", "-").encode() for name in (*remove, *set)}
    kept = {name: some for name, some in all_handlers.items() if name not in gone}
    return Edits(kept, lines, cut, untouched)


def values_of(name: bytes) -> Callable[[bytes], list[bytes]]:
    """What gives the values of all fields of a name in a head."""
    find = re.compile(rb"\r\n" + _spelled(name) + rb":[\t ]*([^\r\n]*)").findall
    return lambda head: [value.rstrip(b"\t ") for value in find(head)]


def check_name(name: str, untouched: frozenset[str]) -> None:
    """Raises ValueError for a name that can't be edited; ``*`` may stand at its end."""
    plain = name.removesuffix("*")
    if _NAME.fullmatch(name) is None or "*" in plain or not plain:
        raise ValueError(f"{name!r} is no name of a header field")
    if name.lower().replace("_", "-") in untouched:
        fix = "; use rewrite.host" if name.lower() == "host" else ", since it frames the message"
        raise ValueError(f"{name} can't be edited{fix}")


def value_of(text: str, template: Compile) -> bytes | Template:
    """A field's value: its bytes where nothing in it depends on the request. Raises ValueError."""
    if any(ord(char) < 32 or ord(char) == 127 for char in text):
        raise ValueError(f"{text!r}: control characters have no place in a field")
    value = template(text)
    return value if "{" in text or "}" in text else text.encode().strip(b" ")
