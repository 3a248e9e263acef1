"""Logging in to CouchDB: with a session where there are some, else with each request.

Source: CouchDB documentation, "API Reference > Server > Authentication".
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections.abc import Collection, Mapping
from http.cookies import SimpleCookie
from typing import Protocol
from urllib.parse import urlencode

from agent.errors import AuthError
from agent.peers.http_errors import error_body, not_couchdb
from agent.peers.http_messages import OK, Answer
from agent.peers.urls import AuthMode, Credentials

_SESSION_SECONDS = 550.0  # CouchDB's sessions end after 600 s unless it says otherwise
_NO_SESSIONS = frozenset({400, 404, 405, 501})


class PostForm(Protocol):
    """Sends a form, for the log-in itself. Raises for a status that is not in `accept`."""

    async def __call__(
        self, path: str, form: bytes, headers: Mapping[str, str], *, accept: Collection[int]
    ) -> tuple[Answer, SimpleCookie]: ...


class HttpLogin:
    """What lets the requests of one client in."""

    def __init__(self, credentials: Credentials, auth: AuthMode, post: PostForm) -> None:
        self.user = credentials.user
        self._credentials = credentials
        self._auth = auth
        self._post = post
        self._basic = auth == "basic"
        self._cookie: str | None = None
        self._cookie_until = 0.0
        self._logging_in = asyncio.Lock()

    async def headers(self) -> dict[str, str]:
        """The headers that authorize a request; logs in before, if need be."""
        if not self._basic:
            async with self._logging_in:
                # Before it expires, not after: CouchDB takes a request with an expired cookie as
                # anonymous, and a database that is open to all would not answer 401.
                if self._cookie is None or time.monotonic() >= self._cookie_until:
                    await self._log_in()
        return self._basic_headers() if self._cookie is None else _cookie_header(self._cookie)

    def has_expired(self, headers: Mapping[str, str]) -> bool:
        """A request with these headers was answered 401: whether others may do better."""
        if "Cookie" not in headers:
            return False
        if self._cookie is not None and headers == _cookie_header(self._cookie):
            self._cookie = None  # it has expired before its time: a new secret, a restart
        return True

    def renew(self, cookies: SimpleCookie) -> None:
        """Take the session's cookie from an answer; CouchDB renews it as it is used."""
        morsel = cookies.get("AuthSession")
        if not self._basic and morsel is not None and morsel.value:
            self._cookie = morsel.value
            age = morsel["max-age"]
            seconds = 0.9 * int(age) if age.isascii() and age.isdigit() else _SESSION_SECONDS
            self._cookie_until = time.monotonic() + seconds

    async def _log_in(self) -> None:
        given = self._credentials
        form = urlencode({"name": given.user, "password": given.password}).encode()
        # With require_valid_user CouchDB wants a log-in even for the log-in.
        headers = {"Content-Type": "application/x-www-form-urlencoded", **self._basic_headers()}
        self._cookie = None
        answer, cookies = await self._post("/_session", form, headers, accept=OK | _NO_SESSIONS)
        if answer.status in OK:
            self.renew(cookies)
            if self._cookie is None and error_body(answer.body) is None:
                raise not_couchdb(answer.where, answer.status, answer.headers)
        if self._cookie is None:
            if self._auth == "cookie":
                raise AuthError(
                    f"{answer.where} offers no sessions ({answer.status}); use auth = 'basic'",
                    status=answer.status,
                )
            self._basic = True

    def _basic_headers(self) -> dict[str, str]:
        pair = f"{self._credentials.user}:{self._credentials.password}".encode()
        return {"Authorization": "Basic " + base64.b64encode(pair).decode()}


def _cookie_header(cookie: str) -> dict[str, str]:
    return {"Cookie": f"AuthSession={cookie}"}
