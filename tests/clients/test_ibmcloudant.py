"""IBM's Python SDK for Cloudant, unmodified, with a real hub.

The SDK blocks, so these tests are plain functions: there is no event loop to block.
"""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import quote

import pytest
from ibm_cloud_sdk_core import ApiException
from ibm_cloud_sdk_core.authenticators import Authenticator, BasicAuthenticator
from ibmcloudant import CouchDbSessionAuthenticator, Pager, PagerType, Pagination
from ibmcloudant.cloudant_v1 import (
    BulkGetQueryDocument,
    CloudantV1,
    Document,
    IndexDefinition,
    ReplicationDatabase,
    ReplicationDocument,
)
from ibmcloudant.features.changes_follower import ChangesFollower

from tests.clients.conftest import ADMIN, MEMBER, Hub
from tests.patience import when_true
from tests.server.accounts import password_of

Log_in = Callable[[str, str], Authenticator]


@contextmanager
def connected(
    hub: Hub,
    name: str,
    *,
    password: str | None = None,
    log_in: Log_in = CouchDbSessionAuthenticator,
) -> Iterator[CloudantV1]:
    client = CloudantV1(log_in(name, password_of(name) if password is None else password))
    client.set_service_url(hub.url)
    try:
        yield client
    finally:
        client.get_http_client().close()


@pytest.fixture
def client(hub: Hub) -> Iterator[CloudantV1]:
    """Logged in with a session, as an administrator."""
    with connected(hub, ADMIN) as client:
        yield client


@pytest.fixture
def db(client: CloudantV1, new_name: str) -> str:
    """An empty database."""
    assert client.put_database(db=new_name).get_status_code() == 201
    return new_name


@contextmanager
def refused(status: int, error: str, reason: str = "") -> Iterator[None]:
    """The SDK raises its own exception, made of CouchDB's two words."""
    with pytest.raises(ApiException) as caught:
        yield
    assert caught.value.status_code == status
    body = caught.value.http_response.json()
    assert body["error"] == error
    assert reason in body["reason"]
    assert caught.value.message == f"{error}: {body['reason']}"


def fill(client: CloudantV1, db: str, count: int) -> list[str]:
    """Documents "0000", "0001" and so on; returns their ids."""
    docs = [{"_id": f"{n:04}", "n": n, "even": n % 2 == 0} for n in range(count)]
    results = client.post_bulk_docs(db=db, bulk_docs={"docs": docs}).get_result()
    assert all(result["ok"] for result in results)
    return [result["id"] for result in results]


# --- the server and its users ----------------------------------------------------------


@pytest.mark.parametrize("log_in", [CouchDbSessionAuthenticator, BasicAuthenticator])
def test_logging_in(hub: Hub, log_in: Log_in) -> None:
    with connected(hub, MEMBER, log_in=log_in) as client:
        session = client.get_session_information().get_result()
        assert session["userCtx"] == {"name": MEMBER, "roles": ["staff"]}
        way = {"CouchDbSessionAuthenticator": "cookie", "BasicAuthenticator": "default"}
        assert session["info"]["authenticated"] == way[log_in.__name__]
        with refused(401, "unauthorized", "server admin"):
            client.put_database(db="not-by-mia")
    with (
        connected(hub, MEMBER, password="wrong", log_in=log_in) as client,
        refused(401, "unauthorized"),
    ):
        client.get_all_dbs()


def test_what_the_server_tells(client: CloudantV1) -> None:
    assert client.get_server_information().get_result()["couchdb"] == "Welcome"
    assert client.get_up_information().get_result()["status"] == "ok"
    assert client.head_up_information().get_status_code() == 200
    assert len(set(client.get_uuids(count=5).get_result()["uuids"])) == 5
    assert client.get_active_tasks().get_result() == []


