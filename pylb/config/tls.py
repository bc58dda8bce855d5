"""TLS contexts, for listeners and for connections to servers, made of the files that a configuration names.

It knows the configuration and no sockets; what a connection has agreed on, `pylb.net.tls` tells. OpenSSL
does the work, through the standard library's `ssl`. It offers no OCSP stapling on the server's side, so there
is none.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Hashable
from functools import partial
from pathlib import Path
from typing import Any

from pylb.config.certificates import Certificate, certificate_files, read, together
from pylb.config.files import LARGEST_PEM, read_regular, require_regular
from pylb.config.model import Config, Discover, ServerTls, Tls

# Mozilla's "intermediate" list: forward secrecy and authenticated encryption only.
CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)


SESSIONS_AGE = 86400.0
"""Seconds from which on the keys of session tickets are made anew at a reload."""


class TlsObject(ssl.SSLObject):
    """One TLS connection. The event loop fetches these three methods once for each connection and calls them
    several times for each request, so it gets OpenSSL's own, without a frame of Python around them."""

    @property
    def read(self) -> Any:
        """As `ssl.SSLObject.read`."""
        return self._sslobj.read  # type: ignore[attr-defined]

    @property
    def write(self) -> Any:
        """As `ssl.SSLObject.write`."""
        return self._sslobj.write  # type: ignore[attr-defined]

    @property
    def pending(self) -> Any:
        """As `ssl.SSLObject.pending`."""
        return self._sslobj.pending  # type: ignore[attr-defined]


