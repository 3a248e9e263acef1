"""The answer to a resolution that somebody else was faster than: what has changed since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from aiohttp import web

from agent.documents.conflict import RESOLVED_TO, live_leaves
from agent.documents.differences import Change, changed_fields, changes_since, dotted, value_at
from agent.documents.fields import Absent
from agent.documents.revision import Rev
from agent.errors import TooLargeError
from agent.peers.http_errors import one_line
from agent.server.answers import answer
from agent.server.call import DatabaseCall

_MOST_CHANGES, _MOST_FIELDS, _MOST_TEXT = 4, 6, 40
"""That are told in words; the rest is counted."""

_decode = msgspec.json.Decoder(dict[str, Any]).decode


async def overtaken(call: DatabaseCall, id: str, seen: Sequence[Rev]) -> web.Response:
    """409 for who has seen these live leaves: the present ones, and what became of the others."""
    document = await call.store.get(id)
    leaves: list[Rev] = []
    changes: list[Change] = []
    if document is not None:
        tree = document.tree()
        leaves = live_leaves(tree)
        changes = changes_since(tree, seen)
    bodies = await _bodies(call, id, changes[:_MOST_CHANGES])
    rows = [_row(change, bodies) for change in changes]
    reached = {*seen, *(change.leaf for change in changes)}
    new = [str(leaf) for leaf in leaves if leaf not in reached]
    said = [_said(change, bodies) for change in changes[:_MOST_CHANGES]]
    said += [f"{len(changes) - len(said)} more"] if len(changes) > len(said) else []
    said += [f"new: {', '.join(new)}"] if new else []
    what = "; ".join(["the document has changed meanwhile", *said, "nothing was written"])
    body = {
        "error": "conflict",
        "reason": what,
        "leaves": [str(leaf) for leaf in leaves],
        "changes": rows,
    }
    return answer(body, status=409)


async def _bodies(
    call: DatabaseCall, id: str, changes: Sequence[Change]
) -> Mapping[Rev, Mapping[str, Any]]:
    """Of the revisions that changes are about, those that are here."""
    wanted = {str(rev) for change in changes for rev in (change.seen, change.leaf) if rev}
    try:
        [found] = await call.store.revisions([(id, sorted(wanted))], bounded=True)
    except TooLargeError:
        return {}
    return {revision.rev: _decode(revision.body) for _, revision in found if revision is not None}


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
