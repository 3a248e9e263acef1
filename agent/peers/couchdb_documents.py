"""Reading and writing documents in bulk over CouchDB's HTTP API."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias
from urllib.parse import quote

import msgspec

from agent.documents.revision import Revision
from agent.documents.wire import document_text, revision_from_doc
from agent.errors import (
    NotCouchDBError,
    RemoteBusyError,
    TooLargeError,
)
from agent.peers.http import ANSWER_LIMIT, HttpClient
from agent.peers.http_errors import NO_DATABASE, ErrorBody, error_body, one_line, refusal
from agent.peers.http_messages import OK, Answer, MalformedJsonError
from agent.peers.peer import WriteResult
from agent.tasks import together

Found: TypeAlias = list[Revision | WriteResult]
_Asked: TypeAlias = Sequence[tuple[str, str]]

_ONE_DOCUMENT_LIMIT = 128 * 1024 * 1024
_LONG = 128 * 1024  # bytes; decoding that many takes some 3 ms, on a small gateway 20 ms
_QUERY_LIMIT = 4000  # characters of open_revs; CouchDB's own replicator begins with 7000
_SINGLE_GETS = 4
_NO_BULK_GET = frozenset({400, 404, 405, 501})
# Errors of single documents that say nothing about the document: the request is worth repeating.
_TEMPORARY = frozenset({"timeout", "internal_server_error", "unknown_error", "too_many_requests"})


class _ItemError(msgspec.Struct):
    id: str = ""
    rev: str | None = None
    error: str = ""
    reason: str | None = None


class _Item(msgspec.Struct):
    """What became of one revision that was asked for. CouchDB has objects as `error`."""

    ok: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    missing: str | None = None
    error: _ItemError | str | None = None
    reason: str | None = None


class _Result(msgspec.Struct):
    id: str
    docs: list[_Item]


class _BulkGetAnswer(msgspec.Struct):
    results: list[_Result]


class _Head(msgspec.Struct):
    id: str = msgspec.field(name="_id", default="")
    rev: str = msgspec.field(name="_rev", default="")


_doc_decoder = msgspec.json.Decoder(dict[str, object])


def check_database(answer: Answer) -> None:
    """Raises RemoteMissingError if an answer says that there is no such database."""
    told = error_body(answer.body)
    if answer.status == 404 and told is not None and told.reason in NO_DATABASE:
        raise refusal(answer.where, "", 404, answer.headers, answer.body, None)


class DocumentReader:
    """Fetches revisions of the database at path `db`."""

    def __init__(self, http: HttpClient, db: str) -> None:
        self._http = http
        self._db = db
        self._has_bulk_get = True

    async def fetch(self, wanted: Sequence[tuple[str, Sequence[str]]]) -> Found:
        """As `Peer.fetch`."""
        by_id: dict[str, list[str]] = {}
        for id, revs in wanted:
            by_id.setdefault(id, []).extend(revs)
        asked = list(dict.fromkeys((id, rev) for id, revs in by_id.items() for rev in revs))
        if not asked:
            return []
        found = await self._bulk_get(asked) if self._has_bulk_get else None
        return await self._get_singly(by_id, _limit(asked)) if found is None else found

    async def _bulk_get(self, asked: _Asked) -> Found | None:
        """None where the server has no _bulk_get."""
        answer = await self._http.request(
            "POST",
            f"{self._db}/_bulk_get",
            query={"revs": "true", "att_encoding_info": "true"},
            body=msgspec.json.encode({"docs": [{"id": id, "rev": rev} for id, rev in asked]}),
            accept=OK | _NO_BULK_GET,
            limit=_limit(asked),
        )
        if answer.status in _NO_BULK_GET:
            check_database(answer)
            # 400 may be about this request alone, so that is not remembered.
            self._has_bulk_get = answer.status == 400
            return None

        def read() -> Found:
            results = answer.json(_BulkGetAnswer).results
            return _found(answer, asked, [(r.id, item) for r in results for item in r.docs])

        try:
            return await _run(read, answer)
        except MalformedJsonError as error:
            if len(asked) == 1:
                return [_unreadable(asked[0], error)]
        # One document in it cannot be read. Find it, and carry the others.
        half = len(asked) // 2
        first, second = await self._bulk_get(asked[:half]), await self._bulk_get(asked[half:])
        return None if first is None or second is None else [*first, *second]

    async def _get_singly(self, wanted: dict[str, list[str]], limit: int) -> Found:
        gate = asyncio.Semaphore(_SINGLE_GETS)
        size = 0

        async def get(id: str, revs: Sequence[str]) -> Found:
            nonlocal size
            async with gate:
                found, length = await self._open_revs(id, revs, limit)
            size += length
            if size > limit:
                raise TooLargeError(
                    f"{self._http.where} sent more than {limit >> 20} MiB of documents; ask for "
                    "fewer at once"
                )
            return found

        async with together() as group:
            tasks = [group.create_task(get(id, revs)) for id, revs in wanted.items() if revs]
        return [found for task in tasks for found in task.result()]

    async def _open_revs(self, id: str, revs: Sequence[str], limit: int) -> tuple[Found, int]:
        """What there is of `revs` and the size of the answers in bytes."""
        asked = [(id, rev) for rev in revs]
        query = msgspec.json.encode(revs).decode()
        if len(revs) == 1 or len(query) <= _QUERY_LIMIT:
            answer = await self._http.request(
                "GET",
                f"{self._db}/{document_path(id)}",
                query={"open_revs": query, "revs": "true", "att_encoding_info": "true"},
                accept=OK | {404, 414},
                limit=limit,
            )
            if answer.status == 404:
                check_database(answer)
                answer.json(ErrorBody)  # raises if this is some proxy's page
                return [], 0
            if answer.status == 414 and len(revs) == 1:
                return [WriteResult(*asked[0], "request_uri_too_long", "The URL is too long")], 0
            if answer.status in OK:

                def read() -> Found:
                    items = answer.json(list[_Item])
                    return _found(answer, asked, [(id, item) for item in items])

                try:
                    return await _run(read, answer), len(answer.body)
                except MalformedJsonError as error:
                    if len(revs) == 1:
                        return [_unreadable(asked[0], error)], len(answer.body)
        half = len(revs) // 2
        first, first_size = await self._open_revs(id, revs[:half], limit)
        second, second_size = await self._open_revs(id, revs[half:], limit)
        return [*first, *second], first_size + second_size


class DocumentWriter:
    """Writes revisions to the database at path `db`."""

    def __init__(self, http: HttpClient, db: str) -> None:
        self._http = http
        self._db = db

    async def store(self, revisions: Sequence[Revision]) -> list[WriteResult]:
        """As `Peer.store`."""
        if not revisions:
            return []
        docs = ",".join([document_text(revision, revisions=True) for revision in revisions])
        answer = await self._http.request(
            "POST",
            f"{self._db}/_bulk_docs",
            body=f'{{"new_edits":false,"docs":[{docs}]}}'.encode(),
            accept=OK | {400},
        )
        if answer.status in OK:
            return _written(answer, revisions, answer.json(list[_ItemError]))
        told = answer.json(ErrorBody)
        if len(revisions) == 1:
            rev = str(revisions[0].rev)
            return [WriteResult(revisions[0].id, rev, told.error or "bad_request", told.reason)]
        # Some servers refuse all documents because of one. Find it, and store the others.
        half = len(revisions) // 2
        return [*await self.store(revisions[:half]), *await self.store(revisions[half:])]


def document_path(id: str) -> str:
    """A document's place below its database: one segment, but for `_design/` and `_local/`."""
    for special in ("_design/", "_local/"):
        if id.startswith(special):
            return special + quote(id.removeprefix(special), safe="")
    return quote(id, safe="")


