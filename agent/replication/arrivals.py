"""What has come by replication lately, so that it is not taken for news.

While a replication is live, asking the target whether it lacks a document that was written a moment
ago costs a round trip and tells nothing: it does. Only what came from elsewhere may be there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from agent.documents.revision import Revision

_KEPT: Final = 1000
"""Revisions that are remembered. Who has just stored many tells of many changes at once, which are
asked for in any case."""

_FEW: Final = 4
"""Revisions that are sent without asking, at most."""


class Arrivals:
    """The revisions that replications have lately brought to one store."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str], None] = {}

    def note(self, revisions: Iterable[Revision]) -> None:
        """Remember what is about to be stored."""
        for revision in revisions:
            self._known[revision.id, str(revision.rev)] = None
        for oldest in list(self._known)[: max(0, len(self._known) - _KEPT)]:
            del self._known[oldest]

    def are_news(self, revs: Mapping[str, Sequence[str]]) -> bool:
        """Whether these revisions, by document id, are few and none has come from elsewhere.

        It may be wrong for what came long ago; then something is sent that is there already.
        """
        pairs = [(id, rev) for id, told in revs.items() for rev in told]
        return len(pairs) <= _FEW and not any(pair in self._known for pair in pairs)
