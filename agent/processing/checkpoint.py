"""How far a hook has come in a database, kept in it as `_local/hook:{name}`.

It is noted some seconds after a call at the latest, in one transaction with the documents that were
given up; after a crash those calls are made again.
"""

from __future__ import annotations

import logging
import time
from typing import Final

import msgspec

from agent.processing.dead_letters import DeadLetters
from agent.store.sequences import number_of, suffix, text_of
from agent.store.store import Store
from agent.store.transaction import Transaction

log = logging.getLogger(__name__)

_SAVE_CALLS: Final = 5.0
_SAVE_PASSED: Final = 60.0
"""Seconds until it is noted what was called, and what needed no call."""


class _Noted(msgspec.Struct):
    """The document: the last change that was dealt with, as clients of the HTTP API would keep
    it."""

    seq: str


class Checkpoint:
    """Of one hook; `load` begins with a store."""

    def __init__(self, hook: str, letters: DeadLetters) -> None:
        """`letters`: the documents that the hook has given up."""
        self.seq = 0
        """The last change that was dealt with."""
        self.saved_seq = 0
        """The same, as it is durable."""
        self._hook = hook
        self._letters = letters
        self._local_id = f"hook:{hook}"
        self._saved_at = 0.0
        self._called = False
        """Whether there were calls since it was noted."""

    async def load(self, store: Store, *, from_beginning: bool) -> None:
        """What the store has. Where it has nothing, the hook begins at the first change, or now.

        Raises StoreError, StoreWriteError.
        """
        now = store.update_seq  # before anything is waited for: what comes meanwhile counts
        await self._letters.load(store)
        found = await store.get_local(self._local_id)
        if found is None:
            self.seq = 0 if from_beginning else now
            await self.save(store)
            return
        try:
            seq = msgspec.json.decode(found[1], type=_Noted).seq
            self.seq = self.saved_seq = number_of(store, seq)
        except (msgspec.DecodeError, ValueError) as error:
            log.warning("_local/%s is no use: %s", self._local_id, error)
            self.seq = self.saved_seq = 0
            return
        if not seq.endswith(suffix(store)):  # what was copied out of a damaged one, for example
            log.warning("hook %s: another database than before; all is called again", self._hook)

    def passed(self, seq: int, *, called: bool = False) -> None:
        """Everything up to this change was dealt with, by a call or without one."""
        self.seq = max(self.seq, seq)
        self._called |= called

    def due(self) -> float | None:
        """Seconds until it is to be noted; None where it is up to date."""
        if self.seq == self.saved_seq and not self._letters.unsaved:
            return None
        interval = _SAVE_CALLS if self._called else _SAVE_PASSED
        return max(0.0, self._saved_at + interval - time.monotonic())

    async def save_in_time(self, store: Store) -> None:
        """As `save`, if it is due."""
        if self.due() == 0:
            await self.save(store)

    async def save(self, store: Store) -> None:
        """Note it. Raises StoreError, StoreWriteError; then what is new is noted the next time."""
        seq, letters = self.seq, self._letters.take_unsaved()
        body = msgspec.json.encode(_Noted(text_of(store, seq))).decode()

        def operation(transaction: Transaction) -> None:
            transaction.locals.overwrite(self._local_id, 0, body)
            self._letters.write(transaction, letters)

        try:
            await store.write(operation)
        except BaseException:
            self._letters.not_saved(letters)
            raise
        self.saved_seq, self._saved_at, self._called = seq, time.monotonic(), False
