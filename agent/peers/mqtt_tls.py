"""TLS to an MQTT broker: the files that it takes."""

from __future__ import annotations

import ssl
from pathlib import Path

import msgspec

from agent.errors import ConfigError
from agent.peers.http_errors import one_line


class _TlsSocket(ssl.SSLSocket):
    """Closed when the handshake fails, which paho forgets."""

    def do_handshake(self, block: bool = False) -> None:
        try:
            super().do_handshake(block)
        except BaseException:
            self.close()
            raise


class TlsFiles(msgspec.Struct, frozen=True):
    """PEM files: authorities in place of the system's, and what a broker may know the client by."""

    ca_file: str | Path | None = None
    certificate: str | Path | None = None
    key: str | Path | None = None

    def context(self) -> ssl.SSLContext:
        """Reads the files. Raises ConfigError."""
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            context.sslsocket_class = _TlsSocket
            if self.certificate is not None:
                context.load_cert_chain(self.certificate, self.key)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            files = [str(file) for file in (self.ca_file, self.certificate, self.key) if file]
            raise ConfigError(
                f"{', '.join(files)}: TLS cannot be set up with that ({one_line(error)}); give "
                "certificates and keys as PEM files, readable by this user"
            ) from None
        return context
