"""What a configuration says of logging in somewhere else, and what it trusts there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, ClassVar

from msgspec import Meta, Struct

from agent.config_types import Name
from agent.errors import ConfigError


class Login(Struct, kw_only=True):
    """The keys that every table with the URL of something elsewhere has."""

    table: ClassVar[str]
    """What the table is called in the file."""

    name: Name
    user: Annotated[str, Meta(description="a user name", examples=["gateway-1"])] | None = None
    password: Annotated[str, Meta(description="a password", examples=["..."])] | None = None
    password_file: (
        Annotated[
            str,
            Meta(description="a file that holds the password", examples=["/etc/edge-agent/cloud"]),
        ]
        | None
    ) = None
    password_env: (
        Annotated[
            str,
            Meta(
                description="an environment variable that holds the password",
                examples=["CLOUD_PASSWORD"],
            ),
        ]
        | None
    ) = None
    ca_file: (
        Annotated[
            str,
            Meta(
                description="a PEM file with the authority that signed the remote's certificate",
                examples=["/etc/edge-agent/ca.pem"],
            ),
        ]
        | None
    ) = None
    client_certificate: (
        Annotated[
            str,
            Meta(
                description="a PEM file by which an MQTT broker knows this gateway",
                examples=["/etc/edge-agent/gateway.pem"],
            ),
        ]
        | None
    ) = None
    client_key: (
        Annotated[
            str,
            Meta(
                description="a PEM file with the private key, where the certificate's has none",
                examples=["/etc/edge-agent/gateway.key"],
            ),
        ]
        | None
    ) = None

    @property
    def label(self) -> str:
        """The table for people, such as `remote 'cloud'`."""
        return f"{self.table} {self.name!r}"

    def __repr__(self) -> str:
        """Without passwords, which may stand in a URL, too."""
        return f"<{self.label}>"

    def secret(self) -> str | None:
        """The password, from wherever it is kept. Raises ConfigError."""
        return self.kept("password")

    def kept(self, key: str) -> str | None:
        """A secret that stands at `key`, in the file of `key`_file or in the environment variable
        of `key`_env. Raises ConfigError."""
        file, variable = getattr(self, f"{key}_file"), getattr(self, f"{key}_env")
        if file is not None:
            try:
                return Path(file).read_text(encoding="utf-8").strip()
            except (OSError, UnicodeDecodeError) as error:
                reason = getattr(error, "strerror", None) or "not UTF-8 text"
                raise ConfigError(
                    f"{self.label}: {key}_file {file} cannot be read "
                    f"({reason}); make it, readable by this user"
                ) from error
        if variable is not None:
            try:
                return os.environ[variable]
            except KeyError:
                raise ConfigError(
                    f"{self.label}: the environment variable {variable} "
                    f"({key}_env) is not set; set it, or use {key}_file"
                ) from None
        value: str | None = getattr(self, key)
        return value

    def check_files(self) -> None:
        """Raises ConfigError when one cannot be read."""
        for key in ("ca_file", "client_certificate", "client_key"):
            file = getattr(self, key)
            if file is not None and not os.access(file, os.R_OK):
                content = "a private key" if key == "client_key" else "certificates"
                raise ConfigError(
                    f"{self.label}: {key} {file} cannot be read; give a file with {content} in PEM "
                    "format, readable by this user"
                )

    def take_files_from(self, folder: Path) -> None:
        """Take relative paths from a folder."""
        for key in ("password_file", "ca_file", "client_certificate", "client_key"):
            file = getattr(self, key)
            if file is not None:
                setattr(self, key, str(folder / file))
