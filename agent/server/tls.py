"""TLS with the operator's certificate."""

from __future__ import annotations

import ssl
from pathlib import Path

from agent.errors import ConfigError


class _EncryptedKeyError(Exception):
    """The private key asks for a password."""


def server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 and newer, with a certificate (and what it was signed with) and its key, both PEM.

    Reads files. Raises ConfigError.
    """
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    for name, path in (("tls_certificate", certificate), ("tls_key", key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise ConfigError(
                f"{name} {path} cannot be read ({error.strerror}); "
                "give a PEM file, readable by this user"
            ) from None
    try:
        context.load_cert_chain(certificate, key, _no_password)
    except _EncryptedKeyError:
        raise ConfigError(
            f"tls_key {key} is encrypted; give one without a password, readable by this user only"
        ) from None
    except (ssl.SSLError, OSError) as error:
        reason = getattr(error, "reason", None) or error.strerror or "unreadable"
        problem = str(reason).replace("_", " ").lower()
        raise ConfigError(
            f"tls_certificate {certificate} and tls_key {key} cannot be used ({problem}); "
            "give a certificate and its own private key, both in PEM format"
        ) from None
    return context


def _no_password() -> str:
    raise _EncryptedKeyError
