"""Session cookies: signed, time-limited, kept nowhere.

As CouchDB's (CouchDB documentation, "API Reference > Server > Authentication > Cookie
Authentication"): `AuthSession` is base64url of `NAME:SECONDS:SIGNATURE`, the seconds in hex, the
signature an HMAC. Its key is made of a secret of this server and of the user's password hash, so a
new password ends the sessions of the old one.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import secrets
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

from agent.durable import make_folder, sync_folder
from agent.errors import PermanentError, RequestError

COOKIE = "AuthSession"

DEFAULT_TIMEOUT = 600
"""Seconds, as in CouchDB. A session that is used is renewed."""

SECRET_FILE = "session.secret"  # noqa: S105  (the file's name)
_SECRET_BYTES = 32
_RENEWED_BELOW = 0.9  # of the time-out


class Session(NamedTuple):
    """What a valid cookie says: whose it is, and whether it is time for a new one."""

    name: str
    renew: bool


class Sessions:
    """Makes and reads the cookies' values. `timeout` is in seconds."""

    def __init__(
        self,
        secret: bytes,
        hashes: Mapping[str, str],
        timeout: int = DEFAULT_TIMEOUT,
        *,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`hashes` are the users' password hashes by name."""
        self._clock = clock
        self._secret = secret
        self._hashes = dict(hashes)
        self.timeout = timeout

    def issue(self, name: str) -> str:
        """A cookie's value for a user, from now on."""
        claim = f"{name}:{int(self._clock()):X}"
        signed = claim.encode() + b":" + self._signature(name, claim)
        return base64.urlsafe_b64encode(signed).decode().rstrip("=")

    def end_of_new(self) -> float:
        """When a session that begins now ends, in seconds since 1970."""
        return self._clock() + self.timeout

    def read(self, cookie: str) -> Session | None:
        """The session; None for one that has ended, is forged, or of a user who is gone.

        Raises RequestError (400) for what is no such cookie at all.
        """
        try:
            data = base64.urlsafe_b64decode(cookie + "=" * (-len(cookie) % 4))
            user, start, signature = data.split(b":", 2)
            name = user.decode()
        except (binascii.Error, ValueError):
            raise RequestError(
                400, "bad_request", "Malformed AuthSession cookie. Please clear your cookies."
            ) from None
        if name not in self._hashes:
            return None
        claim = f"{name}:{start.decode('latin-1')}"
        if not hmac.compare_digest(self._signature(name, claim), signature):
            return None
        left = int(start, 16) + self.timeout - self._clock()
        if left <= 0:
            return None
        return Session(name, left < _RENEWED_BELOW * self.timeout)

    def _signature(self, name: str, claim: str) -> bytes:
        key = self._secret + self._hashes[name].encode()
        return hmac.digest(key, claim.encode(), "sha256")


def server_secret(folder: Path) -> bytes:
    """The secret of the server whose data are in a folder; made the first time. Blocks.

    Readable by its owner only; whoever has it can log in as anybody. Raises PermanentError.
    """
    path = folder / SECRET_FILE
    try:
        make_folder(folder)
        if not path.exists():
            _make(path)
        path.chmod(0o600)
        secret = path.read_bytes()
    except OSError as error:
        raise PermanentError(
            f"{path}: the secret of the sessions cannot be kept ({error.strerror}); "
            "make the folder writable for this user"
        ) from error
    if len(secret) != _SECRET_BYTES:
        raise PermanentError(f"{path}: is damaged; delete it, which ends all sessions")
    return secret


def existing_secret(folder: Path) -> bytes | None:
    """The secret of a server that runs on this machine; None if there is none. Blocks.

    For who may read the file anyway. Raises PermanentError.
    """
    path = folder / SECRET_FILE
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise PermanentError(
            f"{path}: cannot be read ({error.strerror}); run this as the user that the agent runs "
            "as, or log in with --url and --password-file"
        ) from error


def _make(path: Path) -> None:
    """Whole or not at all: under another name first."""
    part = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, secrets.token_bytes(_SECRET_BYTES))
        os.fsync(descriptor)
        path.hardlink_to(part)
        sync_folder(path.parent)
    except FileExistsError:
        pass  # another process was first
    finally:
        os.close(descriptor)
        part.unlink()
