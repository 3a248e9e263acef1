"""Who may do what: the one place that decides.

A request is let in by its `AuthSession` cookie, or else by Basic authentication; then a table says
what its path and method need. The rules are CouchDB 3.5's with its default settings (CouchDB
documentation, "API Reference > Server > Authentication", "Configuration > Authentication and
Authorization", and chttpd_auth_request). While no user is configured everybody is an administrator,
which is why the server listens on loopback only then, and answers only to names of this machine.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from email.utils import formatdate
from enum import IntEnum
from functools import lru_cache
from pathlib import Path

import msgspec
from aiohttp import web

from agent.errors import RequestError
from agent.server.cors import Cors
from agent.server.logins import Logins
from agent.server.members import is_database_admin, is_member
from agent.server.passwords import PasswordHash
from agent.server.sessions import COOKIE, DEFAULT_TIMEOUT, Sessions, server_secret
from agent.server.users import EVERYBODY, NOBODY, READER_ROLE, USER, User, user_of
from agent.store.store import Store

_RENEWED = web.RequestKey("renewed", str)

BAD_LOGIN = "Name or password is incorrect."
NOT_DATABASE_ADMIN = "You are not a db or server admin."


class Need(IntEnum):
    """What a request takes."""

    NOTHING = 0
    MEMBER = 1
    DATABASE_ADMIN = 2
    SERVER_ADMIN = 3
    USER = 4
    """To be logged in. (The numbers are names, no order.)"""


# Below "/". What is not here and begins with an underscore is for server administrators: databases
# of the server's own, and everything that tells of other databases or makes requests elsewhere.
_SERVER = {
    "": Need.NOTHING,
    "_metrics": Need.USER,
    "_session": Need.NOTHING,
    "_status": Need.USER,
    "_up": Need.NOTHING,
    "_utils": Need.NOTHING,
    "_uuids": Need.NOTHING,
}

# Below "/{db}". What is not here is for members; GET and HEAD always are.
_DATABASE: Mapping[tuple[str, str], Need] = {
    ("PUT", ""): Need.SERVER_ADMIN,
    ("DELETE", ""): Need.SERVER_ADMIN,
    ("POST", "_compact"): Need.DATABASE_ADMIN,
    ("POST", "_index"): Need.DATABASE_ADMIN,
    ("DELETE", "_index"): Need.DATABASE_ADMIN,
    ("POST", "_purge"): Need.DATABASE_ADMIN,
    ("PUT", "_purged_infos_limit"): Need.DATABASE_ADMIN,
    ("PUT", "_revs_limit"): Need.DATABASE_ADMIN,
    ("PUT", "_security"): Need.DATABASE_ADMIN,
    ("POST", "_view_cleanup"): Need.DATABASE_ADMIN,
    ("PUT", "_design"): Need.DATABASE_ADMIN,
    ("DELETE", "_design"): Need.DATABASE_ADMIN,
}


# What is asked by POST, and changes nothing.
_READ_BY_POST = frozenset(
    {
        "_all_docs",
        "_bulk_get",
        "_changes",
        "_design_docs",
        "_explain",
        "_find",
        "_local_docs",
        "_missing_revs",
        "_ranges",
        "_revs_diff",
    }
)


def changes(method: str, segments: Sequence[str]) -> bool:
    """Whether a request to a database may change something in it."""
    if method in ("GET", "HEAD", "OPTIONS"):
        return False
    return method != "POST" or len(segments) < 2 or segments[1] not in _READ_BY_POST


def needed(method: str, segments: Sequence[str]) -> Need:
    """What a request takes; `segments` are those of its path, decoded."""
    first = segments[0] if segments else ""
    if not first or first.startswith("_"):
        return _SERVER.get(first, Need.SERVER_ADMIN)
    second = segments[1] if len(segments) > 1 else ""
    if second.startswith("_design/"):  # given as one segment
        second = "_design"
    return _DATABASE.get((method, second), Need.MEMBER)


class Account(msgspec.Struct, frozen=True):
    """A configured user."""

    hash: PasswordHash
    roles: frozenset[str]


class Access:
    """The users, their passwords and their sessions, and what is allowed."""

    def __init__(
        self,
        accounts: Mapping[str, Account] | None = None,
        sessions: Sessions | None = None,
        *,
        logins: Logins | None = None,
        cors: Cors | None = None,
        host: str = "localhost",
    ) -> None:
        """Use `open` where there are users. `host` is the name that the server listens on."""
        self.accounts = dict(accounts or {})
        self.sessions = sessions or Sessions(b"", {})
        self.logins = logins or Logins({})
        self.cors = cors or Cors()
        self._hosts = frozenset({"localhost", host.lower()})

    @classmethod
    def open(
        cls,
        folder: Path,
        users: Iterable[tuple[str, str, Iterable[str]]],
        *,
        host: str = "localhost",
        cors_origins: Iterable[str] = (),
        timeout: int = DEFAULT_TIMEOUT,
    ) -> Access:
        """`users` are names, password hashes and roles. Reads files.

        The server's secret is kept in the folder of the data. Raises ConfigError, PermanentError.
        """
        accounts = {
            name: Account(PasswordHash.parse(text), frozenset(roles)) for name, text, roles in users
        }
        cors = Cors(cors_origins)
        if not accounts:
            return cls(cors=cors, host=host)
        hashes = {name: account.hash for name, account in accounts.items()}
        texts = {name: hash.text for name, hash in hashes.items()}
        sessions = Sessions(server_secret(folder), texts, timeout)
        return cls(accounts, sessions, logins=Logins(hashes), cors=cors, host=host)

    def preflight(self, request: web.Request) -> web.Response | None:
        """What is answered before anybody logs in: a browser's question whether it may ask.

        Raises RequestError (403) for a request under a name that is not this server's, and for one
        that another site's page sent.
        """
        self._check_host(request)
        self.cors.refuse_foreign(request)
        return self.cors.preflight(request)

    # --- who it is ---------------------------------------------------------------------

    async def admit(self, request: web.Request) -> User:
        """Find out who makes a request. Raises RequestError for a wrong password (401).

        An Authorization header that cannot be read counts as none.
        """
        user = self._by_cookie(request) or await self._by_password(request)
        if user is None:
            user = NOBODY if self.accounts else EVERYBODY
        request[USER] = user
        return user

    def _by_cookie(self, request: web.Request) -> User | None:
        cookie = request.cookies.get(COOKIE) if self.accounts else None
        if not cookie:
            return None
        session = self.sessions.read(cookie)
        if session is None:
            return None
        if session.renew:
            request[_RENEWED] = self.sessions.issue(session.name)
        return User(session.name, self.accounts[session.name].roles, "cookie")

    async def _by_password(self, request: web.Request) -> User | None:
        credentials = _basic(request.headers.get("Authorization", ""))
        if credentials is None:
            return None
        user = await self.log_in(*credentials, request)
        if user is None:
            raise RequestError(401, "unauthorized", BAD_LOGIN)
        return user

    async def log_in(self, name: str, password: str, request: web.Request) -> User | None:
        """The user with that name and password; None if either is wrong. Slow after failures."""
        if not self.accounts or not await self.logins.check(name, password, request.remote):
            return None
        return User(name, self.accounts[name].roles, "default")

    def _check_host(self, request: web.Request) -> None:
        """Refuse a foreign name while everybody is an administrator.

        A web page can make its own name mean 127.0.0.1 and so read this server with a browser's
        help ("DNS rebinding"); the Host header then still has that name.
        """
        given = request.headers.get("Host")
        if self.accounts or given is None or _is_of_this_machine(given, self._hosts):
            return
        raise RequestError(
            403,
            "forbidden",
            "Until a user is configured, only localhost, 127.0.0.1 and [::1] are answered, "
            "not other host names.",
        )

    # --- what they may do --------------------------------------------------------------

    def require_server(self, need: Need, user: User) -> None:
        """Raises RequestError unless the user may do what needs an administrator, or any user.

        Smaller needs are left to `require_database`.
        """
        if need is Need.SERVER_ADMIN and not user.is_admin:
            # 401 for those who are logged in, too: so does CouchDB.
            raise RequestError(401, "unauthorized", "You are not a server admin.")
        if need is Need.USER and user.name is None and not user.is_admin:
            raise RequestError(401, "unauthorized", "Log in to see this.")

    def require_database(
        self, need: Need, user: User, store: Store, *, changes: bool = False
    ) -> None:
        """Raises RequestError unless the user may do in this database what needs that much.

        `changes`: it may change something, which is not for who may only read.
        """
        if not is_member(user, store):
            verb = "authorized" if user.name is None else "allowed"
            raise _refusal(user, f"You are not {verb} to access this db.")
        if need is Need.DATABASE_ADMIN and not is_database_admin(user, store):
            raise _refusal(user, NOT_DATABASE_ADMIN)
        if changes and user.only_reads:
            raise _refusal(user, f"You may read this db, not change it (role {READER_ROLE}).")

    # --- what answers carry ------------------------------------------------------------

    async def finish(self, request: web.Request, response: web.StreamResponse) -> None:
        """Add the headers of an answer that is about to be sent: CORS, a renewed cookie."""
        self.cors.mark(request, response.headers)
        renewed = request.get(_RENEWED)
        if renewed is not None and "Set-Cookie" not in response.headers:
            self.set_cookie(request, response, renewed)
        if response.status == 401:
            # Browsers ask for a password only for a client that says which way.
            scheme = request.headers.get("X-CouchDB-WWW-Authenticate")
            if scheme is not None:
                response.headers["WWW-Authenticate"] = scheme

    def set_cookie(self, request: web.Request, response: web.StreamResponse, value: str) -> None:
        """Set the session's cookie; an empty one ends it."""
        # Never sent along with what another site makes a browser do, unless that site is named in
        # the configuration; browsers take SameSite=None under TLS only.
        elsewhere = self.cors.names_origins and request.secure
        parts = [
            f"{COOKIE}={value}",
            "Path=/",
            *(self._end_of_cookie() if value else []),
            f"SameSite={'None' if elsewhere else 'Strict'}",
            "HttpOnly",
            *(["Secure"] if request.secure else []),
        ]
        # Not by `response.set_cookie`, which has no effect any more when `finish` is called.
        response.headers["Set-Cookie"] = "; ".join(parts)

    def _end_of_cookie(self) -> list[str]:
        # Both, as CouchDB: some clients know Expires only. An empty cookie has neither, since some
        # would drop it at once, and then not find out that the log-in has failed.
        end = formatdate(self.sessions.end_of_new(), usegmt=True)
        return [f"Max-Age={self.sessions.timeout}", f"Expires={end}"]


def write_refusal(request: web.Request, store: Store, id: object) -> RequestError | None:
    """Why who makes a request may not write the document `id`; None if they may.

    For ids that the path does not tell, but the body or a COPY's destination: design documents
    are the database's administrators'.
    """
    if not isinstance(id, str) or not id.startswith("_design/"):
        return None
    user = user_of(request)
    return None if is_database_admin(user, store) else _refusal(user, NOT_DATABASE_ADMIN)


def _refusal(user: User, reason: str) -> RequestError:
    if user.name is None:
        return RequestError(401, "unauthorized", reason)
    return RequestError(403, "forbidden", reason)


def _basic(header: str) -> tuple[str, str] | None:
    """The name and the password of an Authorization header; None if that is not what it has."""
    scheme, _, text = header.strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        name, colon, password = base64.b64decode(text, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError, ValueError):
        return None
    if not colon or (name, password) == ("_", "_"):  # CouchDB's way to say "logged out"
        return None
    return name, password


@lru_cache(64)
def _is_of_this_machine(given: str, names: frozenset[str]) -> bool:
    host = given.strip().lower()
    host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if host.rstrip(".") in names:
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
