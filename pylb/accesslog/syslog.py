"""Syslog's message headers (pure): RFC 5424, and RFC 3164 as syslog(3) writes it.

Floor: pure; knows nothing of where messages go.
"""

from __future__ import annotations

from pylb.accesslog.dates import Dates, bsd

FACILITIES = (
    *("kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "authpriv", "ftp"),
    *("ntp", "audit", "alert", "clock"),
    *("local0", "local1", "local2", "local3", "local4", "local5", "local6", "local7"),
)
"""By number (RFC 5424 §6.2.1)."""
_INFORMATIONAL = 6


class Header:
    """What stands before each message.

    Args:
        version: ``rfc5424`` or ``rfc3164``.
        facility: one of `FACILITIES`.
        tag: the program's name.
        host: this machine's name; empty where the receiver is on it and RFC 3164 is spoken (``/dev/log``).
        pid: of the process.
    """

    def __init__(self, version: str, facility: str, tag: str, host: str, pid: int) -> None:
        self._priority = 8 * FACILITIES.index(facility) + _INFORMATIONAL
        self._new = version == "rfc5424"
        self._rest = f"{tag} {pid} - - " if self._new else f"{tag}[{pid}]: "
        self._host = host
        self._dates = Dates()

    def at(self, moment: int) -> bytes:
        """The header of a message that is sent at a moment, in nanoseconds since 1970."""
        if self._new:
            date = self._dates.iso(moment // 1_000_000)
            return f"<{self._priority}>1 {date} {self._host or '-'} {self._rest}".encode()
        host = f"{self._host} " if self._host else ""
        return f"<{self._priority}>{bsd(moment)} {host}{self._rest}".encode()
