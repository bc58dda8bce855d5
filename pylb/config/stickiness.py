"""From ``[backend.sticky]`` to `pylb.sticky`: what workers and ``explain`` ask. Above `model` and `files`."""

from __future__ import annotations

import hmac
import math
from collections.abc import Iterator

from pylb.config.files import read_regular
from pylb.config.model import Backend, Config
from pylb.config.model import Sticky as Section
from pylb.sticky.sticky import Settings, Sticky

_LARGEST_SECRET = 65536
_SHORTEST_SECRET = 16


def secret(section: Section) -> bytes | None:
    """What ``secret_file`` holds, without white space around it; None without such a key.

    Raises:
        OSError: it can't be read.
        ValueError: it is too short to be one.
    """
    if section.secret_file is None:
        return None
    found = read_regular(section.secret_file, _LARGEST_SECRET).strip()
    if len(found) < _SHORTEST_SECRET:
        raise ValueError(f"{section.secret_file}: a secret has {_SHORTEST_SECRET} bytes at least")
    return found


def secrets(config: Config, random: bytes) -> dict[str, bytes]:
    """The secrets of all backends by name, made of ``random`` where there is no file; raises as `secret`."""
    found = {}
    for backend in config.backends:
        if backend.sticky is not None and backend.sticky.values != "name":
            own = secret(backend.sticky)
            found[backend.name] = hmac.digest(random, b"sticky", "sha256") if own is None else own
    return found


def compiled(config: Backend, secret: bytes = b"") -> Sticky | None:
    """The stickiness of a backend; None where it has none."""
    section = config.sticky
    if section is None:
        return None
    settings = Settings(
        cookie=section.cookie.encode(),
        mode=section.mode,
        values=section.values,
        indirect=section.indirect,
        nocache=section.nocache,
        preserve=section.preserve,
        attributes="".join(f"; {one}" for one in _attributes(section)).encode(),
        max_idle=math.ceil(section.max_idle or 0),
        max_life=math.ceil(section.max_life or 0),
    )
    return Sticky(settings, secret, config.name)


def _attributes(section: Section) -> Iterator[str]:
    yield f"Path={section.path}"
    if section.domain is not None:
        yield f"Domain={section.domain}"
    if section.max_age is not None:
        yield f"Max-Age={math.ceil(section.max_age)}"
    if section.http_only:
        yield "HttpOnly"
    if section.secure:
        yield "Secure"
    if section.same_site is not None:
        yield f"SameSite={section.same_site}"
