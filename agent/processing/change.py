"""A change as it is passed on, and what takes it."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import Protocol

import msgspec

from agent.documents.wire import document_text
from agent.store.sequences import text_of
from agent.store.store import Store
from agent.store.stored import StoredDocument


class Change(msgspec.Struct, frozen=True):
    """A document as its last change has left it; as JSON this is what a webhook gets.

    `key` is the same whenever this change is passed on, and differs for every other one.
    """

    hook: str
    database: str
    key: str
    seq: str
    id: str
    rev: str
    deleted: bool
    doc: msgspec.Raw

    @property
    def number(self) -> int:
        """The sequence as the store counts it."""
        return int(self.seq.partition("-")[0])


def change_of(hook: str, database: str, store: Store, document: StoredDocument) -> Change:
    """The change that a row of the store is; content of attachments is left out."""
    seq = text_of(store, document.seq)
    return Change(
        hook,
        database,
        f"{hook}:{seq}",
        seq,
        document.id,
        str(document.rev),
        document.deleted,
        msgspec.Raw(document_text(document.revision(), revisions=False).encode()),
    )


def key_of(changes: Sequence[Change]) -> str:
    """The key of several changes that are passed on together; ASCII."""
    if len(changes) == 1:
        return changes[0].key
    together = blake2b(digest_size=16)
    for change in changes:
        together.update(change.key.encode() + b"\n")
    return together.hexdigest()


class Target(Protocol):
    """What takes changes."""

    @property
    def label(self) -> str:
        """For people, without a secret."""

    async def call(self, changes: Sequence[Change]) -> None:
        """Pass on some changes; returns when they have been dealt with, for good.

        Raises RefusedChangeError when these changes will never be taken, AttemptError when dealing
        with them has failed, and for what has nothing to do with them any other TransientError or
        PermanentError. Those on several changes may be about one of them.
        """

    async def close(self) -> None:
        """No more calls."""
