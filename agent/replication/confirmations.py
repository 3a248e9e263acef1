"""Who has to have documents before retention deletes them: remotes, hooks, telemetry."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Protocol

from agent.errors import EdgeAgentError
from agent.replication.checkpoint import replication_id, sessions_of
from agent.replication.replicator import Replicator
from agent.store.retention import Found

log = logging.getLogger(__name__)


class Confirmation(Protocol):
    """Somebody who has to have documents before they may be deleted."""

    name: str

    async def seq(self) -> int:
        """Everything up to this change was dealt with. Raises StoreError."""

    async def had(self, documents: Sequence[Found]) -> Sequence[Found]:
        """Which of these, from before `seq`, were really taken, as far as that is known."""


class Pushed:
    """A remote that a replicator of this process pushes to.

    What counts is the checkpoint as it stands in the store, so it counts while the remote is away,
    too. A replicator that had to start further back, as the remote was restored from a backup, has
    the last word.
    """

    def __init__(self, name: str, replicator: Replicator) -> None:
        self.name = name
        self._replicator = replicator
        self._has_refused = False

    async def seq(self) -> int:
        replicator = self._replicator
        id = replication_id(replicator.source, replicator.target, replicator.selection)
        history = sessions_of(await replicator.source.get_local(id))
        # Written with the checkpoint that passes over what was refused.
        self._has_refused |= any(entry.get("doc_write_failures") for entry in history)
        seqs = [history[0]["recorded_seq"] if history else 0, replicator.recorded]
        return min((seq for seq in seqs if isinstance(seq, int)), default=0)

    async def had(self, documents: Sequence[Found]) -> Sequence[Found]:
        if not self._has_refused or not documents:
            return documents
        asked = {document.id: [document.rev] for document in documents}
        try:
            missing = await self._replicator.target.revs_diff(asked)
        except EdgeAgentError as error:  # which the replication reports, too
            log.info("retention: %s cannot be asked what it has: %s", self.name, error)
            return ()
        return [document for document in documents if document.id not in missing]


class Follower(Protocol):
    """Something of this process that follows the database, such as a hook."""

    name: str

    @property
    def saved_seq(self) -> int:
        """Everything up to this change was dealt with, which is durable."""


class Followed:
    """What a follower has dealt with is confirmed by it."""

    def __init__(self, kind: str, follower: Follower) -> None:
        self.name = f"{kind} {follower.name!r}"
        self._follower = follower

    async def seq(self) -> int:
        return self._follower.saved_seq

    async def had(self, documents: Sequence[Found]) -> Sequence[Found]:
        return documents
