"""`_conflicts`, `_resolve` and `_resolutions`: what people see of conflicts, and do about them.

These are not CouchDB's. Like all that is done to documents here they work on revisions, so other
clients see a resolution as they see any edit.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from functools import partial
from typing import Any

import msgspec
from aiohttp import web

from agent.documents.attachment import Attachment, attachments_text
from agent.documents.conflict import Conflict, Join, Version
from agent.documents.differences import changed_fields, dotted
from agent.documents.policies import Decided, all_attachments
from agent.documents.revision import Rev
from agent.documents.wire import attachments_of, own_members
from agent.errors import MissingStubError, NotFoundError, RequestError
from agent.server.access import write_refusal
from agent.server.answers import Stream, answer, json_text
from agent.server.call import DatabaseCall, decode, parse_rev
from agent.server.edits import JsonObject, as_request_error
from agent.server.overtaken import overtaken
from agent.server.service import Outlook
from agent.server.users import user_of
from agent.store.resolutions import Overtaken, Resolution, resolution_of
from agent.store.resolutions import resolve as written
from agent.store.store import Store

_DEFAULT, _MOST = 100, 1000
_PAGE = 50
_MOST_BYTES = 8 * 1024 * 1024
"""Of rows, after which there are no more in one answer."""

_MOST_FIELDS = 10
"""That a row names; the others are counted."""


async def listed(call: DatabaseCall) -> web.StreamResponse:
    """GET /{db}/_conflicts: documents in conflict, by id, and in what their live leaves differ.

    Options: limit (100, at most 1000), start_key (JSON, an id), key (JSON: that document alone),
    include_docs (true: the leaves and the base), joins (true: how the leaves are merged and all the
    ancestors that takes, too). There are fewer rows than `limit` where documents are large; `next`
    is the id to go on from, null at the end. Raises RequestError.
    """
    limit = _limit(call)
    start, key = _id(call, "start_key"), _id(call, "key")
    joins = call.flag("joins")
    docs = joins or call.flag("include_docs")
    total = (await call.store.info()).conflict_count
    stream = Stream(call.request)
    await stream.write(f'{{"total":{total},"rows":[')
    next_id = None
    count = size = 0
    found = _conflicts(call.store, key, start or "", limit + 1)
    async with aclosing(found):
        async for conflict in found:
            if count == limit or size > _MOST_BYTES:
                next_id = conflict.id
                break
            outlook = _outlook(call, conflict)
            # In a thread that nothing waits for: documents may be large.
            text = await call.store.examine(_row, conflict, outlook, docs, joins)
            await stream.write((",\r\n" if count else "\r\n") + text)
            count += 1
            size += len(text)
    await stream.write(f'\r\n],"next":{json_text(next_id)}}}\r\n')
    return await stream.finish()


async def _conflicts(
    store: Store, key: str | None, start: str, limit: int
) -> AsyncGenerator[Conflict, None]:
    """The conflict of `key`, or those from `start` on."""
    if key is not None:
        found = await store.conflict(key)
        if found is not None and len(found.revs) > 1:
            yield found
        return
    after = False
    while limit > 0:
        page = await store.conflicts_by_id(start, limit=min(limit, _PAGE), after=after)
        for conflict in page.conflicts:
            yield conflict
            start, after = conflict.id, True
        limit -= len(page.conflicts)
        if page.complete:
            return


async def resolve(call: DatabaseCall) -> web.Response:
    """POST /{db}/_resolve: end a conflict as somebody says who has seen these live leaves.

    Members: id, leaves (revisions), and either choose (one of them, with its attachments) or doc
    (the body; null deletes the document). 409 with the present leaves, and what has changed, where
    there are others by now; then nothing is written. Beside `doc` the attachments of all leaves are
    kept, of the same name the winner's, unless it has `_attachments` with stubs. Raises
    RequestError, NotFoundError, MissingStubError.
    """
    call.require_json()
    asked = decode(await call.documents(), JsonObject)
    id, seen, choose = _asked(asked)
    refusal = write_refusal(call.request, call.store, id)
    if refusal is not None:
        raise refusal
    conflict = await call.store.conflict(id)
    if conflict is None and await call.store.get(id) is None:
        raise NotFoundError(f"{id}: no such document", reason="missing")
    user = user_of(call.request).name
    by = "anonymous" if user is None else f"user {user}"
    if conflict is None or set(seen) != set(conflict.revs):
        return await overtaken(call, id, seen)
    try:
        resolution = _resolution(conflict, choose, asked.get("doc"), by)
    except ValueError as error:
        raise as_request_error(error) from None
    write = partial(written, resolutions=[resolution], now=time.time())
    [result] = await call.store.write(write)
    if isinstance(result, Overtaken):
        return await overtaken(call, id, seen)
    return answer({"ok": True, "id": id, "rev": str(result)}, status=201)


async def resolutions(call: DatabaseCall) -> web.Response:
    """GET /{db}/_resolutions: the record of conflicts that were resolved here.

    Options: limit (100, at most 1000), descending, after (a row's `number`). Raises RequestError.
    """
    found = await call.store.resolutions(
        limit=_limit(call), after=call.number("after"), descending=call.flag("descending")
    )
    rows = [{**msgspec.json.decode(text), "number": number} for number, text in found]
    return answer({"rows": rows})


def _limit(call: DatabaseCall) -> int:
    limit = call.number("limit")
    if limit is not None and limit > _MOST:
        raise RequestError(400, "query_parse_error", f"limit is at most {_MOST}")
    return _DEFAULT if limit is None else limit


def _id(call: DatabaseCall, name: str) -> str | None:
    value = call.json_parameter(name)
    if value is msgspec.UNSET:
        return None
    if not isinstance(value, str):
        raise RequestError(400, "query_parse_error", f"{name} must be a JSON string: an id")
    return value


def _outlook(call: DatabaseCall, conflict: Conflict) -> Outlook:
    outlooks = call.service.outlooks
    return (None, "waiting", None) if outlooks is None else outlooks.outlook(call.name, conflict)


def _row(conflict: Conflict, outlook: Outlook, docs: bool, joins: bool) -> str:
    policy, state, reason = outlook
    fields = changed_fields(*(leaf.body for leaf in conflict.leaves))
    row: dict[str, Any] = {
        "id": conflict.id,
        "revs": [str(rev) for rev in conflict.revs],
        "fields": [dotted(path) for path in fields[:_MOST_FIELDS]],
        "differences": len(fields),
        "policy": policy,
        "state": state,
        "reason": reason,
    }
    if docs:
        row["leaves"] = [_doc(conflict, leaf) for leaf in conflict.leaves]
        row["base"] = None if conflict.base is None else _doc(conflict, conflict.base)
    if joins:
        row["rounds"] = conflict.rounds
        row["bases"] = [_doc(conflict, base) for base in conflict.bases.values()]
        row["joins"] = [_join(join) for join in conflict.joins]
    return json_text(row)


def _join(join: Join) -> dict[str, Any]:
    return {
        "mine": join.mine,
        "theirs": join.theirs,
        "bases": [str(rev) for rev in join.bases],
        "complete": join.complete,
        "joins": [_join(inner) for inner in join.joins],
    }


def _doc(conflict: Conflict, version: Version) -> dict[str, Any]:
    doc = conflict.doc(version.body, version.rev)
    if version.attachments:
        doc["_attachments"] = msgspec.Raw(attachments_text(version.attachments).encode())
    return doc


def _asked(asked: JsonObject) -> tuple[str, tuple[Rev, ...], Rev | None]:
    """The id, the leaves and the chosen one of them. Raises RequestError."""
    id, leaves = asked.get("id"), asked.get("leaves")
    if not isinstance(id, str):
        raise RequestError(400, "bad_request", "id must be a document's id")
    if not isinstance(leaves, list) or not leaves:
        raise RequestError(400, "bad_request", "leaves must be the live revisions that were seen")
    if ("doc" in asked) is ("choose" in asked):
        raise RequestError(400, "bad_request", "give either doc or choose")
    seen = tuple(parse_rev(leaf) for leaf in leaves)
    choose = parse_rev(asked["choose"]) if "choose" in asked else None
    if choose is not None and choose not in seen:
        raise RequestError(400, "bad_request", f"choose must be one of leaves, not {choose}")
    return id, seen, choose


def _resolution(conflict: Conflict, choose: Rev | None, doc: Any, by: str) -> Resolution:
    """Raises ValueError, RequestError, MissingStubError."""
    if choose is not None:
        leaf = next((leaf for leaf in conflict.leaves if leaf.rev == choose), None)
        if leaf is None:
            raise RequestError(413, "too_large", "this revision is too large to choose; write doc")
        return resolution_of(conflict, Decided(leaf.body, leaf.attachments), by=by)
    if doc is None:
        base = None if conflict.base is None else conflict.base.rev
        return Resolution(conflict.id, conflict.revs, by, delete=True, base=base)
    if not isinstance(doc, dict):
        raise RequestError(400, "bad_request", "Document must be a JSON object")
    body, deleted = own_members(doc)
    if deleted:
        raise RequestError(400, "bad_request", 'To delete the document write "doc": null')
    attachments = all_attachments(conflict)
    if "_attachments" in doc:
        attachments = tuple(_stub_of(conflict, given) for given in attachments_of(doc))
    return resolution_of(conflict, Decided(body, attachments), by=by)


def _stub_of(conflict: Conflict, given: Attachment) -> Attachment:
    """The attachment of a leaf that a stub means. Raises MissingStubError."""
    for attachments in (*(leaf.attachments for leaf in conflict.leaves), conflict.unseen):
        for known in attachments:
            if known.name == given.name and given.digest in ("", known.digest):
                return known
    raise MissingStubError(f"Invalid attachment stub in {conflict.id} for {given.name}")
