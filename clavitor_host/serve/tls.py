"""TLS contexts from files, with errors a person can act on."""

from __future__ import annotations

import ssl
import time
from pathlib import Path

from loguru import logger

from clavitor_host.errors import StartError
from clavitor_host.serve.settings import TlsSettings

CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


class Certificates:
    """The context that new connections shake hands with; `reload` replaces it when the new files are good."""

    def __init__(self, settings: TlsSettings, *, http2: bool = True) -> None:
        self._settings = settings
        self._http2 = http2
        self.context = load_context(settings, http2=http2)

    def reload(self) -> bool:
        """Read the files again. With bad ones the old context stays, an error is logged, and False is returned."""
        log = logger.bind(component="serve", certificate=str(self._settings.certificate))
        try:
            self.context = load_context(self._settings, http2=self._http2)
        except StartError as error:
            log.bind(error=str(error)).error("TLS files were not reloaded; the old ones stay in use")
            return False
        log.info("TLS files reloaded")
        return True


def load_context(settings: TlsSettings, *, http2: bool = True) -> ssl.SSLContext:
    """Return a server context: TLS 1.2 or newer, ALPN h2 and http/1.1. Raises `StartError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["h2", "http/1.1"] if http2 else ["http/1.1"])
    _load_chain(context, settings.certificate, settings.key)
    if settings.client_certificates != "none":
        _load_client_ca(context, settings.client_ca)
        context.verify_mode = ssl.CERT_REQUIRED if settings.client_certificates == "required" else ssl.CERT_OPTIONAL
    _warn_of_dates(settings.certificate)
    return context


def _load_chain(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    encrypted = False

    def password() -> str:
        nonlocal encrypted
        encrypted = True
        return ""

    _readable(certificate, "certificate")
    _readable(key, "key")
    try:
        context.load_cert_chain(certificate, key, password)
    except (ssl.SSLError, ValueError) as error:
        if encrypted:
            raise StartError(
                f"TLS key {key} is encrypted; store it without a passphrase, readable by this user only."
            ) from None
        if getattr(error, "reason", "") == "KEY_VALUES_MISMATCH":
            raise StartError(f"TLS key {key} does not belong to certificate {certificate}.") from None
        if "-----BEGIN CERTIFICATE" not in certificate.read_text("latin-1"):
            raise StartError(f"TLS certificate {certificate} holds no PEM certificate.") from None
        if "PRIVATE KEY-----" not in key.read_text("latin-1"):
            raise StartError(f"TLS key {key} holds no PEM private key.") from None
        reason = getattr(error, "reason", None) or error
        raise StartError(f"TLS certificate {certificate} and key {key} cannot be used: {reason}.") from None


def _load_client_ca(context: ssl.SSLContext, path: Path | None) -> None:
    if path is None:
        raise StartError("TLS client certificates are asked for, but no client CA is given.")
    _readable(path, "client CA")
    try:
        context.load_verify_locations(path)
    except ssl.SSLError:
        raise StartError(f"TLS client CA {path} holds no PEM certificate.") from None


def _readable(path: Path, what: str) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise StartError(f"TLS {what} {path} cannot be read: {error.strerror}.") from None


def _warn_of_dates(certificate: Path) -> None:
    from cryptography import x509  # slow to import, and only needed with TLS

    try:
        leaf = x509.load_pem_x509_certificates(certificate.read_bytes())[0]
    except ValueError:
        return
    log = logger.bind(component="serve", certificate=str(certificate))
    now = time.time()
    if leaf.not_valid_after_utc.timestamp() < now:
        log.warning("The TLS certificate has expired")
    elif leaf.not_valid_before_utc.timestamp() > now:
        log.warning("The TLS certificate is not valid yet")
    elif leaf.not_valid_after_utc.timestamp() < now + 14 * 86_400:
        log.warning("The TLS certificate expires within 14 days")
