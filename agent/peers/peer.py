"""The protocol that every source and target of replication implements."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import msgspec

from agent.documents.attachment import Attachment
from agent.documents.ranges import Leaves, Range, Span
from agent.documents.revision import Revision

Seq: TypeAlias = Any
"""An update sequence, opaque: whatever JSON value the peer gave (a number, a string, a list)."""

START: Seq = 0
"""The sequence before the first change."""


class PeerInfo(msgspec.Struct, frozen=True):
    """A database as its peer describes it.

    `instance_start_time` changes when the database is recreated; empty where a server has none.
    `server` names the software and its version, for people.
    """

    update_seq: Seq
    doc_count: int
    instance_start_time: str
    server: str


class Change(msgspec.Struct, frozen=True):
    """A line of a changes feed, with all leaf revisions (style=all_docs)."""

    seq: Seq
    id: str
    revs: tuple[str, ...]
    deleted: bool


class ChangeBatch(msgspec.Struct, frozen=True):
    """Consecutive changes. Whoever has dealt with all of them may go on from `last_seq`.

    `pending` is the number of changes after this batch, where the peer tells; 0 at the end.
    """

    changes: tuple[Change, ...]
    last_seq: Seq
    pending: int | None = None


class WriteResult(msgspec.Struct, frozen=True):
    """What became of one revision. `error` is CouchDB's word, None when it was stored."""

    id: str
    rev: str
    error: str | None = None
    reason: str | None = None


Contents: TypeAlias = Callable[[Revision, Attachment], AsyncGenerator[bytes, None]]
"""Where the contents of attachments come from; see `Peer.attachment`."""


class Peer(Protocol):
    """A database that can be replicated with. All calls are idempotent.

    Every method raises a TransientError where a retry may help and a PermanentError where not.
    """

    @property
    def identity(self) -> str:
        """Names this database for ever and holds no secret; replication ids are made of it."""

    @property
    def label(self) -> str:
        """The database's name for people: a path, or a URL without credentials."""

    async def info(self) -> PeerInfo:
        """Raises RemoteMissingError or NotFoundError when the database does not exist."""

    async def create(self) -> None:
        """Create the database; no error when it exists."""

    def changes(
        self,
        since: Seq,
        *,
        follow: bool,
        limit: int,
        selector: Mapping[str, Any] | None = None,
        doc_ids: Sequence[str] | None = None,
    ) -> AsyncGenerator[ChangeBatch, None]:
        """Changes after `since` in batches of at most `limit`, oldest first.

        Ends after the present last change; with `follow` it goes on as changes are made. The
        batch that reaches the present end says so by `pending == 0`; it may be empty.
        Closing the generator ends what is under way.

        With a Mango `selector` only leaf revisions that it matches are told, tombstones like all
        others; with `doc_ids` only these documents. What is left out moves `last_seq` on as well,
        and counts in `pending` until it has been passed.
        """

    async def revs_diff(self, revs: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
        """Which of these revisions, by document id, are missing here. Complete ones are absent."""

    async def fetch(
        self, wanted: Sequence[tuple[str, Sequence[str]]]
    ) -> Sequence[Revision | WriteResult]:
        """The revisions with their histories. One that is gone is left out.

        A WriteResult with an error stands for a revision that is there but cannot be carried.

        Raises TooLargeError when they exceed what is read at once; ask for fewer then.
        """

    def attachment(self, revision: Revision, attachment: Attachment) -> AsyncGenerator[bytes, None]:
        """The content of an attachment of a revision that `fetch` gave, encoded as it says.

        Raises NotFoundError when it is gone. Whoever leaves off before the end closes it.
        """

    async def store(
        self, revisions: Sequence[Revision], contents: Contents | None = None
    ) -> Sequence[WriteResult]:
        """Graft revisions (new_edits=false); returns once they are durable.

        `contents` is asked for the content of attachments, where it is needed: this is the
        `attachment` of the peer that the revisions are from. None will do without attachments.

        One result per revision, in order. Raises TooLargeError when the request is too large;
        send fewer then.
        """

    async def get_local(self, id: str) -> dict[str, Any] | None:
        """The document `_local/{id}`, without `_id`, with its `_rev`; None when there is none."""

    async def put_local(self, id: str, doc: Mapping[str, Any]) -> str:
        """Write `_local/{id}`; a `_rev` in it must be the current one. Returns the new one.

        Raises ConflictError.
        """

    async def ensure_full_commit(self) -> str:
        """Make sure that what was stored is durable; returns `instance_start_time`."""

    async def close(self) -> None:
        """Release connections."""


class PresenceFigures(msgspec.Struct, frozen=True):
    """How a gateway is, for those who see its presence: the `lag` in seconds of the remote that is
    farthest behind, None if it never had everything; changes that remotes have not confirmed; and
    documents in conflict."""

    lag: float | None
    backlog: int
    conflicts: int


@runtime_checkable
class Announcing(Protocol):
    """A peer whose connection is, or may be, the gateway's presence."""

    async def announce(self, figures: PresenceFigures) -> None:
        """Tell these figures from now on, if this is the gateway's presence. Raises
        TransientError."""


@runtime_checkable
class Metered(Protocol):
    """A peer that counts what crosses its link."""

    @property
    def traffic(self) -> tuple[int, int]:
        """Bytes sent and received since the start, the protocol's own included."""


@runtime_checkable
class Ordered(Protocol):
    """A peer whose sequences are integers, each change's higher than those before."""

    def urgent_changes(
        self,
        since: int,
        *,
        limit: int,
        selector: Mapping[str, Any] | None = None,
        doc_ids: Sequence[str] | None = None,
    ) -> AsyncGenerator[ChangeBatch, None]:
        """Changes after `since` of documents with `"urgent": true`, and those to come.

        As `changes`, which has them in between all others.
        """

    async def count_pending(self, since: int) -> int:
        """How many changes there are after `since`; an upper bound where there are thousands."""

    async def count_urgent(self, since: int) -> int:
        """How many of them are of documents with `"urgent": true`."""


@runtime_checkable
class Comparable(Protocol):
    """A peer that may tell digests of ranges of its documents (`agent/documents/ranges.py`)."""

    async def ranges(self, level: int, spans: Sequence[Span]) -> Sequence[Sequence[Range]] | None:
        """The ranges of a level in each span; None when the other side knows no such thing."""

    async def leaves(self, span: Span, limit: int) -> Sequence[Leaves]:
        """The leaf revisions of the first documents in a span, by id, at most `limit`.

        If they are fewer, they are all; `ranges` has been answered before.
        """


def traffic_of(peer: Peer) -> tuple[int, int]:
    """Bytes sent and received over a peer's link since the start, 0 where they are not counted."""
    return peer.traffic if isinstance(peer, Metered) else (0, 0)
