"""Every error the agent raises on purpose.

One root, two branches: a `TransientError` may succeed when it is tried again without anybody
changing anything, a `PermanentError` will not. Messages are one line: what, where, what to do.
They never hold a secret.
"""

from __future__ import annotations

import re


def without_login(url: str) -> str:
    """What somebody gave for a URL, for an error: without all that comes before its last @."""
    return re.sub(r"^([a-zA-Z][a-zA-Z0-9+.-]*:/+)?.*@", r"\1", url.strip(), flags=re.DOTALL)


class EdgeAgentError(Exception):
    """Root of all errors raised by the agent."""


class TransientError(EdgeAgentError):
    """Worth retrying, with back-off.

    `retry_after` is the wait in seconds that the other side asked for, if it did.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PermanentError(EdgeAgentError):
    """Retrying is of no use until somebody changes something; the message says what."""


class ConfigError(PermanentError):
    """The configuration file cannot be used."""


# --- documents -------------------------------------------------------------------------


class DocumentError(PermanentError):
    """A document that CouchDB's rules do not allow (HTTP 400)."""


class NotFoundError(PermanentError):
    """No such document, revision or database.

    `reason` is CouchDB's: "missing", "deleted" or "Database does not exist.".
    """

    def __init__(self, message: str, *, reason: str = "missing") -> None:
        super().__init__(message)
        self.reason = reason


class ConflictError(PermanentError):
    """An edit does not name the current revision (HTTP 409)."""


class MissingStubError(PermanentError):
    """A stub stands for an attachment that the document does not have (HTTP 412)."""


class TooLargeError(PermanentError):
    """A request, response or document exceeds a size limit (HTTP 413)."""


# --- stores ----------------------------------------------------------------------------


class StoreError(PermanentError):
    """A store file cannot be used. `path` is the file."""

    def __init__(self, message: str, *, path: str) -> None:
        super().__init__(message)
        self.path = path


class StoreExistsError(StoreError):
    """A database of that name exists already (HTTP 412)."""


class StoreHeldError(StoreError):
    """The database is the running agent's own, and cannot be deleted (HTTP 403)."""


class StoreBusyError(StoreError):
    """Another process has the store open for writing."""


class StoreFilesError(StoreError):
    """This process may not open any more files (HTTP 503)."""


class StoreDamagedError(StoreError):
    """A store's file is damaged, gone or empty. An agent that starts sets it aside, and copies what
    can be read of it."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(
            f"{path}: the file is damaged ({reason}); start the agent again: it sets the file "
            "aside and copies what can be read, the rest comes back from the remotes",
            path=path,
        )
        self.reason = reason


class StoreWriteError(TransientError):
    """A write was not made durable (disk full, I/O error); nothing of it was kept."""


# --- remotes ---------------------------------------------------------------------------


class ConnectError(TransientError):
    """The remote could not be reached, or the connection broke."""


class RemoteBusyError(TransientError):
    """The remote answered 429 or 5xx."""


class BudgetSpentError(TransientError):
    """The bytes that a remote's link may carry today are used up."""


class RemoteError(PermanentError):
    """The remote refused. `status` is the HTTP status code, if there was one."""

    def __init__(self, message: str, *, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class AuthError(RemoteError):
    """401 or 403 from the remote."""


class TlsError(RemoteError):
    """The remote's certificate does not verify."""


class NotCouchDBError(RemoteError):
    """What answers at the URL does not speak CouchDB's protocol."""


class RemoteMissingError(RemoteError):
    """The remote has no such database (HTTP 404)."""


# --- server ----------------------------------------------------------------------------


class RequestError(PermanentError):
    """A request that the server refuses: the HTTP status and CouchDB's word; the message says why.

    `allow` names the methods that the path has, for 405; `retry_after` is the number of seconds
    after which to ask again, for 503.
    """

    def __init__(
        self,
        status: int,
        error: str,
        reason: str,
        *,
        allow: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(reason)
        self.status = status
        self.error = error
        self.allow = allow
        self.retry_after = retry_after


# --- sensors ---------------------------------------------------------------------------


class PortError(TransientError):
    """A serial port cannot be opened or has vanished; it is tried again."""


class FlashError(PermanentError):
    """A board cannot be flashed: it was not found, a program for it is missing or refused."""


# --- processing ------------------------------------------------------------------------


class AttemptError(TransientError):
    """What a hook calls has failed on a change; after some attempts it counts as refused."""


class RefusedChangeError(PermanentError):
    """What a hook calls will never take this change, whereas it may take others."""