class ListenerTls:
    """The TLS of one frontend's listeners, made before workers are forked.

    Args:
        sessions: the context that a connection begins with. It has the keys of session tickets, which
            OpenSSL makes at random with it. It stays the same over reloads (`Sessions`), so a client resumes
            its session with whichever worker it meets. Its certificates are of the generation that made it.
        contexts: those with certificates, by the names that clients ask for.
        default: the one for any other name, and for none.
    """

    def __init__(
        self, sessions: ssl.SSLContext, contexts: dict[str, ssl.SSLContext], default: ssl.SSLContext
    ) -> None:
        self._sessions = sessions
        self._contexts = contexts
        self._default = default

    def context(self) -> ssl.SSLContext:
        """The context that connections begin with.

        To be called in the process that serves them, and for one generation there: all generations have this
        context in common, and not the certificates."""
        self._sessions.sni_callback = self._choose
        return self._sessions

    def _choose(self, connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        """Give a handshake its certificates; OpenSSL calls this for each, also if no name is asked for."""
        chosen = None
        if name is not None:
            connection.asked_name = name  # type: ignore[attr-defined]  # pylb.net.tls.asked_name
            wanted = name.lower().rstrip(".")
            chosen = self._contexts.get(wanted) or self._contexts.get("*." + wanted.partition(".")[2])
        context = chosen or self._default
        if context is not self._sessions:
            connection.context = context


class Sessions:
    """The contexts with the keys of session tickets, which outlive reloads.

    Who resumes a session isn't asked for a certificate again. So where anything is changed that decides who
    may connect and how, there is another context, and older tickets are worth nothing."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, tuple[float, ssl.SSLContext]] = {}

    def context(self, frontend: str, now: float, config: Tls, new: ssl.SSLContext) -> ssl.SSLContext:
        """That of a frontend: the one of before, if it is younger than `SESSIONS_AGE` and fits, or ``new``.

        Args:
            now: seconds, by a clock that doesn't jump.
        """
        self._kept = {key: one for key, one in self._kept.items() if now - one[0] < SESSIONS_AGE}
        issuers = read_regular(config.client_ca, LARGEST_PEM) if config.client_ca is not None else b""
        key = (frontend, config.min_version, config.ciphers, config.client_certificate, issuers)
        return self._kept.setdefault(key, (now, new))[1]


def listeners_tls(config: Config, sessions: Sessions, now: float) -> dict[str, ListenerTls]:
    """That of all binds with TLS, by bind; arguments as of `Sessions`, raises as `listener_tls`."""
    made = {}
    for frontend in config.frontends:
        if frontend.tls is not None:
            one = listener_tls(frontend.tls, partial(sessions.context, frontend.name, now))
            made.update({str(bind): one for bind in frontend.bind})
    return made


def listener_tls(
    config: Tls, sessions: Callable[[Tls, ssl.SSLContext], ssl.SSLContext] | None = None
) -> ListenerTls:
    """The TLS of a frontend's listeners; certificates follow the name and kinds of key of a client.

    Args:
        sessions: given a new context, gives the one with the keys of tickets; else that is the new one.

    Raises:
        OSError: a file is missing or can't be read.
        ssl.SSLError: a certificate, key or cipher list is unusable.
        ValueError: likewise.
    """
    contexts: dict[tuple[Certificate, ...], ssl.SSLContext] = {}
    those: list[Certificate] = []
    for place in config.certificates:
        for file, key in certificate_files(place):
            context = _listener_context(config, (file, key))  # first, as it says best what is wrong with them
            those.append(read(file, key))
            contexts[those[-1],] = context

    def of(group: tuple[Certificate, ...]) -> ssl.SSLContext:
        if group not in contexts:
            contexts[group] = _listener_context(config, *((one.file, one.key) for one in group))
        return contexts[group]

    first = next((one for one in reversed(those) if one.file.stem == "default"), those[0])
    default = of(together(first, first.names, those))
    named: dict[str, list[Certificate]] = {}
    for one in those:
        for name in one.names:
            named.setdefault(name, []).append(one)
    by_name = {name: of(together(some[0], frozenset((name,)), some)) for name, some in named.items()}
    return ListenerTls(default if sessions is None else sessions(config, default), by_name, default)


def _listener_context(config: Tls, *certificates: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = TlsObject
    context.num_tickets = 1  # a tenth of a handshake each; who resumes gets another one
    context.minimum_version = (
        ssl.TLSVersion.TLSv1_3 if config.min_version == "1.3" else ssl.TLSVersion.TLSv1_2
    )
    context.set_ciphers(config.ciphers or CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_RENEGOTIATION
    for certificate, key in certificates:
        _load_chain(context, certificate, key)
    context.set_alpn_protocols(list(config.alpn))
    if config.client_certificate != "none":
        context.verify_mode = (
            ssl.CERT_REQUIRED if config.client_certificate == "required" else ssl.CERT_OPTIONAL
        )
        try:
            require_regular(config.client_ca or "")
            context.load_verify_locations(config.client_ca)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(f"{config.client_ca}: no usable CA file: {error}") from None
    return context


def _load_chain(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    """Load a certificate with its key; ValueError says what is wrong with them."""
    try:
        require_regular(certificate)
        require_regular(key)
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        why = str(error)
        if getattr(error, "reason", None) == "KEY_VALUES_MISMATCH":
            why = f"the key in {key} belongs to another certificate"
        elif isinstance(error, ssl.SSLError) and b"PRIVATE KEY-----" not in key.read_bytes():
            why = f"there is no private key in it, and no {certificate.with_suffix('.key').name} beside it"
            if key != certificate:
                why = f"there is no private key in {key}"
        raise ValueError(f"{certificate}: no usable certificate and key: {why}") from None


def _no_password() -> str:
    raise ValueError("the key is encrypted, and nobody is there to type its password")


def client_context(config: ServerTls, http2: bool = False) -> ssl.SSLContext:
    """The context for connections to servers; raises as `listener_tls`."""
    try:
        if config.ca is not None:
            require_regular(config.ca)
        context = ssl.create_default_context(cafile=config.ca)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"{config.ca}: no usable CA file: {error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"] if http2 else ["http/1.1"])
    if not config.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if config.certificate is not None:
        _load_chain(context, Path(config.certificate), Path(config.key or config.certificate))
    return context


def source_context(config: Discover) -> ssl.SSLContext | None:
    """The context for asking a URL for servers, None where it isn't https; raises as `listener_tls`."""
    if config.http is None or not config.http.startswith("https:"):
        return None
    return client_context(ServerTls(ca=config.ca))
