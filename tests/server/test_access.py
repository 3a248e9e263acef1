"""Who may do what."""

from __future__ import annotations

import base64
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent.server.access import Need, needed
from tests.server.accounts import auth, guarded, password_of, quick_hash, secure
from tests.server.api import Api, running

NOT_ADMIN = (401, "unauthorized", "You are not a server admin.")
NOT_IN = (401, "unauthorized", "You are not authorized to access this db.")
NOT_ALLOWED = (403, "forbidden", "You are not allowed to access this db.")
NOT_DB_ADMIN = (403, "forbidden", "You are not a db or server admin.")
WRONG = (401, "unauthorized", "Name or password is incorrect.")


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with guarded(tmp_path) as api:
        yield api


# --- the table -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "need"),
    [
        ("GET", "", Need.NOTHING),
        ("POST", "_session", Need.NOTHING),
        ("GET", "_up", Need.NOTHING),
        ("GET", "_uuids", Need.NOTHING),
        ("GET", "_all_dbs", Need.SERVER_ADMIN),
        ("GET", "_status", Need.USER),
        ("GET", "_metrics", Need.USER),
        ("GET", "_active_tasks", Need.SERVER_ADMIN),
        ("GET", "_scheduler/jobs", Need.SERVER_ADMIN),
        ("GET", "_hooks/alarms/dead", Need.SERVER_ADMIN),
        ("POST", "_hooks/alarms/drop", Need.SERVER_ADMIN),
        ("POST", "_replicate", Need.SERVER_ADMIN),
        ("GET", "_replicator/_changes", Need.SERVER_ADMIN),
        ("GET", "_whatever/comes", Need.SERVER_ADMIN),
        ("PUT", "db", Need.SERVER_ADMIN),
        ("DELETE", "db", Need.SERVER_ADMIN),
        ("GET", "db", Need.MEMBER),
        ("POST", "db", Need.MEMBER),
        ("PUT", "db/doc", Need.MEMBER),
        ("POST", "db/_bulk_docs", Need.MEMBER),
        ("POST", "db/_find", Need.MEMBER),
        ("GET", "db/_index", Need.MEMBER),
        ("POST", "db/_index", Need.DATABASE_ADMIN),
        ("DELETE", "db/_index/_design/a/json/b", Need.DATABASE_ADMIN),
        ("POST", "db/_index/_bulk_delete", Need.DATABASE_ADMIN),
        ("GET", "db/_security", Need.MEMBER),
        ("PUT", "db/_security", Need.DATABASE_ADMIN),
        ("GET", "db/_revs_limit", Need.MEMBER),
        ("PUT", "db/_revs_limit", Need.DATABASE_ADMIN),
        ("POST", "db/_compact", Need.DATABASE_ADMIN),
        ("POST", "db/_compact/view", Need.DATABASE_ADMIN),
        ("POST", "db/_purge", Need.DATABASE_ADMIN),
        ("GET", "db/_design/a", Need.MEMBER),
        ("PUT", "db/_design/a", Need.DATABASE_ADMIN),
        ("PUT", "db/_design/a/attachment", Need.DATABASE_ADMIN),
        ("DELETE", "db/_design/a", Need.DATABASE_ADMIN),
        ("PUT", "db/_local/a", Need.MEMBER),
    ],
)
def test_what_requests_need(method: str, path: str, need: Need) -> None:
    assert needed(method, path.split("/") if path else []) is need


def test_a_design_document_given_as_one_segment_needs_the_same() -> None:
    assert needed("PUT", ["db", "_design/a"]) is Need.DATABASE_ADMIN


# --- everybody in turn -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "body", "refusals"),
    [
        # who is refused how; everybody else succeeds
        ("GET", "/", None, {}),
        ("GET", "/_up", None, {}),
        ("GET", "/_session", None, {}),
        ("GET", "/_all_dbs", None, dict.fromkeys([None, "otto", "mia", "dora"], NOT_ADMIN)),
        ("PUT", "/new", None, dict.fromkeys([None, "otto", "mia", "dora"], NOT_ADMIN)),
        ("DELETE", "/closed", None, dict.fromkeys([None, "otto", "mia", "dora"], NOT_ADMIN)),
        ("GET", "/public", None, {}),
        ("POST", "/public/_bulk_docs", {"docs": [{}]}, {}),
        (
            "GET",
            "/closed",
            None,
            {None: NOT_IN} | dict.fromkeys(["otto", "mia", "dora"], NOT_ALLOWED),
        ),
        ("GET", "/db/_all_docs", None, {None: NOT_IN, "otto": NOT_ALLOWED}),
        ("POST", "/db/_bulk_docs", {"docs": [{}]}, {None: NOT_IN, "otto": NOT_ALLOWED}),
        ("GET", "/db/_security", None, {None: NOT_IN, "otto": NOT_ALLOWED}),
        ("GET", "/db/_changes", None, {None: NOT_IN, "otto": NOT_ALLOWED}),
        (
            "PUT",
            "/db/_security",
            {"admins": {"roles": ["keepers"]}, "members": {"names": ["mia"]}},
            {None: NOT_IN, "otto": NOT_ALLOWED, "mia": NOT_DB_ADMIN},
        ),
        (
            "PUT",
            "/public/_design/x",
            {},
            {
                None: (401, "unauthorized", "You are not a db or server admin."),
                "otto": NOT_DB_ADMIN,
                "mia": NOT_DB_ADMIN,
                "dora": NOT_DB_ADMIN,
            },
        ),
    ],
)
async def test_everybody(
    api: Api, method: str, path: str, body: Any, refusals: dict[str | None, Any]
) -> None:
    for name in (None, "otto", "mia", "dora", "anna"):
        answer = await api.request(method, path, json=body, **auth(name))
        if name in refusals:
            assert answer.error == refusals[name], name
        else:
            assert answer.status in (200, 201), (name, answer.text)


