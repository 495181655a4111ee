"""TLS from a certificate and a key, the two files of llama-server's --ssl-cert-file and --ssl-key-file."""

from __future__ import annotations

import ssl
from pathlib import Path

from gguf_embed.errors import ConfigError

CERTIFICATE_FLAG, KEY_FLAG = "--ssl-cert-file", "--ssl-key-file"
_CERTIFICATE, _KEY = b"-----BEGIN CERTIFICATE-----", b"PRIVATE KEY-----"


def load_tls(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    """The context of a server with this certificate; None for neither file.

    Raises `ConfigError`, which names the file that is missing, wrong, encrypted or of another pair.
    """
    if certificate is None and key is None:
        return None
    if certificate is None or key is None:
        given, missing = (KEY_FLAG, CERTIFICATE_FLAG) if certificate is None else (CERTIFICATE_FLAG, KEY_FLAG)
        raise ConfigError(f"{given} needs {missing} as well: give both, or neither for plain HTTP")
    _check(certificate, CERTIFICATE_FLAG, _CERTIFICATE, "a PEM certificate (-----BEGIN CERTIFICATE-----)")
    _check(key, KEY_FLAG, _KEY, "a PEM private key (-----BEGIN PRIVATE KEY-----)")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key, password=lambda: _no_password(key))
    except ssl.SSLError as exc:
        reason = exc.reason or str(exc)
        if reason == "KEY_VALUES_MISMATCH":
            raise ConfigError(f"{KEY_FLAG} {key} is not the key of {CERTIFICATE_FLAG} {certificate}") from exc
        raise ConfigError(f"{CERTIFICATE_FLAG} {certificate} with {KEY_FLAG} {key} cannot be used: {reason}") from exc
    return context


def _check(path: Path, flag: str, mark: bytes, what: str) -> None:
    try:
        content = path.read_bytes()
    except OSError as exc:
        raise ConfigError(f"{flag} {path} cannot be read: {exc.strerror or exc}; check the path") from exc
    if mark not in content:
        raise ConfigError(f"{flag} {path} does not contain {what}")


def _no_password(key: Path) -> str:
    raise ConfigError(f"{KEY_FLAG} {key} is encrypted: decrypt it, for example with openssl pkey -in {key} -out FILE")
