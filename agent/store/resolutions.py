"""Resolutions: the one way in which a conflict ends, and the record of those that were made.

The resolved body becomes a child of the winner, and every other live leaf gets a tombstone, which
names the revision that it went into (see `agent.documents.conflict`). The
winner's branch is never deleted: so two sides that decide otherwise, or knew other leaves, can make
another conflict, but never lose a document. A body that is the winner's already is not written
again. The same resolution of the same leaves makes the same revisions on every side.

The record stays here, it is not replicated: when and by whom is another matter on each side.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import msgspec

from agent.documents.attachment import Attachment
from agent.documents.conflict import RESOLVED_TO, Conflict, live_leaves
from agent.documents.policies import Decided, same_as_winner, written_over
from agent.documents.revision import Rev, new_hash
from agent.documents.revision import canonical as canonical_body
from agent.documents.times import millisecond_timestamp
from agent.documents.wire import MAX_DOCUMENT, RefusedDocumentError, body_text
from agent.store.transaction import Edit, Transaction


class Resolution(msgspec.Struct, frozen=True):
    """What is to become of a document whose live leaves are `leaves`, in any order.

    `body` is the JSON text of the winner's child, `canonical` the same for hashing; both None to
    keep the winner as it is, and with `delete` to end it, too. `base` and `by` (the policy or the
    user) are for the record.
    """

    id: str
    leaves: tuple[Rev, ...]
    by: str
    body: str | None = None
    canonical: bytes = b""
    attachments: tuple[Attachment, ...] = ()
    delete: bool = False
    base: Rev | None = None


class Overtaken(msgspec.Struct, frozen=True):
    """The document has other live leaves by now: these, the winner first. Nothing was written."""

    leaves: tuple[Rev, ...]


def resolution_of(conflict: Conflict, decided: Decided, *, by: str) -> Resolution:
    """What is to be written of a decision.

    Raises RefusedDocumentError for a body that is too large or nested too deeply.
    """
    base = None if conflict.base is None else conflict.base.rev
    if same_as_winner(conflict, decided):
        return Resolution(conflict.id, conflict.revs, by, base=base)
    text = body_text(decided.body)
    if len(text.encode()) > MAX_DOCUMENT:
        raise RefusedDocumentError(
            "document_too_large", f"the resolved document has more than {MAX_DOCUMENT} bytes"
        )
    attachments = written_over(conflict.leaves[0], decided)
    return Resolution(
        conflict.id, conflict.revs, by, text, canonical_body(decided.body), attachments, base=base
    )


def resolve(
    transaction: Transaction, resolutions: Sequence[Resolution], *, now: float
) -> list[Rev | Overtaken]:
    """Write resolutions of different documents; the new winner of each.

    `now`, in seconds since the epoch, is for the record. Raises MissingStubError when the winner
    has no such attachment; then nothing is written.
    """
    known = transaction.load({resolution.id for resolution in resolutions})
    plans: list[tuple[list[Rev], list[Edit] | None]] = []
    for resolution in resolutions:
        document = known.get(resolution.id)
        live = [] if document is None else live_leaves(document.tree)
        overtaken = not live or set(live) != set(resolution.leaves)
        plans.append((live, None if overtaken else _edits(resolution, live)))
    edits = [edit for _, made in plans for edit in made or ()]
    revs = iter(transaction.edit(edits, known) if edits else ())
    results: list[Rev | Overtaken] = []
    entries = []
    for resolution, (live, made) in zip(resolutions, plans, strict=True):
        if made is None:
            results.append(Overtaken(tuple(live)))
            continue
        written = dict(zip((edit.parent for edit in made), islice(revs, len(made)), strict=True))
        rev = written.get(live[0]) or live[0]
        results.append(rev)
        if made:
            entries.append(_entry(resolution, live, rev, now))
    transaction.record.add(entries)
    return results


def _edits(resolution: Resolution, live: Sequence[Rev]) -> list[Edit]:
    """First that of the winner, if there is one, then the tombstones."""
    winner = live[0]
    if resolution.delete:
        return [Edit(resolution.id, leaf, True, "{}", b"{}") for leaf in live]
    edits = []
    target = winner
    if resolution.body is not None:
        canonical, attachments = resolution.canonical, resolution.attachments
        edits = [Edit(resolution.id, winner, False, resolution.body, canonical, attachments)]
        digest = new_hash(canonical, parent=winner, deleted=False, attachments=attachments)
        target = Rev(winner.generation + 1, digest)
    mark = canonical_body({RESOLVED_TO: str(target)})
    edits += [Edit(resolution.id, leaf, True, mark.decode(), mark) for leaf in live[1:]]
    return edits


def _entry(resolution: Resolution, live: Sequence[Rev], rev: Rev, now: float) -> str:
    return msgspec.json.encode(
        {
            "id": resolution.id,
            "rev": str(rev),
            "leaves": [str(leaf) for leaf in live],
            "base": None if resolution.base is None else str(resolution.base),
            "by": resolution.by,
            "time": millisecond_timestamp(now),
        }
    ).decode()
