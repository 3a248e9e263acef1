"""The answer to a resolution that somebody else was faster than: what has changed since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import web

from agent.documents.conflict import RESOLVED_TO, live_leaves
from agent.documents.differences import Change, changed_fields, changes_since, dotted, value_at
from agent.documents.fields import Absent
from agent.documents.revision import Rev, Revision
from agent.errors import TooLargeError
from agent.peers.http_errors import one_line
from agent.server.answers import answer
from agent.server.call import DatabaseCall
from agent.store.stored import StoredDocument

_MOST_CHANGES, _MOST_FIELDS, _MOST_TEXT = 4, 6, 40
"""That are told in words; the rest is counted."""

_decode = msgspec.json.Decoder(dict[str, Any]).decode


async def overtaken(call: DatabaseCall, id: str, seen: Sequence[Rev]) -> web.Response:
    """409 for who has seen these live leaves: the present ones, and what became of the others."""
    document = await call.store.get(id)
    changes: list[Change] = []
    if document is not None:
        changes = await call.store.examine(_changes, document, seen)
    wanted = {
        str(rev) for change in changes[:_MOST_CHANGES] for rev in (change.seen, change.leaf) if rev
    }
    try:
        [found] = await call.store.revisions([(id, sorted(wanted))], bounded=True)
    except TooLargeError:
        found = []
    # In a thread that nothing waits for: histories may be long, and documents large.
    body = await call.store.examine(_told, document, seen, changes, found)
    return answer(body, status=409)


def _changes(document: StoredDocument, seen: Sequence[Rev]) -> list[Change]:
    return changes_since(document.tree(), seen)


def _told(
    document: StoredDocument | None,
    seen: Sequence[Rev],
    changes: Sequence[Change],
    found: Sequence[tuple[str, Revision | None]],
) -> dict[str, Any]:
    leaves = [] if document is None else live_leaves(document.tree())
    bodies = {revision.rev: _decode(revision.body) for _, revision in found if revision is not None}
    reached = {*seen, *(change.leaf for change in changes)}
    new = [str(leaf) for leaf in leaves if leaf not in reached]
    said = [_said(change, bodies) for change in changes[:_MOST_CHANGES]]
    said += [f"{len(changes) - len(said)} more"] if len(changes) > len(said) else []
    said += [f"new: {', '.join(new[:_MOST_CHANGES])}"] if new else []
    return {
        "error": "conflict",
        "reason": "; ".join(["the document has changed meanwhile", *said, "nothing was written"]),
        "leaves": [str(leaf) for leaf in leaves],
        "changes": [_row(change, bodies) for change in changes],
    }


def _row(change: Change, bodies: Mapping[Rev, Mapping[str, Any]]) -> dict[str, Any]:
    fields = None if change.deleted else _fields(change, bodies)
    return {
        "seen": str(change.seen),
        "leaf": None if change.leaf is None else str(change.leaf),
        "deleted": change.deleted,
        "fields": None if fields is None else [dotted(path) for path in fields],
    }


def _fields(
    change: Change, bodies: Mapping[Rev, Mapping[str, Any]]
) -> list[tuple[str, ...]] | None:
    """None where one of the bodies is not here."""
    if change.leaf is None or not {change.seen, change.leaf} <= bodies.keys():
        return None
    return changed_fields(bodies[change.seen], bodies[change.leaf])


def _said(change: Change, bodies: Mapping[Rev, Mapping[str, Any]]) -> str:
    """A change in words, on one line."""
    if change.leaf is None:
        return f"{change.seen} is not here any more"
    if change.deleted:
        into = bodies.get(change.leaf, {}).get(RESOLVED_TO)
        became = f"resolved into {one_line(into)}" if isinstance(into, str) else "deleted"
        return f"{change.seen} was {became}"
    became = f"{change.seen} became {change.leaf}"
    fields = _fields(change, bodies)
    if not fields:
        return became if fields is None else f"{became}, with the same fields"
    before, now = bodies[change.seen], bodies[change.leaf]
    told = [
        f"{one_line(dotted(path))}: {_text(value_at(before, path))} → {_text(value_at(now, path))}"
        for path in fields[:_MOST_FIELDS]
    ]
    told += [f"{len(fields) - len(told)} more"] if len(fields) > len(told) else []
    return f"{became} ({', '.join(told)})"


def _text(value: Any) -> str:
    if value is Absent.NOT_FOUND:
        return "none"
    text = one_line(msgspec.json.encode(value).decode())
    return text if len(text) <= _MOST_TEXT else f"{text[: _MOST_TEXT - 1]}…"
