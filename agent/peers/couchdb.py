"""A database on CouchDB, Cloudant, PouchDB Server or another agent, over HTTP.

Source: CouchDB documentation, "CouchDB Replication Protocol"; each method names its endpoint.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from msgspec import Meta

from agent.documents.attachment import Attachment
from agent.documents.ranges import Leaves, Range, Span
from agent.documents.revision import Revision
from agent.errors import ConfigError, ConflictError, PermanentError
from agent.peers.changes_feed import ChangesFeed, FeedFilter, FeedMode
from agent.peers.couchdb_attachments import AttachmentWriter, read_attachment
from agent.peers.couchdb_documents import (
    DocumentReader,
    DocumentWriter,
    check_database,
)
from agent.peers.http import HttpClient, OnDate
from agent.peers.http_errors import one_line
from agent.peers.http_messages import OK, Answer
from agent.peers.peer import ChangeBatch, Contents, PeerInfo, Seq, WriteResult
from agent.peers.urls import AuthMode, Credentials, DatabaseUrl, parse_database_url


class _Info(msgspec.Struct):
    update_seq: Any
    doc_count: int = 0
    instance_start_time: str | int = ""


class _Welcome(msgspec.Struct):
    couchdb: str | None = None
    express_pouchdb: str | None = msgspec.field(default=None, name="express-pouchdb")
    version: str = ""
    vendor: dict[str, Any] = {}


class _Missing(msgspec.Struct):
    missing: list[str] = []


class _Ranges(msgspec.Struct):
    ranges: list[list[tuple[str, int, Annotated[str, Meta(pattern="^([0-9a-f]{2})*$")]]]]


class _Leaves(msgspec.Struct):
    leaves: list[tuple[str, list[str]]]


class _LocalWritten(msgspec.Struct):
    rev: str


class _Committed(msgspec.Struct):
    instance_start_time: str | int | None = None


class CouchPeer:
    """A `Peer` that speaks CouchDB's HTTP API. It connects with the first request.

    Every method raises, besides what it names: ConnectError, RemoteBusyError, TlsError, AuthError,
    RemoteMissingError (no such database), NotCouchDBError, RemoteError; ConfigError (`ca_file`).
    """

    def __init__(
        self,
        url: DatabaseUrl,
        credentials: Credentials | None = None,
        *,
        auth: AuthMode = "auto",
        ca_file: str | Path | None = None,
        feed: FeedMode = "continuous",
        heartbeat: float = 30.0,
        timeout: float = 60.0,
        headers: Mapping[str, str] | None = None,
        on_date: OnDate | None = None,
    ) -> None:
        """As `from_url`; `headers` go with every request."""
        self._label = str(url)
        self._db = f"/{url.segment}"
        self._http = HttpClient(
            url,
            credentials,
            auth=auth,
            ca_file=ca_file,
            timeout=timeout,
            headers=headers,
            on_date=on_date,
        )
        self._feed = ChangesFeed(self._http, f"{self._db}/_changes", mode=feed, heartbeat=heartbeat)
        self._reader = DocumentReader(self._http, self._db)
        self._writer = DocumentWriter(self._http, self._db)
        self._server: str | None = None

    @classmethod
    def from_url(
        cls,
        url: str,
        *,
        user: str | None = None,
        password: str | None = None,
        auth: AuthMode = "auto",
        ca_file: str | Path | None = None,
        feed: FeedMode = "continuous",
        heartbeat: float = 30.0,
        timeout: float = 60.0,
        on_date: OnDate | None = None,
    ) -> CouchPeer:
        """A peer for `https://user:password@host/database`; `user` and `password` come before
        those in the URL.

        `auth` "auto" logs in for a session and uses Basic where the server has none. `ca_file`
        (PEM) replaces the system's certificate authorities. `heartbeat`, the pace of signs of life
        in the changes feed, and `timeout`, the longest silence in other answers, are in seconds.
        `on_date` is told what time the server has.
        Raises ConfigError.
        """
        location, credentials = parse_database_url(url)
        known = credentials or Credentials("", "")
        user = known.user if user is None else user
        password = known.password if password is None else password
        if password and not user:
            raise ConfigError(f"{location} has a password but no user; give both or none")
        return cls(
            location,
            Credentials(user, password) if user else None,
            auth=auth,
            ca_file=ca_file,
            feed=feed,
            heartbeat=heartbeat,
            timeout=timeout,
            on_date=on_date,
        )

    def __repr__(self) -> str:
        return f"CouchPeer({self._label!r})"

    @property
    def identity(self) -> str:
        """The normalized URL without credentials."""
        return self._label

    @property
    def label(self) -> str:
        """As `identity`."""
        return self._label

    @property
    def traffic(self) -> tuple[int, int]:
        """As `Metered.traffic`: all that the TCP connections carry."""
        return self._http.traffic.sent, self._http.traffic.received

    async def info(self) -> PeerInfo:
        """GET /{db}."""
        answer = await self._http.request("GET", self._db)
        info = answer.json(_Info)
        if self._server is None:
            self._server = await self._server_name(answer)
        return PeerInfo(
            update_seq=info.update_seq,
            doc_count=info.doc_count,
            instance_start_time=str(info.instance_start_time),
            server=self._server,
        )

    async def create(self) -> None:
        """PUT /{db}; the answer 412 means that it exists."""
        await self._http.request("PUT", self._db, accept=OK | {412})

    def changes(
        self,
        since: Seq,
        *,
        follow: bool,
        limit: int,
        selector: Mapping[str, Any] | None = None,
        doc_ids: Sequence[str] | None = None,
    ) -> AsyncGenerator[ChangeBatch, None]:
        """GET /{db}/_changes with `style=all_docs`: pages first, then the feed.

        A selector or document ids are sent in the body of a POST, with the filter `_selector` or
        `_doc_ids`. Whoever leaves off before the end closes it, with `contextlib.aclosing`.
        """
        return self._feed.read(
            since, follow=follow, limit=limit, filter=FeedFilter.of(selector, doc_ids)
        )

    async def revs_diff(self, revs: Mapping[str, Sequence[str]]) -> Mapping[str, Sequence[str]]:
        """POST /{db}/_revs_diff."""
        if not revs:
            return {}
        answer = await self._http.request(
            "POST", f"{self._db}/_revs_diff", body=msgspec.json.encode(revs)
        )
        missing = answer.json(dict[str, _Missing])
        return {id: entry.missing for id, entry in missing.items() if entry.missing}

    async def fetch(
        self, wanted: Sequence[tuple[str, Sequence[str]]]
    ) -> Sequence[Revision | WriteResult]:
        """POST /{db}/_bulk_get; GET /{db}/{doc}?open_revs where the server lacks that.

        `latest` is not asked for: PouchDB Server dies of it when a revision is unknown, and a newer
        revision has a change of its own.
        """
        return await self._reader.fetch(wanted)

    def attachment(self, revision: Revision, attachment: Attachment) -> AsyncGenerator[bytes, None]:
        """GET /{db}/{doc}/{attachment}?rev=, streamed."""
        return read_attachment(self._http, self._db, revision, attachment)

    async def store(
        self, revisions: Sequence[Revision], contents: Contents | None = None
    ) -> Sequence[WriteResult]:
        """POST /{db}/_bulk_docs with `new_edits: false`; PUT /{db}/{doc}?new_edits=false, as
        multipart/related and streamed, for documents with larger attachments.
        """
        if contents is None or not any(revision.attachments for revision in revisions):
            return await self._writer.store(revisions)
        writer = AttachmentWriter(self._http, self._db, self._writer, contents)
        return await writer.store(revisions)

    async def get_local(self, id: str) -> dict[str, Any] | None:
        """GET /{db}/_local/{id}."""
        answer = await self._http.request("GET", self._local(id), accept=OK | {404})
        doc = answer.json(dict[str, Any])
        if answer.status == 404:
            check_database(answer)
            return None
        doc.pop("_id", None)
        return doc

    async def put_local(self, id: str, doc: Mapping[str, Any]) -> str:
        """PUT /{db}/_local/{id}."""
        answer = await self._http.request(
            "PUT", self._local(id), body=msgspec.json.encode(doc), accept=OK | {409}
        )
        if answer.status == 409:
            raise ConflictError(f"{self._label}: _local/{id} has another revision; read it again")
        return answer.json(_LocalWritten).rev

    async def ranges(self, level: int, spans: Sequence[Span]) -> Sequence[Sequence[Range]] | None:
        """POST /{db}/_ranges, which only agents know."""
        body = msgspec.json.encode({"level": level, "spans": spans})
        answer = await self._http.request(
            "POST", f"{self._db}/_ranges", body=body, accept=OK | {400, 404, 405, 501}
        )
        if answer.status not in OK:
            check_database(answer)
            return None
        return [
            [Range(start, count, bytes.fromhex(digest)) for start, count, digest in part]
            for part in answer.json(_Ranges).ranges
        ]

    async def leaves(self, span: Span, limit: int) -> Sequence[Leaves]:
        """POST /{db}/_ranges with the level 0."""
        body = msgspec.json.encode({"level": 0, "spans": [span], "limit": limit})
        answer = await self._http.request("POST", f"{self._db}/_ranges", body=body)
        return [Leaves(id, tuple(revs)) for id, revs in answer.json(_Leaves).leaves]

    async def ensure_full_commit(self) -> str:
        """POST /{db}/_ensure_full_commit; a server without it is asked for its info."""
        answer = await self._http.request(
            "POST", f"{self._db}/_ensure_full_commit", accept=OK | {404, 405, 501}
        )
        if answer.status in OK:
            started = answer.json(_Committed).instance_start_time
            if started is not None:
                return str(started)
        return (await self.info()).instance_start_time

    async def close(self) -> None:
        """Close the connections. A changes feed under way ends with ConnectError."""
        await self._http.close()

    def _local(self, id: str) -> str:
        return f"{self._db}/_local/{quote(id, safe='')}"

    async def _server_name(self, answer: Answer) -> str:
        """The software, from GET / or, where that is not allowed, from the Server header."""
        try:
            welcome = (await self._http.request("GET", "/")).json(_Welcome)
        except PermanentError:
            return one_line(answer.headers.get("Server", "unknown"))
        vendor = welcome.vendor.get("name")
        name = "CouchDB" if welcome.couchdb else "unknown"
        if welcome.express_pouchdb:
            name = "PouchDB Server"
        elif vendor and vendor != "The Apache Software Foundation":
            name = str(vendor)
        return one_line(f"{name} {welcome.version}".strip())
