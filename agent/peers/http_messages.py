"""What is sent over HTTP and what is answered, apart from how."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from typing import TypeVar

import msgspec

from agent.errors import ConnectError, NotCouchDBError
from agent.peers.http_errors import not_couchdb, one_line

OK = frozenset({200, 201, 202})

_T = TypeVar("_T")


class MalformedJsonError(NotCouchDBError):
    """An answer with something in it that is not JSON: a half surrogate, bytes that are not UTF-8,
    thousands of nested lists."""


class Answer(msgspec.Struct, frozen=True):
    """An HTTP answer that was read completely. `where` is the database's URL."""

    where: str
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self, kind: type[_T]) -> _T:
        """The body as `kind`.

        Raises NotCouchDBError for anything but such JSON: MalformedJsonError for what is almost
        JSON; and ConnectError for the beginning of an answer only.
        """
        try:
            return msgspec.json.decode(self.body, type=kind)
        except msgspec.ValidationError as error:
            raise NotCouchDBError(
                f"{self.where} answered in a way that CouchDB does not ({one_line(error)}); check "
                "the URL",
                status=self.status,
            ) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            body = self.body.strip()
            if body[:1] not in (b"{", b"["):
                raise not_couchdb(self.where, self.status, self.headers) from None
            if body[-1:] not in (b"}", b"]"):
                raise ConnectError(f"{self.where} sent half an answer; try again") from None
            raise MalformedJsonError(
                f"{self.where} sent JSON that cannot be read ({one_line(error)}); check the server",
                status=self.status,
            ) from None


class StreamedBody(msgspec.Struct, frozen=True):
    """A request's body that is made as it is sent: `pieces` are `length` bytes together.

    `pieces` is called again when the request has to be repeated.
    """

    content_type: str
    length: int
    pieces: Callable[[], AsyncIterator[bytes]]
