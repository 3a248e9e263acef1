"""The documents that a hook could not deal with, until somebody looks at them.

Each is a `_local` document, `hook:{hook}:dead:{id of the document}`. They are written by whoever
writes the hook's checkpoint, in the same transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from time import time

import msgspec

from agent.documents.times import millisecond_timestamp
from agent.errors import PermanentError
from agent.processing.change import Change
from agent.store.store import Store
from agent.store.transaction import Transaction

MOST = 1000
"""So many are kept for a hook; when there are more it waits for somebody to look at them."""

_PAGE = 200


class DeadLetter(msgspec.Struct, frozen=True):
    """A document that was given up, as it was then; `time` is when (RFC 3339, in UTC)."""

    id: str
    rev: str
    seq: str
    error: str
    attempts: int
    time: str


class DeadLetters:
    """Those of one hook in one store, by the documents' ids; the oldest first."""

    def __init__(self, hook: str) -> None:
        self._prefix = f"hook:{hook}:dead:"
        self._letters: dict[str, DeadLetter] = {}
        self._unsaved: set[str] = set()
        """Ids of documents whose letters have come or gone."""

    def __len__(self) -> int:
        return len(self._letters)

    def __contains__(self, id: str) -> bool:
        return id in self._letters

    def __iter__(self) -> Iterator[DeadLetter]:
        return iter(self._letters.values())

    @property
    def unsaved(self) -> bool:
        return bool(self._unsaved)

    def check_room(self, id: str) -> None:
        """Raises PermanentError where there is none for another one."""
        if len(self._letters) >= MOST and id not in self._letters:
            raise PermanentError(
                f"{MOST} documents have failed and wait to be looked at; edge-agent hooks dead "
                "shows them, then use edge-agent hooks retry or drop"
            )

    def add(self, change: Change, error: str, attempts: int) -> None:
        """Instead of the one of the same document, if there is one."""
        before = self._letters.pop(change.id, None)
        total = attempts + (before.attempts if before is not None else 0)
        now = millisecond_timestamp(time())
        self._letters[change.id] = DeadLetter(change.id, change.rev, change.seq, error, total, now)
        self._unsaved.add(change.id)

    def remove(self, id: str) -> bool:
        """Whether there was one."""
        if self._letters.pop(id, None) is None:
            return False
        self._unsaved.add(id)
        return True

    async def load(self, store: Store) -> None:
        """What the store has, instead of what was here. Raises StoreError."""
        letters: list[DeadLetter] = []
        start, end = self._prefix, self._prefix[:-1] + ";"  # the character after the colon
        while True:
            page = await store.locals(start=start, inclusive_start=False, end=end, limit=_PAGE)
            for document in page.documents:
                # Members of a database may write what they like into `_local` documents.
                letter = _decoded(document.body)
                if letter is not None and document.id == self._prefix + letter.id:
                    letters.append(letter)
            if page.complete:
                break
            start = page.documents[-1].id
        letters.sort(key=lambda letter: letter.time)
        self._letters = {letter.id: letter for letter in letters}
        self._unsaved = set()

    def take_unsaved(self) -> dict[str, DeadLetter | None]:
        """What is to be written, by the documents' ids; None where there is no letter any more."""
        taken = {id: self._letters.get(id) for id in self._unsaved}
        self._unsaved = set()
        return taken

    def not_saved(self, ids: Iterable[str]) -> None:
        """What was taken could not be written."""
        self._unsaved.update(ids)

    def write(self, transaction: Transaction, taken: Mapping[str, DeadLetter | None]) -> None:
        """In the writer's thread."""
        for id, letter in taken.items():
            body = None if letter is None else msgspec.json.encode(letter).decode()
            transaction.locals.overwrite(self._prefix + id, 0, body)


def _decoded(body: str) -> DeadLetter | None:
    try:
        return msgspec.json.decode(body, type=DeadLetter)
    except msgspec.DecodeError:
        return None
