"""The command that compares a gateway's database with a remote, as it can be pasted."""

from __future__ import annotations

import shlex
from urllib.parse import quote, unquote, urlsplit

from agent.config import Config, RemoteConfig, parse_listen
from agent.errors import without_login

_FILE = "PASSWORD_FILE"
"""Where no file has the password, or nobody here knows which."""


def verify_command(config: Config, remote: RemoteConfig, *, repair: bool = False) -> str:
    """`edge-agent verify` for the running agent's own database and the remote's.

    No password is in it, not even one that stands in the remote's URL: a file is named.
    """
    words = ["edge-agent", "verify"]
    options = []
    admin = next((user.name for user in config.user if "_admin" in user.roles), None)
    words.append(with_user(_own_url(config), admin))
    if admin is not None:
        options += ["--source-password-file", _FILE]
    user = remote.user or unquote(urlsplit(remote.url).username or "")
    words.append(with_user(without_login(remote.url), user))
    if user:
        options += ["--target-password-file", remote.password_file or _FILE]
    if remote.ca_file:
        options += ["--ca-file", remote.ca_file]
    if repair:
        options.append("--repair")
    return shlex.join([*words, *options])


def _own_url(config: Config) -> str:
    host, port = parse_listen(config.server.listen)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  (all of them)
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    scheme = "http" if config.server.tls_certificate is None else "https"
    return f"{scheme}://{address}/{quote(config.agent.database, safe='')}"


def with_user(url: str, user: str | None) -> str:
    """A URL that has no user, with one."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{quote(user, safe='')}@{rest}" if user else url
