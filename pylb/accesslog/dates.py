"""Dates as logs write them, made once a second (pure: the moment is passed in).

Floor: pure; knows no format.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MILLIS = tuple(f".{milli:03d}" for milli in range(1000))


class Dates:
    """The texts of one second after the other.

    Moments are counted from 1970. Months have English names, whatever the locale.
    """

    def __init__(self) -> None:
        self._second = -1
        self._local = self._zone = self._utc = ""

    def _turn(self, second: int) -> None:
        self._second = second
        utc = datetime.fromtimestamp(second, UTC)
        local = utc.astimezone()
        month = _MONTHS[local.month - 1]
        self._local = f"{local.day:02d}/{month}/{local.year:04d}:{local:%H:%M:%S}"
        self._zone = f"{local:%z}"
        self._utc = f"{utc:%Y-%m-%dT%H:%M:%S}"

    def haproxy(self, milli: int) -> str:
        """``30/Nov/2026:19:24:16.123``, local time; of a moment in milliseconds."""
        second, rest = divmod(milli, 1000)
        if second != self._second:
            self._turn(second)
        return self._local + _MILLIS[rest]

    def common(self, second: int) -> str:
        """``30/Nov/2026:19:24:16 +0000``, local time; the common log format's. Of a moment in seconds."""
        if second != self._second:
            self._turn(second)
        return f"{self._local} {self._zone}"

    def iso(self, milli: int) -> str:
        """``2026-11-30T19:24:16.123Z`` (RFC 3339), UTC; of a moment in milliseconds."""
        second, rest = divmod(milli, 1000)
        if second != self._second:
            self._turn(second)
        return f"{self._utc}{_MILLIS[rest]}Z"


def bsd(moment: int) -> str:
    """``Nov 30 19:24:16``, local time; as RFC 3164 §4.1.2 has it, with a space before a day of one digit."""
    local = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=moment // 1000)).astimezone()
    return f"{_MONTHS[local.month - 1]} {local.day:2d} {local:%H:%M:%S}"
