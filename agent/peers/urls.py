"""URLs of databases, as people write them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import quote, unquote, urlsplit

import msgspec

from agent.errors import ConfigError, without_login

AuthMode = Literal["auto", "basic", "cookie"]
"""How a password is used: `auto` logs in for a session and goes over to Basic where that is not
offered."""

_PORTS = {"http": 80, "https": 443}

# A name (RFC 1035, 2.3.4; underscores are in use) or an IPv6 address. Other ones would be refused
# by whatever comes to see them first, and not as an error of the URL.
_HOST = re.compile(
    r"[a-z0-9_-]{1,63}(\.[a-z0-9_-]{1,63})*\.?"
    r"|[0-9a-f.]*:[0-9a-f:.]*(%[0-9A-Za-z._%-]+)?"
)
_LONGEST_HOST = 254  # with a dot at the end


@dataclass(frozen=True, slots=True)
class Credentials:
    user: str
    password: str = field(repr=False)


class DatabaseUrl(msgspec.Struct, frozen=True):
    """A database's URL in parts, without credentials.

    `server` has no trailing slash and includes the path before the database, if there is one;
    `segment` is the database's name, percent-encoded as one path segment.
    """

    server: str
    segment: str

    def __str__(self) -> str:
        return f"{self.server}/{self.segment}"

    @property
    def name(self) -> str:
        return unquote(self.segment)


def parse_database_url(text: str) -> tuple[DatabaseUrl, Credentials | None]:
    """Take `https://user:password@host:port/prefix/database` apart and normalize it.

    Two spellings of one URL give the same result: case of scheme and host, default port, trailing
    slash, percent-encoding. Raises ConfigError, which does not repeat a password.
    """
    shown = without_login(text)

    def bad(why: str) -> ConfigError:
        return ConfigError(f"{shown!r} is not a database URL: {why}")

    try:
        parts = urlsplit(text.strip())
        host, port = parts.hostname, parts.port
    except ValueError:
        raise bad(
            "host or port cannot be read; write / ? # @ : in a password as %2F %3F %23 %40 %3A"
        ) from None
    if parts.scheme not in _PORTS:
        raise bad("it must start with http:// or https://")
    if not host or not host.isascii():
        raise bad("the host is missing or not in ASCII; write an international name as xn--…")
    if not _HOST.fullmatch(host) or len(host) > _LONGEST_HOST:
        raise bad(
            "there can be no host of that name; between dots it has 1 to 63 letters, digits and "
            "hyphens"
        )
    if parts.query or parts.fragment or "@" in parts.path:
        raise bad("it may not contain ? # @; write them as %3F %23 %40 in names and passwords")
    segments = [quote(unquote(part), safe="") for part in parts.path.strip("/").split("/")]
    if not segments[-1]:
        raise bad("the database's name is missing; write https://host/database")
    address = f"[{host}]" if ":" in host else host
    if port is not None and port != _PORTS[parts.scheme]:
        address += f":{port}"
    location = DatabaseUrl("/".join([f"{parts.scheme}://{address}", *segments[:-1]]), segments[-1])
    if not parts.username:
        if parts.password:
            raise bad("it has a password but no user")
        return location, None
    return location, Credentials(unquote(parts.username), unquote(parts.password or ""))
