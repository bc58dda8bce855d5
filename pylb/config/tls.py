"""TLS contexts, for listeners and for connections to servers, made of the files that a configuration names.

It knows the configuration and no sockets; what a connection has agreed on, `pylb.net.tls` tells. OpenSSL
does the work, through the standard library's `ssl`. It offers no OCSP stapling on the server's side, so there
is none.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from cryptography import x509
from cryptography.x509.oid import NameOID

from pylb.config.files import require_regular
from pylb.config.model import Config, Discover, ServerTls, Tls

# Mozilla's "intermediate" list: forward secrecy and authenticated encryption only.
CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)


_CHAIN, _KEY = "fullchain.pem", "privkey.pem"
"""How ACME clients (Let's Encrypt's certbot) name the two in a certificate's folder below ``live/``."""


def certificate_files(place: str) -> list[tuple[Path, Path]]:
    """(certificate, key) files: of one ``.pem`` that holds both, or of all pairs in a folder.

    In a folder, ``NAME.pem`` holds both, or ``NAME.crt`` the certificate chain and ``NAME.key`` the key.
    Where ``fullchain.pem`` and ``privkey.pem`` lie, in it or in its subfolders, they are a pair, and the
    other files of an ACME client beside them (``cert.pem``, ``chain.pem``) are not needed.

    Raises:
        OSError: there is no such file or folder, or no certificate in it.
    """
    path = Path(place)
    if not path.is_dir():
        if not path.exists():
            raise FileNotFoundError(f"{place}: no such file or folder")
        return [_pair(path)]
    found = []
    if _is_acme(path):
        found.append((path / _CHAIN, path / _KEY))
    for entry in sorted(path.iterdir()):
        if entry.is_dir():
            if _is_acme(entry):
                found.append((entry / _CHAIN, entry / _KEY))
        elif entry.suffix in (".pem", ".crt") and not (_is_acme(path) and entry.name in _OTHERS):
            found.append(_pair(entry))
    if not found:
        raise FileNotFoundError(
            f"{place}: no *.pem and no *.crt in this folder, and no subfolder with {_CHAIN} and {_KEY}"
        )
    return found


_OTHERS = (_CHAIN, _KEY, "cert.pem", "chain.pem")


def _is_acme(folder: Path) -> bool:
    return (folder / _CHAIN).is_file() and (folder / _KEY).is_file()


def _pair(path: Path) -> tuple[Path, Path]:
    key = path.with_suffix(".key")
    if path.name == _CHAIN and not key.is_file():
        key = path.with_name(_KEY)
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
            connection.asked_name = name  # type: ignore[attr-defined]  # pylb.net.tls.asked_name
            wanted = name.lower().rstrip(".")
            chosen = contexts.get(wanted) or contexts.get("*." + wanted.partition(".")[2])
            if chosen is not None:
                connection.context = chosen

    # The handshake begins with this context, and OpenSSL takes sessions and settings from it.
    default.sni_callback = choose
    return default


def _listener_context(config: Tls, certificate: Path, key: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = (
        ssl.TLSVersion.TLSv1_3 if config.min_version == "1.3" else ssl.TLSVersion.TLSv1_2
    )
    context.set_ciphers(config.ciphers or CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_RENEGOTIATION
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
    """The context for connections to servers; raises as `server_context`."""
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
    """The context for asking a URL for servers, None where it isn't https; raises as `server_context`."""
    if config.http is None or not config.http.startswith("https:"):
        return None
    return client_context(ServerTls(ca=config.ca))
