"""Whose signature makes a server's certificate good."""

from __future__ import annotations

import ssl
from pathlib import Path

from agent.errors import ConfigError
from agent.peers.http_errors import one_line


def trusting(ca_file: str | Path | None) -> ssl.SSLContext:
    """Verifies by the authorities in a PEM file, None: by the system's. Reads files.

    Raises ConfigError.
    """
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"ca_file {str(ca_file)!r} cannot be used ({one_line(error)}); give a file "
            "with certificates in PEM format"
        ) from None