def _limit(asked: _Asked) -> int:
    return ANSWER_LIMIT if len(asked) > 1 else _ONE_DOCUMENT_LIMIT


async def _run(read: Callable[[], Found], answer: Answer) -> Found:
    """`read()`, for a long answer in a thread: the event loop goes on between its documents."""
    return await asyncio.to_thread(read) if len(answer.body) > _LONG else read()


def _found(answer: Answer, asked: _Asked, items: Sequence[tuple[str, _Item]]) -> Found:
    if len(items) < len(asked):
        raise NotCouchDBError(
            f"{answer.where} left {len(asked) - len(items)} of {len(asked)} revisions unanswered; "
            "check the server",
            status=answer.status,
        )
    found: Found = []
    for id, item in items:
        if isinstance(item.ok, msgspec.Raw):
            found.append(_document(id, item.ok))
        elif item.error is not None:
            error = item.error
            if isinstance(error, str):
                error = _ItemError(id, None, error, item.reason)
            _raise_temporary(answer, error)
            if error.error != "not_found":
                found.append(WriteResult(id, error.rev or "", error.error, error.reason))
        elif item.missing is None:
            raise NotCouchDBError(
                f"{answer.where} neither gave nor refused document {one_line(id)!r}; check the "
                "server",
                status=answer.status,
            )
    return found


def _document(id: str, text: msgspec.Raw) -> Revision | WriteResult:
    try:
        return revision_from_doc(_doc_decoder.decode(text))
    except (ValueError, msgspec.DecodeError, RecursionError) as error:
        head = msgspec.json.decode(text, type=_Head)
        return WriteResult(head.id or id, head.rev, "doc_validation", one_line(error))


def _written(
    answer: Answer, revisions: Sequence[Revision], failures: Iterable[_ItemError]
) -> list[WriteResult]:
    """CouchDB lists what failed; other servers list successes, too, or leave `rev` out."""
    by_rev: dict[tuple[str, str | None], _ItemError] = {}
    for failure in failures:
        if failure.error:
            _raise_temporary(answer, failure)
            by_rev[failure.id, failure.rev] = failure
    results = []
    for revision in revisions:
        id, rev = revision.id, str(revision.rev)
        refused = by_rev.get((id, rev)) or by_rev.get((id, None))
        results.append(
            WriteResult(id, rev, refused.error, refused.reason) if refused else WriteResult(id, rev)
        )
    strange = {id for id, _ in by_rev} - {revision.id for revision in revisions}
    if strange:
        raise NotCouchDBError(
            f"{answer.where} refused document {one_line(min(strange))!r}, which was not sent; "
            "check the server",
            status=answer.status,
        )
    return results


def _raise_temporary(answer: Answer, error: _ItemError) -> None:
    if error.error in _TEMPORARY:
        raise RemoteBusyError(
            f"{answer.where} is out of order for document {one_line(error.id)!r} "
            f"({error.error}: {one_line(error.reason)}); try again later"
        )


def _unreadable(asked: tuple[str, str], error: MalformedJsonError) -> WriteResult:
    return WriteResult(*asked, "doc_validation", str(error))