async def test_a_new_database_is_closed_as_in_couchdb_3(api: Api) -> None:
    security = (await api.get("/closed/_security", **auth("anna"))).json
    assert security == {"members": {"roles": ["_admin"]}, "admins": {"roles": ["_admin"]}}


async def test_a_database_that_is_not_there_is_not_found_by_anybody(api: Api) -> None:
    assert (await api.get("/nope")).error == (404, "not_found", "Database does not exist.")


async def test_names_and_roles_in_either_group(api: Api) -> None:
    await secure(api, "db", {"members": {"roles": ["staff"]}, "admins": {"names": ["otto"]}})
    for name, status in ((None, 401), ("dora", 403), ("mia", 200), ("otto", 200)):
        assert (await api.get("/db", **auth(name))).status == status
    for name, status in (("mia", 403), ("otto", 201)):
        assert (await api.put(f"/db/_design/{name}", {}, **auth(name))).status == status


async def test_readers_is_the_old_name_of_members(api: Api) -> None:
    await secure(api, "db", {"readers": {"names": ["otto"]}})
    assert (await api.get("/db")).status == 401
    assert (await api.get("/db", **auth("otto"))).status == 200


async def test_security_is_kept_whole_and_over_a_restart(tmp_path: Path) -> None:
    security = {"members": {"names": ["mia"]}, "x": {"y": [1, None, "ü"]}}
    async with guarded(tmp_path) as api:
        await secure(api, "db", security)
    async with running(tmp_path) as api:
        assert (await api.get("/db/_security")).json == security


@pytest.mark.parametrize(
    "security",
    [
        "[]",
        "3",
        "nonsense",
        '{"members": []}',
        '{"members": {"names": "mia"}}',
        '{"members": {"roles": [1]}}',
        '{"admins": {"names": [null]}}',
        '{"admins": null}',
    ],
)
async def test_a_security_object_that_is_none(api: Api, security: str) -> None:
    before = (await api.get("/db/_security", **auth("dora"))).text
    answer = await api.request("PUT", "/db/_security", data=security, **auth("dora"))
    assert answer.error[:2] == (400, "bad_request")
    assert (await api.get("/db/_security", **auth("dora"))).text == before


# --- design documents in bodies --------------------------------------------------------


async def test_members_do_not_write_design_documents_in_bulk(api: Api) -> None:
    refused = {"id": "_design/x", "error": "forbidden", "reason": NOT_DB_ADMIN[2]}
    docs = [{"_id": "a"}, {"_id": "_design/x"}]
    made = (await api.post("/db/_bulk_docs", {"docs": docs}, **auth("mia"))).json
    assert made[0]["ok"] is True
    assert made[1] == refused
    docs = [{"_id": "b", "_rev": "1-b"}, {"_id": "_design/x", "_rev": "1-x"}]
    body = {"docs": docs, "new_edits": False}
    [result] = (await api.post("/db/_bulk_docs", body, **auth("mia"))).json
    assert result == refused | {"rev": "1-x"}
    rows = (await api.get("/db/_all_docs", **auth("mia"))).json["rows"]
    assert [row["id"] for row in rows] == ["a", "b"]
    assert (await api.post("/db/_bulk_docs", body, **auth("dora"))).json == []


async def test_members_do_not_post_design_documents(api: Api) -> None:
    assert (await api.post("/db", {"_id": "_design/x"}, **auth("mia"))).error == NOT_DB_ADMIN
    assert (await api.post("/db", {"_id": "_design/x"}, **auth("dora"))).status == 201


async def test_members_do_not_copy_to_design_documents(api: Api) -> None:
    await api.put("/db/a", {}, **auth("mia"))
    for name, status in (("mia", 403), ("dora", 201)):
        copy = auth(name, Destination="_design/x")
        assert (await api.request("COPY", "/db/a", **copy)).status == status


# --- logging in with every request -----------------------------------------------------


@pytest.mark.parametrize(
    ("name", "password"),
    [("anna", ""), ("anna", "x"), ("anna", password_of("mia")), ("x", "x"), ("", ""), ("ann", "a")],
)
async def test_a_wrong_password_is_refused_even_where_none_is_needed(
    api: Api, name: str, password: str
) -> None:
    for path in ("/", "/public", "/db", "/_all_dbs", "/nope"):
        assert (await api.get(path, **auth(name, password))).error == WRONG


