"""A process that writes to a store until it is killed: `python -m tests.store.writing_process`.

Arguments: the store's file, and a name that is part of the ids it writes. Every operation that was
acknowledged is printed as one line, after the `await` returned: `open`, or JSON: a list of
`[id, revision]` that one call wrote.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
from pathlib import Path

from agent.documents.revision import first_revision
from agent.store.store import Store
from tests.store.helpers import edit

WRITERS = 5
PADDING = "x" * 200
MOST_IN_A_BATCH = 12


def batch(name: str, writer: int, turn: int) -> list[str]:
    """The ids of one batch; both sides know from it what belongs together."""
    size = random.Random(f"{name} {writer} {turn}").randint(1, MOST_IN_A_BATCH)
    return [f"{name}:{writer}:{turn}:{number}" for number in range(size)]


def _say(message: str) -> None:
    # One write of less than PIPE_BUF bytes reaches the parent whole or not at all.
    os.write(1, message.encode() + b"\n")


async def _write(store: Store, name: str, writer: int) -> None:
    """Batches of readings, and one document that is edited again and again."""
    edited = None
    turn = 0
    while True:
        ids = batch(name, writer, turn)
        revisions = [first_revision(id, {"type": "reading", "padding": PADDING}) for id in ids]
        await store.graft(revisions)
        _say(json.dumps([[each.id, str(each.rev)] for each in revisions]))
        id = f"{name}:{writer}:edited"
        (edited,) = await store.edit([edit(id, edited, turn=turn, padding=PADDING)])
        _say(json.dumps([[id, str(edited)]]))
        turn += 1


async def _main() -> None:
    store = await Store.open(Path(sys.argv[1]))
    _say("open")
    await asyncio.gather(*(_write(store, sys.argv[2], writer) for writer in range(WRITERS)))


if __name__ == "__main__":
    asyncio.run(_main())