def test_databases(client: CloudantV1, db: str) -> None:
    with refused(412, "file_exists"):
        client.put_database(db=db)
    with refused(400, "illegal_database_name"):
        client.put_database(db="Capital")
    assert client.head_database(db=db).get_status_code() == 200
    info = client.get_database_information(db=db).get_result()
    assert (info["db_name"], info["doc_count"], info["doc_del_count"]) == (db, 0, 0)
    assert db in client.get_all_dbs().get_result()
    names = client.get_all_dbs(start_key=json.dumps(db), limit=1).get_result()
    assert names == [db]
    here, missing = client.post_dbs_info(keys=[db, "no-such-db"]).get_result()
    assert (here["key"], here["info"]["db_name"]) == (db, db)
    assert missing == {"key": "no-such-db", "error": "not_found"}
    assert client.delete_database(db=db).get_result() == {"ok": True}
    with refused(404, "not_found", "Database does not exist."):
        client.get_database_information(db=db)


def test_letting_a_member_in(client: CloudantV1, hub: Hub, db: str) -> None:
    with connected(hub, MEMBER) as member:
        with refused(403, "forbidden"):
            member.get_database_information(db=db)
        members = {"names": [], "roles": ["staff"]}
        assert client.put_security(db=db, members=members).get_result() == {"ok": True}
        assert client.get_security(db=db).get_result()["members"] == members
        assert member.post_document(db=db, document={"by": "mia"}).get_result()["ok"]
        with refused(403, "forbidden"):
            member.put_security(db=db, members={})
        with refused(403, "forbidden"):
            member.put_design_document(db=db, ddoc="d", design_document={"language": "query"})


# --- documents -------------------------------------------------------------------------


def test_writing_and_reading_a_document(client: CloudantV1, db: str) -> None:
    id = "ä/☃ +%20?"
    first = client.put_document(db=db, doc_id=id, document={"v": 1, "°": [None]}).get_result()
    assert (first["ok"], first["id"]) == (True, id)
    read = client.get_document(db=db, doc_id=id)
    assert read.get_result() == {"_id": id, "_rev": first["rev"], "v": 1, "°": [None]}
    etag = read.get_headers()["ETag"]
    assert etag == client.head_document(db=db, doc_id=id).get_headers()["ETag"]
    with pytest.raises(ApiException) as unchanged:
        client.get_document(db=db, doc_id=id, if_none_match=etag)
    assert unchanged.value.status_code == 304

    edited = Document(_id=id, _rev=first["rev"], v=2)
    second = client.post_document(db=db, document=edited).get_result()
    with refused(409, "conflict", "Document update conflict."):
        client.post_document(db=db, document=edited)
    with refused(409, "conflict"):
        client.put_document(db=db, doc_id=id, document={}, if_match=first["rev"])
    old = client.get_document(db=db, doc_id=id, rev=first["rev"], revs=True).get_result()
    assert (old["v"], old["_revisions"]["start"]) == (1, 1)
    told = client.get_document(db=db, doc_id=id, revs_info=True, local_seq=True).get_result()
    assert [entry["rev"] for entry in told["_revs_info"]] == [second["rev"], first["rev"]]

    gone = client.delete_document(db=db, doc_id=id, rev=second["rev"]).get_result()
    assert gone["rev"].startswith("3-")
    with refused(404, "not_found", "deleted"):
        client.get_document(db=db, doc_id=id)
    with pytest.raises(ApiException) as caught:  # without a body to take the words from
        client.head_document(db=db, doc_id=id)
    assert caught.value.status_code == 404
    with refused(404, "not_found", "missing"):
        client.get_document(db=db, doc_id="never")


def test_a_conflict_that_replication_left(client: CloudantV1, db: str) -> None:
    for leaf in ("b", "a"):
        doc = {"_revisions": {"start": 2, "ids": [leaf, "root"]}, "leaf": leaf}
        client.put_document(db=db, doc_id="x", document=doc, rev=f"2-{leaf}", new_edits=False)
    doc = client.get_document(db=db, doc_id="x", conflicts=True).get_result()
    assert (doc["leaf"], doc["_conflicts"]) == ("b", ["2-a"])
    client.delete_document(db=db, doc_id="x", rev="2-a")
    doc = client.get_document(db=db, doc_id="x", meta=True).get_result()
    assert "_conflicts" not in doc
    assert len(doc["_deleted_conflicts"]) == 1
    diff = client.post_revs_diff(db=db, document_revisions={"x": ["2-b", "3-c"], "y": ["1-d"]})
    assert diff.get_result()["x"] == {"missing": ["3-c"], "possible_ancestors": ["2-b"]}
    assert diff.get_result()["y"] == {"missing": ["1-d"]}


