"""A store from which readings were deleted, as the target of a pull."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from agent.peers.local import LocalPeer
from agent.store.store import Store


class RetainedPeer(LocalPeer):
    """Does not lack what was deleted to make room, so that it does not come back; what is still
    here may be changed."""

    def __init__(self, store: Store, unwanted: Callable[[str], bool]) -> None:
        """`unwanted` says it of a document's id."""
        super().__init__(store)
        self._unwanted = unwanted

    async def revs_diff(self, revs: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
        missing = await self._store.revs_diff(revs)
        return {
            id: found.revs
            for id, found in missing.items()
            if found.possible_ancestors or not self._unwanted(id)
        }
