"""What a replication has done so far, for logs, status and progress bars."""

from __future__ import annotations

from collections import deque

import msgspec

from agent.peers.peer import START, Seq, WriteResult
from agent.rates import since_boot
from agent.replication.checkpoint import Counts

_KEPT_FAILURES = 20


class Progress(msgspec.Struct):
    """Counts since the process started; times in seconds since the epoch."""

    changes_read: int = 0
    changes_confirmed: int = 0
    missing_checked: int = 0
    missing_found: int = 0
    docs_read: int = 0
    docs_written: int = 0
    doc_write_failures: int = 0
    readings: int = 0
    """In the documents that were written; a packed one has many."""
    confirmed_seq: Seq = START
    """Everything up to here is durable in the target."""
    newest_seq: Seq = START
    """Nothing after this was confirmed; beyond `confirmed_seq` where lanes go ahead."""
    urgent_seq: Seq = START
    """The urgent lane has come to here."""
    backlog: int | None = None
    """Changes up to `newest_seq` that are not confirmed, at most; None without a lane for them."""
    source_seq: Seq = START
    """The newest sequence of the source when the run began."""
    through_seq: Seq = START
    """Changes were read up to here."""
    pending: int | None = None
    """Changes that the source has after `newest_seq`, where it tells."""
    in_flight: int = 0
    """Batches of changes that were read and are not confirmed yet."""
    last_confirmed: float | None = None
    """When the target last confirmed something."""
    caught_up: float | None = None
    """When the target last had everything, by `since_boot`."""
    failures: deque[WriteResult] = msgspec.field(
        default_factory=lambda: deque(maxlen=_KEPT_FAILURES)
    )
    """The latest revisions that were refused for good, those of earlier processes among them, as
    long as nothing newer of their documents was carried."""

    def refused(self, result: WriteResult) -> None:
        """A revision was refused for good, and is passed over."""
        self.doc_write_failures += 1
        self.carried(result.id)
        self.failures.append(result)

    def carried(self, id: str) -> None:
        """A newer revision of a document ends that an older one is missing."""
        for failure in [each for each in self.failures if each.id == id]:
            self.failures.remove(failure)

    @property
    def up_to_date(self) -> bool:
        """Whether the target has everything, as far as the source has told."""
        return self.pending == 0 and self.in_flight == 0 and not self.backlog

    @property
    def unconfirmed(self) -> int | None:
        """All changes that are not confirmed, where the source tells."""
        return None if self.pending is None else self.pending + (self.backlog or 0)

    def note_up_to_date(self) -> None:
        """Call when it was so until now."""
        if self.up_to_date:
            self.caught_up = since_boot()

    def counts(self) -> Counts:
        return Counts(
            missing_checked=self.missing_checked,
            missing_found=self.missing_found,
            docs_read=self.docs_read,
            docs_written=self.docs_written,
            doc_write_failures=self.doc_write_failures,
        )