def test_many_documents_at_once(client: CloudantV1, db: str) -> None:
    ids = fill(client, db, 30)
    conflict, made = client.post_bulk_docs(
        db=db, bulk_docs={"docs": [{"_id": ids[0]}, {"_id": "more"}]}
    ).get_result()
    assert (conflict["id"], conflict["error"]) == (ids[0], "conflict")
    assert made["ok"]

    wanted = [BulkGetQueryDocument(id=id) for id in (ids[3], "never", ids[1])]
    results = client.post_bulk_get(db=db, docs=wanted).get_result()["results"]
    assert [result["id"] for result in results] == [ids[3], "never", ids[1]]
    assert results[0]["docs"][0]["ok"]["n"] == 3
    assert results[1]["docs"][0]["error"]["error"] == "not_found"
    streamed = client.post_bulk_get_as_stream(db=db, docs=wanted).get_result()
    assert json.loads(streamed.content) == {"results": results}


@pytest.mark.parametrize("kind", ["mixed", "related"])
def test_many_documents_as_multipart(client: CloudantV1, db: str, kind: str) -> None:
    fill(client, db, 2)
    fetch = getattr(client, f"post_bulk_get_as_{kind}")
    answer = fetch(db=db, docs=[BulkGetQueryDocument(id="0001")])
    assert answer.get_headers()["Content-Type"].startswith(f"multipart/{kind}")
    assert b'"_id":"0001"' in answer.get_result().content


def test_listing_documents(client: CloudantV1, db: str) -> None:
    fill(client, db, 30)

    def listed(**options: Any) -> list[str]:
        rows = client.post_all_docs(db=db, **options).get_result()["rows"]
        return [row.get("id", row["key"]) for row in rows]

    assert len(listed()) == 30
    assert listed(start_key="0003", end_key="0005") == ["0003", "0004", "0005"]
    assert listed(start_key="0003", end_key="0005", inclusive_end=False) == ["0003", "0004"]
    assert listed(descending=True, limit=2, skip=1) == ["0028", "0027"]
    assert listed(key="0007") == ["0007"]
    assert listed(keys=["0009", "never", "0001"]) == ["0009", "never", "0001"]
    all = client.post_all_docs(db=db, include_docs=True, limit=1, update_seq=True).get_result()
    assert (all["total_rows"], all["rows"][0]["doc"]["n"]) == (30, 0)
    assert "update_seq" in all
    queries = [{"keys": ["0001"]}, {"limit": 2}]
    results = client.post_all_docs_queries(db=db, queries=queries).get_result()["results"]
    assert [len(result["rows"]) for result in results] == [1, 2]


def test_going_through_all_documents_page_by_page(client: CloudantV1, db: str) -> None:
    ids = fill(client, db, 25)

    def pager(kind: PagerType, **options: Any) -> Pager[Any]:
        return Pagination.new_pagination(client, kind, db=db, limit=10, **options).pager()

    rows = pager(PagerType.POST_ALL_DOCS)
    pages = []
    while rows.has_next():
        pages.append([row.id for row in rows.get_next()])
    assert pages == [ids[:10], ids[10:20], ids[20:]]
    found = pager(PagerType.POST_FIND, selector={"even": True}).get_all()
    assert [doc._id for doc in found] == ids[::2]