def basic(text: bytes) -> str:
    return "Basic " + base64.b64encode(text).decode()


@pytest.mark.parametrize(
    "header",
    [
        "",
        "x",
        "Basic",
        "Basic !!!",
        "Basic YQ",  # base64 cut off
        basic(b"no colon"),
        basic(b"\xff\xfe:x"),
        basic(b"_:_"),
        "Bearer eyJhbGciOiJub25lIn0.e30.",
        'Digest username="anna"',
        "AWS4-HMAC-SHA256 Credential=x",
    ],
)
async def test_a_header_that_cannot_be_read_is_none(api: Api, header: str) -> None:
    headers = {"Authorization": header}
    assert (await api.get("/", headers=headers)).status == 200
    assert (await api.get("/public/_all_docs", headers=headers)).status == 200
    assert (await api.get("/db", headers=headers)).error == NOT_IN
    assert (await api.get("/_all_dbs", headers=headers)).error == NOT_ADMIN


async def test_the_scheme_of_a_header_is_read_in_any_case(api: Api) -> None:
    text = base64.b64encode(f"mia:{password_of('mia')}".encode()).decode()
    for scheme in ("basic", "BASIC"):
        assert (await api.get("/db", headers={"Authorization": f"{scheme} {text}"})).status == 200


async def test_browsers_ask_for_a_password_only_where_the_client_says_so(api: Api) -> None:
    assert "WWW-Authenticate" not in (await api.get("/db")).headers
    asked = {"X-CouchDB-WWW-Authenticate": 'Basic realm="x"'}
    assert (await api.get("/db", headers=asked)).headers["WWW-Authenticate"] == 'Basic realm="x"'
    assert "WWW-Authenticate" not in (await api.get("/", headers=asked)).headers


async def test_feeds_are_guarded_too(api: Api) -> None:
    answer = await api.get("/db/_changes?feed=continuous&timeout=10", **auth("otto"))
    assert answer.error == NOT_ALLOWED


async def test_head_says_no_more_than_get(api: Api) -> None:
    assert (await api.request("HEAD", "/db/doc")).status == 401
    assert (await api.request("HEAD", "/db/doc", **auth("mia"))).status == 404


# --- without users ---------------------------------------------------------------------


async def test_without_users_everybody_is_an_administrator(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        assert (await api.put("/db")).status == 201
        assert (await api.put("/db/_design/x", {})).status == 201
        assert (await api.put("/db/_security", {"members": {"names": ["x"]}})).status == 200
        assert (await api.get("/db/_all_docs")).status == 200
        assert (await api.get("/_all_dbs", headers={"Authorization": "Bearer x"})).status == 200
        # Nobody has that password, so nobody is told that it is right.
        assert (await api.get("/db", **auth("anna"))).error == WRONG
        assert (await api.post("/_session", {"name": "a", "password": "b"})).error == WRONG


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LocalHost.:5984", 200),
        ("127.0.0.1:5984", 200),
        ("127.8.9.1", 200),
        ("[::1]:5984", 200),
        ("[::1]", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example:5984", 403),
        ("localhost.evil.example", 403),
        ("192.168.1.4", 403),
        ("[2001:db8::1]:80", 403),
        ("", 403),
        ("[", 403),
    ],
)
async def test_without_users_foreign_names_of_this_machine_are_refused(
    tmp_path: Path, host: str, status: int
) -> None:
    async with running(tmp_path) as api:
        for method in ("GET", "OPTIONS"):
            answer = await api.request(method, "/", headers={"Host": host})
            if status == 403:
                assert answer.error[:2] == (403, "forbidden")
                assert "localhost" in answer.error[2]
            else:
                assert answer.status == (200 if method == "GET" else 405)


async def test_with_users_any_name_will_do(api: Api) -> None:
    assert (await api.get("/", headers={"Host": "gateway.example"})).status == 200


# --- secrets ---------------------------------------------------------------------------


async def test_secrets_are_in_no_log_and_no_answer(
    api: Api, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    secrets = ["hunter2", password_of("anna"), quick_hash(password_of("anna"))]
    answers = [
        await api.get("/db", **auth("anna", "hunter2")),
        await api.get("/db", **auth("hunter", "hunter2")),
        await api.get("/db", **auth("anna")),
        await api.post("/_session", {"name": "anna", "password": "hunter2"}),
        await api.post("/_session", {"name": "anna", "password": ["hunter2"]}),
        await api.request("POST", "/_session", data='{"password":"hunter2",', **JSON),
        await api.post("/_session", {"name": "anna", "password": password_of("anna")}),
        await api.get("/_session", **auth("anna")),
    ]
    seen = caplog.text + "".join(answer.text for answer in answers)
    seen += repr(api.databases) + repr(api.server)
    assert "log-in failed for 'anna' from 127.0.0.1" in caplog.text
    for secret in secrets:
        assert secret not in seen


JSON = {"headers": {"Content-Type": "application/json"}}
