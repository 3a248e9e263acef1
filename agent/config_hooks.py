"""`[[hook]]`: what is called with each change of a database, and how."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from msgspec import Meta

from agent.config_login import Login
from agent.config_types import DatabaseName, Seconds
from agent.errors import ConfigError

_TARGETS = ("url", "command", "entry_point")
_OF_WEBHOOKS = (
    "user",
    "password",
    "password_file",
    "password_env",
    "ca_file",
    "client_certificate",
    "client_key",
    "signing_key",
    "signing_key_file",
    "signing_key_env",
)


class HookConfig(Login, forbid_unknown_fields=True):
    """`[[hook]]`: exactly one of `url`, `command` and `entry_point` says what is called."""

    table = "hook"

    database: DatabaseName | None = None
    selector: (
        Annotated[
            dict[str, Any],
            Meta(
                description="a Mango selector: which documents the hook is called with",
                examples=[{"type": "alarm"}],
            ),
        ]
        | None
    ) = None
    url: (
        Annotated[
            str,
            Meta(
                pattern=r"^https?://[^/\s@?#]+(/[^\s#]*)?$",
                description="http(s)://HOST[:PORT]/PATH, without a user",
                examples=["https://example.org/alarms"],
            ),
        ]
        | None
    ) = None
    command: (
        Annotated[
            list[Annotated[str, Meta(min_length=1, pattern=r"^[^\x00]*$")]],
            Meta(
                min_length=1,
                description="a program and its arguments, which no shell reads",
                examples=[["/usr/local/bin/notify", "--urgent"]],
            ),
        ]
        | None
    ) = None
    entry_point: (
        Annotated[
            str,
            Meta(
                min_length=1,
                description="the name of a Python entry point in the group edge_sync_agent.hooks",
                examples=["invoice"],
            ),
        ]
        | None
    ) = None
    auth: Annotated[
        Literal["basic", "bearer"],
        Meta(
            description="'basic', or 'bearer' where the password is a token",
            examples=["bearer"],
        ),
    ] = "basic"
    signing_key: (
        Annotated[str, Meta(min_length=1, description="a secret text", examples=["..."])] | None
    ) = None
    signing_key_file: (
        Annotated[
            str,
            Meta(
                min_length=1,
                description="a file that holds the secret by which a webhook's bodies are signed",
                examples=["/etc/edge-agent/hook.key"],
            ),
        ]
        | None
    ) = None
    signing_key_env: (
        Annotated[
            str,
            Meta(
                min_length=1,
                description="an environment variable that holds this secret",
                examples=["HOOK_KEY"],
            ),
        ]
        | None
    ) = None
    timeout: Seconds = 30.0
    batch: Annotated[
        int,
        Meta(ge=1, le=1000, description="documents a call, from 1 to 1000", examples=[50]),
    ] = 1
    attempts: Annotated[
        int,
        Meta(
            ge=1,
            le=1000,
            description="how often a document is tried that fails, from 1 to 1000",
            examples=[5],
        ),
    ] = 5
    retry_cap: Seconds = 60.0
    start: Annotated[
        Literal["now", "beginning"],
        Meta(
            description="'now' or 'beginning': where a hook begins that is new",
            examples=["beginning"],
        ),
    ] = "now"

    def take_files_from(self, folder: Path) -> None:
        """Also the program, if it is named by a path."""
        super().take_files_from(folder)
        if self.signing_key_file is not None:
            self.signing_key_file = str(folder / self.signing_key_file)
        if self.command is not None and os.sep in self.command[0]:
            self.command = [str(folder.absolute() / self.command[0]), *self.command[1:]]


def check_hook(hook: HookConfig, *, of_hub: bool) -> None:
    """What the types cannot say. Raises ConfigError."""
    if of_hub and hook.database is None:
        raise ConfigError(
            f"{hook.label}: a hub has no database of its own; say which one the hook follows, for "
            'example database = "edge"'
        )
    targets = [key for key in _TARGETS if getattr(hook, key) is not None]
    if len(targets) > 1:
        raise ConfigError(f"{hook.label}: {' and '.join(targets)} exclude each other; keep one")
    if not targets:
        raise ConfigError(
            f"{hook.label}: what is to be called is missing; give url, command or entry_point, for "
            'example url = "https://example.org/alarms"'
        )
    if hook.url is None:
        useless = [key for key in _OF_WEBHOOKS if getattr(hook, key) is not None]
        useless += ["auth"] * (hook.auth != "basic")
        if useless:
            raise ConfigError(
                f"{hook.label}: {useless[0]} is only for a webhook (url); take it out"
            )
    secrets = {key: _given(hook, key) for key in ("password", "signing_key")}
    for key, given in secrets.items():
        if len(given) > 1:
            raise ConfigError(
                f"{hook.label}: {' and '.join(given)} exclude each other; keep one, for example "
                f"{key}_file"
            )
    password = secrets["password"]
    if hook.auth == "bearer" and (hook.user is not None or not password):
        raise ConfigError(
            f'{hook.label}: auth = "bearer" takes a token, which is given as the password, and no '
            "user; write for example password_file alone"
        )
    if hook.auth == "basic" and password and hook.user is None:
        raise ConfigError(
            f'{hook.label}: {password[0]} needs a user, for example user = "gateway-1", or '
            'auth = "bearer"'
        )
    if hook.client_key is not None and hook.client_certificate is None:
        raise ConfigError(
            f"{hook.label}: client_key needs client_certificate, a PEM file, for example "
            'client_certificate = "/etc/edge-agent/gateway.pem"'
        )


def _given(hook: HookConfig, key: str) -> list[str]:
    """Which of the keys for a secret there are."""
    keys = (key, f"{key}_file", f"{key}_env")
    return [key for key in keys if getattr(hook, key) is not None]
