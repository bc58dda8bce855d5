"""The facts about the machine that go with every figure; nothing needs to be installed for them."""

from __future__ import annotations

import os
import platform
import re
import time
from pathlib import Path


def machine() -> dict[str, str]:
    """What this was measured on."""
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cpu": f"{os.cpu_count()} x {model[1] if model else platform.machine()}",
        "memory": f"{memory / 2**30:.0f} GiB",
        "kernel": platform.release(),
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
    }


def in_words() -> str:
    """The same in one line, for a report."""
    return "; ".join(f"{key}: {value}" for key, value in machine().items())