def test_design_documents_are_stored_and_their_functions_refused(
    client: CloudantV1, db: str
) -> None:
    design = {"views": {"by-n": {"map": "function (doc) { emit(doc.n) }"}}}
    made = client.put_design_document(db=db, ddoc="d", design_document=design).get_result()
    assert made["id"] == "_design/d"
    assert client.head_design_document(db=db, ddoc="d").get_status_code() == 200
    read = client.get_design_document(db=db, ddoc="d").get_result()
    assert read["views"] == design["views"]
    rows = client.post_design_docs(db=db).get_result()["rows"]
    assert [row["id"] for row in rows] == ["_design/d"]
    [result] = client.post_design_docs_queries(db=db, queries=[{"limit": 1}]).get_result()[
        "results"
    ]
    assert result["rows"] == rows
    with refused(501, "not_implemented", "_find"):
        client.post_view(db=db, ddoc="d", view="by-n")
    assert client.delete_design_document(db=db, ddoc="d", rev=made["rev"]).get_result()["ok"]


def test_local_documents(client: CloudantV1, db: str) -> None:
    client.put_local_document(db=db, doc_id="state", document={"at": 7})
    doc = client.get_local_document(db=db, doc_id="state").get_result()
    assert (doc["_id"], doc["_rev"], doc["at"]) == ("_local/state", "0-1", 7)
    assert client.head_local_document(db=db, doc_id="state").get_status_code() == 200
    assert client.delete_local_document(db=db, doc_id="state").get_result()["ok"]
    with refused(404, "not_found"):
        client.get_local_document(db=db, doc_id="state")
    assert client.post_all_docs(db=db).get_result()["rows"] == []


# --- queries ---------------------------------------------------------------------------


def test_indexes_and_queries(client: CloudantV1, db: str) -> None:
    fill(client, db, 25)
    with refused(400, "no_usable_index"):
        client.post_find(db=db, selector={"n": {"$gt": 3}}, sort=[{"n": "desc"}])
    index = IndexDefinition(fields=[{"n": "asc"}])
    options: dict[str, Any] = {"ddoc": "by-n", "name": "n", "type": "json"}
    made = client.post_index(db=db, index=index, **options).get_result()
    assert made == {"result": "created", "id": "_design/by-n", "name": "n"}
    assert client.post_index(db=db, index=index, **options).get_result()["result"] == "exists"
    listed = client.get_indexes_information(db=db).get_result()
    assert [entry["name"] for entry in listed["indexes"]] == ["_all_docs", "n"]

    query: dict[str, Any] = {
        "selector": {"n": {"$gte": 5}},
        "fields": ["n"],
        "sort": [{"n": "desc"}],
        "limit": 8,
        "use_index": ["by-n", "n"],
    }
    assert client.post_explain(db=db, **query).get_result()["index"]["ddoc"] == "_design/by-n"
    seen: list[int] = []
    bookmark = None
    while docs := (page := client.post_find(db=db, bookmark=bookmark, **query).get_result())[
        "docs"
    ]:
        seen += [doc["n"] for doc in docs]
        bookmark = page["bookmark"]
    assert seen == list(range(24, 4, -1))
    streamed = client.post_find_as_stream(db=db, execution_stats=True, **query).get_result()
    assert json.loads(streamed.content)["execution_stats"]["results_returned"] == 8

    removed = client.delete_index(db=db, ddoc="by-n", type="json", index="n").get_result()
    assert removed == {"ok": True}
    with refused(400, "invalid_operator"):
        client.post_find(db=db, selector={"n": {"$never": 1}})


# --- attachments -----------------------------------------------------------------------


