"""TLS contexts, for listeners and for connections to servers.

OpenSSL does the work, through the standard library's `ssl`. It offers no OCSP stapling on the server's
side, so there is none.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.x509.oid import NameOID

from pylb.config.model import Config, ServerTls, Tls

# Mozilla's "intermediate" list: forward secrecy and authenticated encryption only.
CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)


def certificate_files(place: str) -> list[tuple[Path, Path]]:
    """(certificate, key) files: of one ``.pem`` that holds both, or of all pairs in a folder.

    In a folder, ``NAME.pem`` holds both, or ``NAME.crt`` the certificate chain and ``NAME.key`` the key.

    Raises:
        OSError: there is no such file or folder, or no certificate in it.
    """
    path = Path(place)
    if path.is_file():
        return [_pair(path)]
    if not path.is_dir():
        raise FileNotFoundError(f"{place}: no such file or folder")
    found = [_pair(file) for file in sorted(path.iterdir()) if file.suffix in (".pem", ".crt")]
    if not found:
        raise FileNotFoundError(f"{place}: no *.pem and no *.crt in this folder")
    return found


def _pair(path: Path) -> tuple[Path, Path]:
    key = path.with_suffix(".key")
    return path, key if key.is_file() else path


def names_of(certificate: Path) -> set[str]:
    """The names that a certificate is for, in lower case."""
    parsed = x509.load_pem_x509_certificate(certificate.read_bytes())
    try:
        alternative = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = alternative.get_values_for_type(x509.DNSName)
    except x509.ExtensionNotFound:
        names = [str(one.value) for one in parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return {name.lower() for name in names}


def listener_contexts(config: Config) -> dict[str, ssl.SSLContext]:
    """The contexts of all binds with TLS, by bind; raises as `server_context`.

    Made before workers are forked. A context holds the keys of its session tickets (OpenSSL makes them at
    random with it), so this way a client resumes its session with whichever worker it meets.
    """
    contexts = {}
    for frontend in config.frontends:
        if frontend.tls is not None:
            context = server_context(frontend.tls)
            contexts.update({str(bind): context for bind in frontend.bind})
    return contexts


def server_context(config: Tls) -> ssl.SSLContext:
    """The context of a listener; the certificate follows the name that the client asks for.

    Raises:
        OSError: a file is missing or can't be read.
        ssl.SSLError: a certificate, key or cipher list is unusable.
        ValueError: likewise.
    """
    contexts: dict[str, ssl.SSLContext] = {}
    default: ssl.SSLContext | None = None
    for certificate, key in certificate_files(config.certificates):
        context = _listener_context(config, certificate, key)
        if default is None or certificate.stem == "default":
            default = context
        for name in names_of(certificate):
            contexts.setdefault(name, context)
    assert default is not None

    def choose(connection: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        if name is not None:
            connection.asked_name = name  # type: ignore[attr-defined]  # see asked_name()
            wanted = name.lower().rstrip(".")
            chosen = contexts.get(wanted) or contexts.get("*." + wanted.partition(".")[2])
            if chosen is not None:
                connection.context = chosen

    # The one that the handshake begins with; OpenSSL reads sessions and settings of this one.
    default.sni_callback = choose
    return default


def asked_name(connection: ssl.SSLObject | None) -> str:
    """The server name that the client gave in its handshake; empty without one."""
    name: str = getattr(connection, "asked_name", "")
    return name


def _listener_context(config: Tls, certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = (
        ssl.TLSVersion.TLSv1_3 if config.min_version == "1.3" else ssl.TLSVersion.TLSv1_2
    )
    context.set_ciphers(config.ciphers or CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_RENEGOTIATION
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"{certificate}: no usable certificate and key: {error}") from None
    context.set_alpn_protocols(list(config.alpn))
    if config.client_certificate != "none":
        context.verify_mode = (
            ssl.CERT_REQUIRED if config.client_certificate == "required" else ssl.CERT_OPTIONAL
        )
        try:
            context.load_verify_locations(config.client_ca)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(f"{config.client_ca}: no usable CA file: {error}") from None
    return context


def _no_password() -> str:
    raise ValueError("the key is encrypted, and nobody is there to type its password")


def client_context(config: ServerTls, http2: bool = False) -> ssl.SSLContext:
    """The context for connections to servers; raises as `server_context`."""
    try:
        context = ssl.create_default_context(cafile=config.ca)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"{config.ca}: no usable CA file: {error}") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2"] if http2 else ["http/1.1"])
    if not config.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if config.certificate is not None:
        try:
            context.load_cert_chain(config.certificate, config.key, password=_no_password)
        except (OSError, ssl.SSLError) as error:
            raise ValueError(f"{config.certificate}: no usable certificate and key: {error}") from None
    return context


def subject(connection: ssl.SSLObject | None) -> bytes:
    """The subject of a client's verified certificate, ``CN=x,O=y``, or nothing."""
    certificate = connection.getpeercert() if connection is not None else None
    if not certificate:
        return b""
    short = {"commonName": "CN", "organizationName": "O", "organizationalUnitName": "OU", "countryName": "C"}
    parts = []
    groups: Any = certificate.get("subject", ())
    for group in groups:
        for name, value in group:
            # Whoever issued the certificate must not be able to write further header fields.
            clean = "".join(c if c.isprintable() and c not in ",\\" else f"\\{ord(c):x}" for c in str(value))
            parts.append(f"{short.get(str(name), str(name))}={clean}")
    return ",".join(parts).encode("ascii", "backslashreplace")
