"""The keys of the configuration as data, read off the model.

Above `model`, and the only module that knows how a declaration is stored. What is made from declarations
(command line, documentation, messages) stands on it, and none of that names a key.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le
from pydantic.fields import FieldInfo

from pylb.config.declaration import Default, Kind, Option, one_of
from pylb.config.model import Config, Section
from pylb.config.values import ONE_OR_MORE


@dataclass(frozen=True, slots=True)
class Key:
    """A key of a section: a value, a table, or a list of either."""

    path: tuple[str, ...]
    """Names from the top of the file: ``("frontend", "tls", "alpn")``."""
    field: FieldInfo

    @property
    def name(self) -> str:
        return self.path[-1]

    @property
    def section(self) -> type[Section] | None:
        """The table that the key holds, or a list of which it holds."""
        return _section(self.field.annotation)

    @property
    def many(self) -> bool:
        """Whether it holds a list."""
        return get_origin(self.field.annotation) is tuple

    @property
    def option(self) -> Option | None:
        """How it is given on the command line, where it can be."""
        return next((mark for mark in self.field.metadata if isinstance(mark, Option)), None)

    @property
    def kind(self) -> Kind:
        """What is written as its value."""
        if self.section is not None:
            return Kind(_tables(self.section) if self.many else "table")
        return _kind(self.field.annotation, self.field.metadata)

    @property
    def description(self) -> str:
        return self.field.description or ""

    @property
    def required(self) -> bool:
        """Whether it must be there; the tables that a file must have are required, too."""
        return self.field.is_required()

    @property
    def described_default(self) -> str:
        """The default in words, where it isn't a value that could stand in the file."""
        return next((mark.words for mark in self.field.metadata if isinstance(mark, Default)), "")

    @property
    def default(self) -> str:
        """The default as it would stand in the file; empty where there is none, or one in words."""
        if self.required or self.section is not None or self.described_default:
            return ""
        value = self.field.get_default(call_default_factory=True, validated_data={})
        return "" if value is None or value == {} else self.kind.written(value)


def keys(section: type[Section] = Config, path: tuple[str, ...] = ()) -> Iterator[Key]:
    """The keys of one section, in the order of their declaration, without those of the sections in it."""
    for name, field in section.model_fields.items():
        yield Key((*path, name_in_file(name, field)), field)


def all_keys(
    section: type[Section] = Config,
    path: tuple[str, ...] = (),
    within: frozenset[type[Section]] = frozenset(),
) -> Iterator[Key]:
    """All keys below a section, each before those in it; a section within itself is told of once."""
    within |= {section}
    for key in keys(section, path):
        yield key
        if key.section is not None and key.section not in within:
            yield from all_keys(key.section, key.path, within)


def name_in_file(name: str, field: FieldInfo) -> str:
    """A field's name as users write it: ``frontend`` for ``frontends``."""
    return str(field.validation_alias or name)


def section_at(location: Sequence[int | str]) -> type[Section]:
    """The section at a place of the file; parts that name no key are positions, or names that users gave."""
    section: type[Section] = Config
    for part in location:
        section = next((key.section for key in keys(section) if key.name == part), None) or section
    return section


def _section(annotation: Any) -> type[Section] | None:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for part in get_args(annotation) if (found := _section(part)) is not None), None)


def _tables(section: type[Section]) -> str:
    """In words, a list of a section that may be written as one of its keys alone."""
    short = next((key.kind for key in keys(section) if key.name == section.short), None)
    return "list of tables" if short is None else f"list of tables or {short.many}"


def _kind(annotation: Any, marks: Iterable[Any]) -> Kind:
    """What users write for a type with what ``Annotated`` adds to it."""
    marks = list(marks)
    for mark in marks:
        if isinstance(mark, Kind):
            return mark
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _kind(arguments[0], arguments[1:])
    if origin in (Union, types.UnionType):
        return _kind(next(part for part in arguments if part is not type(None)), marks)
    if origin is tuple:
        of = _kind(arguments[0], ())
        words = f"{of.one}, or a list" if ONE_OR_MORE in marks else f"list of {of.many or of.one}"
        return Kind(words, metavar=of.metavar)
    if origin is Literal:
        return one_of(arguments)
    if annotation is bool:
        return Kind("true or false", metavar="true|false")
    if annotation in (int, float):
        return Kind(f"number{_bounds(annotation, marks)}", "numbers", "N", "{:g}".format)
    return Kind("text", "texts")


_FAR = 10_000_000
"""A bound from here on is only there so that arithmetic doesn't fail, and says nothing to a reader."""


def _bounds(number: type, marks: Iterable[Any]) -> str:
    low = high = ""
    for mark in marks:
        match mark:
            case Gt(gt=0) if number is int:
                low = "from 1"
            case Gt(gt=bound):
                low = f"above {bound}"
            case Ge(ge=bound):
                low = f"from {bound}"
            case Le(le=bound) if isinstance(bound, int | float) and bound < _FAR:
                high = f"to {bound}"
    return "".join(f" {bound}" for bound in (low, high) if bound)
