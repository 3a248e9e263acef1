"""Users for tests, with hashes that take no time."""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from agent.server.access import Access, Account
from agent.server.logins import Logins
from agent.server.passwords import PasswordHash
from agent.server.sessions import Sessions
from tests.server.api import Api, running

ROLES: dict[str, tuple[str, ...]] = {
    "anna": ("_admin",),
    "dora": ("keepers",),
    "mia": ("staff",),
    "otto": (),
}


def quick_hash(password: str) -> str:
    def text(data: bytes) -> str:
        return base64.b64encode(data).decode().rstrip("=")

    salt = password.encode()[:8].ljust(8, b".")
    derived = hashlib.scrypt(password.encode(), salt=salt, n=2, r=1, p=1, dklen=32)
    return f"$scrypt$ln=1,r=1,p=1${text(salt)}${text(derived)}"


def password_of(name: str) -> str:
    return f"{name}'s pass:word ü"


def quick_access(*, clock: Callable[[], float] = time.time, **options: Any) -> Access:
    """Everybody in ROLES; failed log-ins are not slowed down."""
    hashes = {name: PasswordHash.parse(quick_hash(password_of(name))) for name in ROLES}
    nobody = PasswordHash.parse(quick_hash("nobody's"))
    texts = {name: hash.text for name, hash in hashes.items()}
    return Access(
        {name: Account(hashes[name], frozenset(roles)) for name, roles in ROLES.items()},
        Sessions(b"s" * 32, texts, clock=clock),
        logins=Logins(hashes, first_delay=0.0, nobody=nobody),
        **options,
    )


def auth(name: str | None, password: str | None = None, **headers: str) -> dict[str, Any]:
    """Options of a request by that user, with further headers; None is nobody."""
    if name is not None:
        pair = f"{name}:{password_of(name) if password is None else password}"
        headers["Authorization"] = "Basic " + base64.b64encode(pair.encode()).decode()
    return {"headers": headers}


@asynccontextmanager
async def guarded(folder: Path, **options: Any) -> AsyncIterator[Api]:
    """A server with the users in ROLES and three databases.

    `closed` is as it was made, `public` is open to all, and in `db` dora administers by her role,
    mia is a member by hers and so is nobody else.
    """
    async with running(folder, access=quick_access(**options)) as api:
        for name in ("closed", "public", "db"):
            assert (await api.put(f"/{name}", **auth("anna"))).status == 201
        await secure(api, "public", {})
        await secure(api, "db", {"admins": {"roles": ["keepers"]}, "members": {"names": ["mia"]}})
        yield api


async def secure(api: Api, name: str, security: dict[str, Any]) -> None:
    answer = await api.put(f"/{name}/_security", security, **auth("anna"))
    assert (answer.status, answer.json) == (200, {"ok": True})
