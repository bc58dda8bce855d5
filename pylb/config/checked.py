"""What a backend's check means for one of its servers: where it goes, and what an exchange is made of.

Above `tls`, below `trials` and the control plane, which ask the same questions.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import replace

from pylb.config.address import CLIENTS_PORT, Address
from pylb.config.means import Unusable, named
from pylb.config.model import Backend, Check, CheckType, Config, Server
from pylb.config.tls import client_context
from pylb.health.expect import Expected, Request
from pylb.health.pace import Pace
from pylb.health.protocols import Settings
from pylb.health.state import Bounds
from pylb.rules.regex import Regex, TooLong


def check_of(backend: Backend, server: Server) -> Check | None:
    """The check of a server; None where it isn't checked."""
    return backend.check if server.check else None


def type_of(backend: Backend, check: Check) -> CheckType:
    """What is spoken in a check."""
    return check.spoken or ("tls" if has_tls(backend, check) else "tcp")


def has_tls(backend: Backend, check: Check) -> bool:
    """Whether a check speaks TLS: as the backend does, but not by itself on another port (as in HAProxy)."""
    if check.spoken == "tls":
        return True
    if check.tls is not None:
        return check.tls
    return backend.tls is not None and check.port is None and check.spoken != "tcp"


def sends_proxy(backend: Backend, check: Check) -> str:
    """The version of the PROXY header that a check begins with, or ``off``."""
    wanted = check.port is None if check.send_proxy is None else check.send_proxy
    return backend.send_proxy if wanted else "off"


def is_http2(backend: Backend, check: Check) -> bool:
    """Whether a check speaks HTTP/2: gRPC does, and HTTP where the backend does, on the same port."""
    spoken = check.spoken
    return spoken == "grpc" or spoken == "http" and backend.http2 and check.port is None


def target(server: Server, check: Check) -> Address:
    """Where the check of a server connects to; raises `means.Unusable` where its port isn't known."""
    address = server.address
    port = server.check_port or check.port
    if address.is_unix:
        return address
    if port is None and address.port == CLIENTS_PORT:
        with named("port"):
            raise ValueError(f"server {server.name} has no port; set it here, or as its check_port")
    return address if port is None else replace(address, port=port)


def settings(backend: Backend, check: Check, server: Server, unsafe_regex: bool) -> Settings:
    """What an exchange is made of; raises `means.Unusable` where the regular expression can't be used."""
    address = target(server, check)
    host = check.host or ("localhost" if address.is_unix else str(address))
    if check.spoken == "smtp":
        host = check.host or "localhost"
    return Settings(
        Request(check.method, check.path, host, tuple(check.headers.items())),
        Expected(
            check.status,
            check.body.encode(),
            _search(check.body_regex, unsafe_regex) if check.body_regex else None,
            check.body_regex,
        ),
        http2=is_http2(backend, check),
        tls=has_tls(backend, check),
        service=check.service,
        user=check.user,
        send=check.send.encode(),
    )


def pace(check: Check) -> Pace:
    """How often a server is checked."""
    interval = check.interval
    return Pace(
        interval, check.fast_interval or interval, check.down_interval or interval, check.jitter / 100
    )


def bounds(check: Check) -> Bounds:
    """How many checks change its state."""
    return Bounds(check.rise, check.fall)


def contexts(config: Config) -> dict[str, ssl.SSLContext]:
    """The contexts of all checks that speak TLS, by backend; raises as `pylb.config.tls.client_context`."""
    return {
        backend.name: _context(backend, backend.check)
        for backend in config.backends
        if backend.check is not None and has_tls(backend, backend.check)
    }


def _context(backend: Backend, check: Check) -> ssl.SSLContext:
    if backend.tls is not None:
        return client_context(backend.tls, is_http2(backend, check))
    # pylb speaks no TLS to these servers: nothing says whose certificate they have.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"] if is_http2(backend, check) else ["http/1.1"])
    return context


def server_name(backend: Backend, server: Server) -> str | None:
    """Expected in a server's certificate, and sent as its name (SNI)."""
    return (backend.tls.name if backend.tls is not None else None) or server.address.host or None


def problems(config: Config) -> list[str]:
    """One line for each check that can't be made, with the key's path."""
    found = []
    for number, backend in enumerate(config.backends):
        for server in backend.servers:
            check = check_of(backend, server)
            if check is None:
                continue
            try:
                settings(backend, check, server, config.unsafe_regex)
            except Unusable as error:
                found.append(f"backend[{number}].check.{error}")
    return list(dict.fromkeys(found))


def _search(expression: str, unsafe: bool) -> Callable[[bytes], bool]:
    with named("body_regex"):
        regex = Regex(expression, unsafe)

    def found(body: bytes) -> bool:
        try:
            return regex.search(body) is not None
        except TooLong:  # Python's engine, which is given little
            return False

    return found