def test_attachments(client: CloudantV1, db: str) -> None:
    content = bytes(range(256)) * 400
    where: dict[str, Any] = {"db": db, "doc_id": "x", "attachment_name": "ä/b.bin"}
    put = client.put_attachment(
        **where, attachment=io.BytesIO(content), content_type="application/octet-stream"
    )
    rev = put.get_result()["rev"]
    read = client.get_attachment(**where)
    assert read.get_result().content == content
    assert read.get_headers()["Content-Type"] == "application/octet-stream"
    # The SDK compresses what it sends, and that is what is stored.
    head = client.head_attachment(**where).get_headers()
    assert (head["Content-Encoding"], head["ETag"]) == ("gzip", read.get_headers()["ETag"])
    assert int(head["Content-Length"]) < len(content) / 10
    stub = client.get_document(db=db, doc_id="x").get_result()["_attachments"]["ä/b.bin"]
    assert (stub["stub"], stub["length"], stub["revpos"]) == (True, len(content), 1)

    text = {"content_type": "text/plain", "data": "c21hbGw="}
    both = {"_rev": rev, "_attachments": {"ä/b.bin": stub, "t.txt": text}}
    rev = client.put_document(db=db, doc_id="x", document=both).get_result()["rev"]
    doc = client.get_document(db=db, doc_id="x", attachments=True).get_result()
    assert doc["_attachments"]["t.txt"]["data"] == "c21hbGw="
    whole = client.get_document_as_related(db=db, doc_id="x", attachments=True)
    assert whole.get_headers()["Content-Type"].startswith("multipart/related")
    assert b"small" in whole.get_result().content
    with refused(409, "conflict"):
        client.delete_attachment(**where, rev="1-abc")
    rev = client.delete_attachment(**where, rev=rev).get_result()["rev"]
    with refused(404, "not_found", "missing attachment"):
        client.get_attachment(**where)

    client.set_enable_gzip_compression(False)
    client.put_attachment(**where, attachment=content, content_type="image/png", rev=rev)
    part = client.get_attachment(**where, range="bytes=250-259")
    assert (part.get_status_code(), part.get_result().content) == (206, content[250:260])


# --- changes ---------------------------------------------------------------------------


def test_changes(client: CloudantV1, db: str) -> None:
    fill(client, db, 6)

    def changed(**options: Any) -> Any:
        return client.post_changes(db=db, **options).get_result()

    everything = changed(include_docs=True)
    assert [row["doc"]["n"] for row in everything["results"]] == list(range(6))
    assert everything["pending"] == 0
    page = changed(limit=2)
    assert page["pending"] == 4
    rest = changed(since=page["last_seq"])
    assert [row["id"] for row in rest["results"]] == ["0002", "0003", "0004", "0005"]
    assert [row["id"] for row in changed(descending=True, limit=1)["results"]] == ["0005"]
    some = changed(filter="_doc_ids", doc_ids=["0004", "0001"])
    assert [row["id"] for row in some["results"]] == ["0001", "0004"]
    even = changed(filter="_selector", selector={"even": True})
    assert [row["id"] for row in even["results"]] == ["0000", "0002", "0004"]
    nothing = changed(since="now", feed="longpoll", timeout=50)
    assert (nothing["results"], nothing["last_seq"]) == ([], everything["last_seq"])
    lines = client.post_changes_as_stream(db=db, feed="continuous", timeout=50, since="0")
    *rows, last = (json.loads(line) for line in lines.get_result().iter_lines() if line)
    assert rows == [{k: v for k, v in row.items() if k != "doc"} for row in everything["results"]]
    assert last["last_seq"] == everything["last_seq"]
    events = client.post_changes_as_stream(
        db=db, feed="eventsource", timeout=50, since="0", last_event_id=page["last_seq"]
    )
    told = [line for line in events.get_result().iter_lines() if line.startswith(b"data: ")]
    assert [json.loads(line.removeprefix(b"data: ")) for line in told] == rest["results"]


def test_a_follower_that_runs_to_the_end_and_starts_again_there(
    client: CloudantV1, db: str
) -> None:
    fill(client, db, 20)
    changes = ChangesFollower(client, db=db, include_docs=True).start_one_off()
    seen = list(changes)
    assert [change.doc.n for change in seen] == list(range(20))
    client.post_document(db=db, document={"_id": "later"})
    follower = ChangesFollower(client, db=db, since=seen[-1].seq)
    assert [change.id for change in follower.start_one_off()] == ["later"]
    selective = ChangesFollower(client, db=db, filter="_selector", selector={"even": True}, limit=3)
    assert [change.id for change in selective.start_one_off()] == ["0000", "0002", "0004"]
    with pytest.raises(ApiException, match="Database does not exist"):
        list(ChangesFollower(client, db="no-such-db").start_one_off())


