"""What the controller found before it acted, on disk: after ``kill -9`` the next start restores it.

One JSON file, replaced as a whole before each action and after each restoration. It is for this boot: after
another one the machines begin with what they are configured to. A lock keeps a second controller from acting
with the same file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

_BOOT = Path("/proc/sys/kernel/random/boot_id")


@dataclass(slots=True)
class Found:
    """One machine as it was found.

    ``place`` is the lever's name for it (a cgroup, a UUID), ``usual`` its weight before, ``given`` the one
    that the controller set; ``vcpus`` those that it brought online, in
    the machine that the process ``pid`` runs.
    """

    place: str = ""
    usual: int = 0
    given: int = 0
    vcpus: list[int] = field(default_factory=list)
    pid: int = 0

    def __bool__(self) -> bool:
        return bool(self.place or self.vcpus)


class Kept:
    """The file, and what it says by machine. Call `save` before acting on what was changed here.

    Raises:
        OSError: it can't be written, or somebody else may write it, or another controller has it.
        ValueError: it is not what this class writes.
    """

    def __init__(self, path: Path, boot: Path = _BOOT) -> None:
        self.path = path
        self.machines: dict[str, Found] = {}
        self._boot = boot.read_text().strip()
        self._lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._load()
        except BlockingIOError:
            os.close(self._lock)
            raise OSError(errno.EBUSY, f"{path}: another controller acts with this file") from None
        except BaseException:
            os.close(self._lock)
            raise

    def save(self) -> None:
        """Write all of it; only when this returns it is safe to act.

        Raises:
            OSError: it could not be written.
        """
        known = {name: asdict(found) for name, found in self.machines.items() if found}
        temporary = f"{self.path}.new"
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        handle = os.open(temporary, flags, 0o600)
        try:
            os.write(handle, json.dumps({"boot": self._boot, "machines": known}, indent=1).encode() + b"\n")
            os.fsync(handle)
        finally:
            os.close(handle)
        os.replace(temporary, self.path)

    def close(self) -> None:
        """Let another controller have it; without machines to restore the file goes."""
        if not any(self.machines.values()):
            with contextlib.suppress(OSError):
                self.path.unlink()
        os.close(self._lock)

    def _load(self) -> None:
        try:
            handle = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return
        with open(handle, "rb") as file:
            about = os.fstat(handle)
            if about.st_uid != os.geteuid() or about.st_mode & 0o022:
                raise OSError(errno.EPERM, f"{self.path}: somebody else may write it: remove it")
            try:
                document = json.loads(file.read())
                if document["boot"] == self._boot:
                    self.machines = {name: _found(one) for name, one in document["machines"].items()}
            except (ValueError, LookupError, TypeError, AttributeError):
                raise ValueError(f"{self.path}: it is not what a controller writes: remove it") from None


def _found(one: dict[str, Any]) -> Found:
    """Read it; raises ValueError and the like where it is something else."""
    vcpus = [int(vcpu) for vcpu in one["vcpus"]]
    return Found(str(one["place"]), int(one["usual"]), int(one["given"]), vcpus, int(one["pid"]))
