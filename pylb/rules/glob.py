"""Globs of paths: ``*`` stands for any part of a segment, ``**`` for any number of segments.

``/img/*.png``, ``/a/**/b``; a pattern without a slash is for the last segment (``*.php``). Time is linear in
the path, times the length of the pattern: each piece is taken where it is found first, which is never worse
than a later place.

Floor: the bottom of `pylb.rules`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

Segment = Callable[[bytes], bool]


def compile(pattern: bytes) -> Callable[[bytes], bool]:
    """Whether a normalised path is like the pattern."""
    if b"/" not in pattern:
        last = _segment(pattern)
        return lambda path: last(path[path.rfind(b"/") + 1 :])
    groups: list[list[Segment]] = [[]]
    for part in pattern.removeprefix(b"/").split(b"/"):
        if part == b"**":
            groups.append([])
        else:
            groups[-1].append(_segment(part))
    first, *others = groups

    def like(path: bytes) -> bool:
        if path[:1] != b"/":
            return False
        segments = path[1:].split(b"/")
        if not others:
            return len(segments) == len(first) and _at(first, segments, 0)
        last = others[-1]
        end = len(segments) - len(last)
        at = len(first)
        if at > end or not _at(first, segments, 0) or not _at(last, segments, end):
            return False
        for group in others[:-1]:
            while at + len(group) <= end and not _at(group, segments, at):
                at += 1
            at += len(group)
            if at > end:
                return False
        return True

    return like


def _at(group: Sequence[Segment], segments: Sequence[bytes], at: int) -> bool:
    return len(segments) >= at + len(group) and all(
        one(segments[at + number]) for number, one in enumerate(group)
    )


def _segment(pattern: bytes) -> Segment:
    """Whether a segment is like a pattern whose ``*`` stand for anything."""
    begin, *middle = pattern.split(b"*")
    if not middle:
        return lambda segment: segment == pattern
    *middle, end = middle
    if not begin and not middle:
        return lambda segment: segment.endswith(end)
    least = len(begin) + len(end)

    def like(segment: bytes) -> bool:
        if len(segment) < least or not (segment.startswith(begin) and segment.endswith(end)):
            return False
        at, last = len(begin), len(segment) - len(end)
        for piece in middle:
            found = segment.find(piece, at, last)
            if found < 0:
                return False
            at = found + len(piece)
        return True

    return like
