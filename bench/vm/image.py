"""What guests boot from: Debian 12, its cloud kernel, Python, nginx, QEMU's agent, pylb's dependencies.

Built once for each recipe (about a minute, root) and kept in the user's cache folder. The kernel has NVMe and
ext4 built in, so it boots from an emulated NVMe disk and needs no initial RAM disk; process 1 is `init.sh`.
pylb's own source is no part of it: `source_disk` makes a second disk of the working tree, in a second.
"""

from __future__ import annotations

import compileall
import fcntl
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
INIT = Path(__file__).with_name("init.sh")
REQUIREMENTS = ROOT / "deploy/requirements.lock"
DEBIAN = "bookworm"
PACKAGES = (
    "linux-image-cloud-amd64", "python3", "qemu-guest-agent", "tini", "kmod", "iproute2",
    "mount", "procps", "nginx-light",
)  # fmt: skip
LEAN = (
    "path-exclude=/usr/share/doc/*",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
)
GUEST_PYTHON = "3.11"
SIZE = "1200M"  # of the file system; what is empty of it takes no room on the host
_TOOLS = {
    "qemu-system-x86_64": "qemu-system-x86",
    "mmdebstrap": "mmdebstrap",
    "mke2fs": "e2fsprogs",
    "ip": "iproute2",
    "setpriv": "util-linux",
}


def missing() -> str:
    """Why guests can't run here, in words; "" where they can."""
    if os.geteuid() != 0:
        return "guests need root, for their network and for building their image"
    lacking = [package for tool, package in _TOOLS.items() if shutil.which(tool) is None]
    if lacking:
        return f"guests need {', '.join(_TOOLS)}; on Debian: apt-get install {' '.join(lacking)}"
    if not os.path.exists("/dev/net/tun"):
        return "guests need /dev/net/tun, for their network"
    return ""


@dataclass(frozen=True)
class Image:
    """Files that a guest boots from; both stay as they are."""

    kernel: Path
    disk: Path
    """A raw ext4 file system; each guest writes to a snapshot of it."""


def image() -> Image:
    """The guests' image, built now if it isn't there.

    Raises:
        RuntimeError: guests can't run here; says why.
        subprocess.CalledProcessError: mmdebstrap or pip failed; what they said went to standard error.
    """
    if why := missing():
        raise RuntimeError(why)
    recipe = [DEBIAN, *PACKAGES, *LEAN, SIZE, INIT.read_text(), REQUIREMENTS.read_text()]
    name = hashlib.sha256("\0".join(recipe).encode()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pylb-bench"
    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"guest-{name}"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two runs build it once
        if not folder.exists():
            for old in sorted(cache.glob("guest-*"), key=os.path.getmtime)[:-2]:
                shutil.rmtree(old)  # two are kept: another working tree may have another recipe
            with tempfile.TemporaryDirectory(dir=cache, prefix="building-") as work:
                _build(Path(work))
                (Path(work) / "done").rename(folder)
    return Image(folder / "vmlinuz", folder / "disk")


def _build(work: Path) -> None:
    site, root, done = work / "site", work / "root", work / "done"
    done.mkdir()
    # The releases that the container images have, for the guest's Python, whatever this one is.
    _call(
        sys.executable, "-m", "pip", "install", "-q", "--target", str(site), "--only-binary=:all:",
        f"--python-version={GUEST_PYTHON}", "-r", str(REQUIREMENTS),
    )  # fmt: skip
    _call(
        "mmdebstrap", "--quiet", "--variant=apt", f"--include={','.join(PACKAGES)}",
        *(f"--dpkgopt={option}" for option in LEAN), DEBIAN, str(root),
        INITRD="No",
    )  # fmt: skip
    shutil.copytree(site, root / "opt/site")
    (root / "opt/pylb").mkdir()
    _call("chroot", str(root), "python3", "-m", "compileall", "-q", "-j0", "/opt/site", "/usr/lib/python3.11")
    shutil.copy(INIT, root / "sbin/pylb-init")
    (root / "sbin/pylb-init").chmod(0o755)
    if not (root / "dev/console").exists():
        os.mknod(root / "dev/console", 0o600 | 0o020000, os.makedev(5, 1))
    kernel = next((root / "boot").glob("vmlinuz-*"))
    shutil.copy(kernel, done / "vmlinuz")
    for needless in ("var/cache/apt", "var/lib/apt/lists"):
        shutil.rmtree(root / needless, ignore_errors=True)
    _call("mke2fs", "-q", "-t", "ext4", "-d", str(root), str(done / "disk"), SIZE)


def _call(*command: str, **environment: str) -> None:
    """Run a command whose output is of interest only when it fails."""
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True)
    if done.returncode:
        sys.stderr.write(done.stdout + done.stderr)
        done.check_returncode()


def source_disk(file: Path) -> None:
    """Write this tree's ``pylb``, ``controller`` and ``bench/vm`` to ``file``, a tar archive to be a disk.

    With byte code, where this Python is the guest's: the guest would need ten seconds to compile it.
    """
    with tempfile.TemporaryDirectory() as work:
        for name in ("pylb", "controller", "bench/vm"):
            shutil.copytree(ROOT / name, Path(work) / name, ignore=shutil.ignore_patterns("__pycache__"))
        (Path(work) / "bench/__init__.py").touch()
        if f"{sys.version_info.major}.{sys.version_info.minor}" == GUEST_PYTHON:
            compileall.compile_dir(work, quiet=1, stripdir=work, prependdir="/opt/pylb")
        with tarfile.open(file, "w") as archive:
            archive.add(work, ".")
    with file.open("ab") as disk:  # whole sectors
        disk.write(b"\0" * (-disk.seek(0, io.SEEK_END) % 512))
