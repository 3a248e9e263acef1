"""One HTTP client with one connection, which stays open. Blocking: run in a thread.

It is the standard library's, so that little of what is measured is the client's own.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import io
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import msgspec
from yarl import URL

from scripts.benchmarks.harness import BenchError

_LONGEST_WAIT = 120.0
_encode = msgspec.json.encode


class Connection:
    """Requests to one database. `url` is its URL, with credentials if it wants some."""

    def __init__(self, url: str) -> None:
        self._url = URL(url)
        host, port = self._url.host, self._url.port
        if host is None or port is None:
            raise BenchError("the database's URL has no host")
        kind = (
            http.client.HTTPSConnection
            if self._url.scheme == "https"
            else http.client.HTTPConnection
        )
        self._http = kind(host, port, timeout=_LONGEST_WAIT)
        self._headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._url.user is not None:
            login = f"{self._url.user}:{self._url.password or ''}".encode()
            self._headers["Authorization"] = f"Basic {base64.b64encode(login).decode()}"

    def request(
        self,
        method: str,
        path: str = "",
        body: bytes | io.BufferedIOBase | None = None,
        *,
        accept: tuple[int, ...] = (),
        headers: dict[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        """The answer, not read yet. Raises BenchError for a status of 400 or more.

        Those that are in `accept` are let through.
        """
        place = self._url.raw_path + (f"/{path}" if path else "")
        self._http.request(method, place, body, {**self._headers, **(headers or {})})
        response = self._http.getresponse()
        if response.status >= 400 and response.status not in accept:
            told = response.read(200)
            raise BenchError(f"{method} {place}: {response.status} {told!r}")
        return response

    def read(self, method: str, path: str = "", body: bytes | None = None) -> bytes:
        """The whole answer. Raises BenchError."""
        return self.request(method, path, body).read()

    def ask(self, method: str, path: str = "", value: Any = msgspec.UNSET) -> Any:
        """The answer to a JSON value, decoded. Raises BenchError."""
        body = None if value is msgspec.UNSET else _encode(value)
        return msgspec.json.decode(self.read(method, path, body))

    def create(self) -> None:
        """Make the database, unless it is there. Raises BenchError."""
        self.request("PUT", accept=(412,)).read()

    def close(self) -> None:
        self._http.close()


@contextlib.contextmanager
def connected(url: str) -> Iterator[Connection]:
    connection = Connection(url)
    try:
        yield connection
    finally:
        connection.close()


def path_of(id: str) -> str:
    """A document's id as a segment of a path."""
    return quote(id, safe="")
