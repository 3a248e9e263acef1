"""Hooks on a real store, in this process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from agent.config_hooks import HookConfig
from agent.documents.revision import Rev, Revision, canonical, first_revision
from agent.parts import hook_for
from agent.processing.hook import Hook
from agent.store.databases import Databases
from agent.store.store import Store
from agent.store.transaction import Edit


def documents(count: int, **members: Any) -> list[Revision]:
    """`doc:0`, `doc:1` and so on."""
    return [first_revision(f"doc:{number}", {"n": number, **members}) for number in range(count)]


async def write(
    store: Store, id: str, parent: Rev | None = None, *, deleted: bool = False, **members: Any
) -> Rev:
    """Write or edit a document; returns its new revision."""
    text = canonical(members)
    [rev] = await store.edit([Edit(id, parent, deleted, text.decode(), text)])
    assert rev is not None
    return rev


@asynccontextmanager
async def opened(folder: Path, name: str = "edge") -> AsyncIterator[tuple[Databases, Store]]:
    """A database of that name among others."""
    databases = Databases(folder)
    try:
        yield databases, await databases.ensure(name)
    finally:
        await databases.close()


@asynccontextmanager
async def hooked(databases: Databases, **keys: Any) -> AsyncIterator[Hook]:
    """A hook that runs, on the database `edge`; `keys` are those of its table."""
    keys = {"name": "test", "start": "beginning", "retry_cap": 0.05, **keys}
    hook = await asyncio.to_thread(hook_for, HookConfig(**keys), databases, "edge")
    task = asyncio.ensure_future(hook.run())
    try:
        yield hook
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
        await hook.close()
