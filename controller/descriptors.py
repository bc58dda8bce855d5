"""How many descriptors this process has, may have, and needs for the places of `controller.places`.

Knows numbers and the kernel, and no peer.
"""

from __future__ import annotations

import os
import resource

from controller.places import MAX_STRANGERS, MAX_TRUSTED, RESERVE, within


def descriptors_in_use() -> int:
    """Of this process."""
    return len(os.listdir("/proc/self/fd")) - 1  # listing takes one


def raise_descriptor_limit() -> None:
    """Make ``ulimit -n`` large enough for all places, as far as this process may."""
    needed = MAX_TRUSTED + MAX_STRANGERS + RESERVE + descriptors_in_use()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        most = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def places_at_hand() -> tuple[int, int]:
    """Places for trusted peers and for strangers, as far as ``ulimit -n`` goes."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return within(limit if limit != resource.RLIM_INFINITY else 1 << 20, descriptors_in_use())