@contextmanager
def listening(follower: ChangesFollower, *, release: Callable[[], object]) -> Iterator[list[str]]:
    """The ids of the changes that a follower has seen.

    When it is stopped, the SDK waits for the request that is under way. `release` ends that.
    """
    seen: list[str] = []

    def listen() -> None:
        for change in follower.start():
            if change.id not in seen:  # it may tell of a change more than once
                seen.append(change.id)

    thread = threading.Thread(target=listen)
    thread.start()
    try:
        yield seen
    finally:
        stopping = threading.Thread(target=follower.stop)
        stopping.start()
        release()
        stopping.join()
        thread.join()


def test_a_follower_that_listens(client: CloudantV1, hub: Hub, db: str) -> None:
    fill(client, db, 3)
    follower = ChangesFollower(client, db=db, since="0")
    with (
        connected(hub, ADMIN) as other,
        listening(follower, release=lambda: other.delete_database(db=db)) as seen,
    ):
        when_true(lambda: len(seen) == 3)
        other.post_document(db=db, document={"_id": "later"})
        when_true(lambda: seen == ["0000", "0001", "0002", "later"])


# --- replication -----------------------------------------------------------------------


def test_a_replication_that_is_done_once(client: CloudantV1, hub: Hub, db: str) -> None:
    fill(client, db, 12)
    other = f"{db}-copy"
    replication = ReplicationDocument(
        source=ReplicationDatabase(url=f"{hub.url_for(ADMIN)}/{quote(db, safe='')}"),
        target=ReplicationDatabase(url=f"{hub.url_for(ADMIN)}/{quote(other, safe='')}"),
        create_target=True,
        selector={"even": True},
    )
    id = f"{db}-replication"
    rev = client.put_replication_document(doc_id=id, replication_document=replication).get_result()[
        "rev"
    ]
    assert rev.startswith("1-")

    def state() -> str:
        return str(client.get_scheduler_document(doc_id=id).get_result()["state"])

    when_true(lambda: state() == "completed")
    assert client.head_scheduler_document(doc_id=id).get_status_code() == 200
    rows = client.post_all_docs(db=other).get_result()["rows"]
    assert [row["id"] for row in rows] == [f"{n:04}" for n in range(0, 12, 2)]
    doc = client.get_replication_document(doc_id=id).get_result()
    assert (doc["_replication_state"], doc["_replication_stats"]["docs_written"]) == (
        "completed",
        6,
    )
    assert client.head_replication_document(doc_id=id).get_status_code() == 200
    assert client.delete_replication_document(doc_id=id, rev=doc["_rev"]).get_result()["ok"]


def test_a_replication_that_goes_on(client: CloudantV1, hub: Hub, db: str) -> None:
    other = f"{db}-copy"
    replication = ReplicationDocument(
        source=ReplicationDatabase(url=f"{hub.url_for(ADMIN)}/{quote(db, safe='')}"),
        target=ReplicationDatabase(url=f"{hub.url_for(ADMIN)}/{quote(other, safe='')}"),
        create_target=True,
        continuous=True,
    )
    made = client.post_replicator(replication_document=replication).get_result()

    def running() -> Any:
        docs = client.get_scheduler_docs(states=["running"]).get_result()["docs"]
        return [doc for doc in docs if doc["doc_id"] == made["id"]]

    [entry] = when_true(running)
    assert password_of(ADMIN) not in json.dumps(entry)
    job = client.get_scheduler_job(job_id=entry["id"]).get_result()
    assert (job["doc_id"], job["database"]) == (made["id"], "_replicator")
    assert client.head_scheduler_job(job_id=entry["id"]).get_status_code() == 200
    jobs = client.get_scheduler_jobs(limit=100).get_result()["jobs"]
    assert entry["id"] in [job["id"] for job in jobs]
    fill(client, db, 5)
    when_true(lambda: client.get_database_information(db=other).get_result()["doc_count"] == 5)
    rev = client.get_replication_document(doc_id=made["id"]).get_result()["_rev"]
    client.delete_replication_document(doc_id=made["id"], rev=rev)

    def gone() -> bool:
        jobs = client.get_scheduler_jobs(limit=100).get_result()["jobs"]
        return entry["id"] not in [job["id"] for job in jobs]

    when_true(gone)
