"""The file in which the operator's changes of servers survive a restart of pylb (``state_file``).

Written with the supervisor's rights, whole and then renamed, so that a crash leaves the old one or the new
one. A file that can't be written or read is said in the log, and nothing else: requests are served all the
same. It knows no process.
"""

from __future__ import annotations

import json
import os
import tempfile

from pylb.config.files import read_regular
from pylb.log import log
from pylb.supervisor.overlay import Overlay

_LARGEST = 64 << 20  # bytes
_FORMAT = 1


def read(path: str | None) -> Overlay:
    """The changes in a file; none where there is no file, or where it can't be used."""
    if path is None:
        return Overlay()
    try:
        document = json.loads(read_regular(path, _LARGEST))
        if not isinstance(document, dict) or document.get("format") != _FORMAT:
            raise ValueError("it is no state file of this version")
        return Overlay.of_document(document.get("servers"))
    except FileNotFoundError:
        return Overlay()
    except (OSError, ValueError, RecursionError) as error:
        log.error("state_file %s can't be used, pylb starts without it: %s", path, error)
        return Overlay()


class StateFile:
    """Writes the changes, once per tick however many there are."""

    def __init__(self) -> None:
        self._unwritten: Overlay | None = None
        self._failed = ""

    def changed(self, overlay: Overlay) -> None:
        """The changes are others."""
        self._unwritten = overlay

    def tick(self, path: str | None) -> None:
        """Write what has changed."""
        overlay, self._unwritten = self._unwritten, None
        if overlay is None or path is None:
            return
        try:
            _write(path, json.dumps({"format": _FORMAT, "servers": overlay.document()}, indent=1))
            self._failed = ""
        except OSError as error:
            self._unwritten = overlay  # with the next tick again
            why = error.strerror or str(error)
            if why != self._failed:
                log.error("state_file %s can't be written: %s", path, why)
            self._failed = why


def _write(path: str, text: str) -> None:
    real = os.path.realpath(path)
    number, temporary = tempfile.mkstemp(prefix=".pylb-state-", dir=os.path.dirname(real))
    try:
        with open(number, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, real)
    except BaseException:
        os.unlink(temporary)
        raise
