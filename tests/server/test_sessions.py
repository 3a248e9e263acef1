"""Sessions: logging in, the cookie, logging out."""

from __future__ import annotations

import base64
import gzip
import stat
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http.cookies import SimpleCookie
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import PermanentError, RequestError
from agent.server.sessions import Sessions, server_secret
from tests.server.accounts import auth, guarded, password_of, secure
from tests.server.api import Answer, Api, running

WRONG = (401, "unauthorized", "Name or password is incorrect.")
ANNA = {"name": "anna", "password": password_of("anna")}
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with guarded(tmp_path) as api:
        yield api


def cookie_of(answer: Answer) -> Any:
    return SimpleCookie(answer.headers["Set-Cookie"])["AuthSession"]


def by_cookie(value: str) -> dict[str, Any]:
    return {"headers": {"Cookie": f"AuthSession={value}"}}


async def logged_in(api: Api, name: str = "anna") -> str:
    answer = await api.post("/_session", {"name": name, "password": password_of(name)})
    assert answer.status == 200
    value: str = cookie_of(answer).value
    return value


# --- over HTTP -------------------------------------------------------------------------


async def test_log_in_and_use_the_cookie(api: Api) -> None:
    answer = await api.post("/_session", ANNA)
    assert (answer.status, answer.json) == (200, {"ok": True, "name": "anna", "roles": ["_admin"]})
    morsel = cookie_of(answer)
    assert morsel["path"] == "/"
    assert morsel["max-age"] == "600"
    until_it_expires = parsedate_to_datetime(morsel["expires"]) - datetime.now(UTC)
    assert timedelta(seconds=590) < until_it_expires < timedelta(seconds=601)
    assert morsel["httponly"] is True
    assert morsel["samesite"] == "Strict"
    assert morsel["secure"] == ""  # it would never come back over http
    assert (await api.get("/_all_dbs", **by_cookie(morsel.value))).status == 200
    session = (await api.get("/_session", **by_cookie(morsel.value))).json
    assert session == {
        "ok": True,
        "userCtx": {"name": "anna", "roles": ["_admin"]},
        "info": {"authentication_handlers": ["cookie", "default"], "authenticated": "cookie"},
    }


async def test_log_in_with_a_form(api: Api) -> None:
    for text in (urlencode(ANNA), urlencode({**ANNA, "username": "anna"})):
        answer = await api.request("POST", "/_session", data=text, headers=FORM)
        assert (answer.status, answer.json["name"]) == (200, "anna")


async def test_log_in_with_username_instead_of_name(api: Api) -> None:
    body = {"username": "mia", "password": password_of("mia")}
    answer = await api.post("/_session", body)
    assert answer.json == {"ok": True, "name": "mia", "roles": ["staff"]}


@pytest.mark.parametrize(
    "body",
    [
        {"name": "anna", "password": "x"},
        {"name": "anna", "password": None},
        {"name": "anna"},
        {"name": "nobody", "password": "x"},
        {"name": "", "password": ""},
    ],
)
async def test_a_log_in_that_fails_ends_the_session(api: Api, body: Any) -> None:
    answer = await api.post("/_session", body)
    assert answer.error == WRONG
    assert (cookie_of(answer).value, cookie_of(answer)["max-age"]) == ("", "")


@pytest.mark.parametrize(
    ("body", "headers", "reason"),
    [
        ("{}", {}, "request body must contain a username"),
        ("name=a&password=b", {"Content-Type": "text/plain"}, "must contain a username"),
        ('{"name":"a","username":"b"}', {}, "different usernames"),
        ('{"name":1}', {}, "must be strings"),
        ('{"name":"a","password":[]}', {}, "must be strings"),
        ("[]", {}, "invalid UTF-8 JSON"),
        ("nonsense", {}, "invalid UTF-8 JSON"),
        ('{"name":"\\ud800"}', {}, "invalid UTF-8 JSON"),
    ],
)
async def test_a_log_in_that_cannot_be_read(
    api: Api, body: str, headers: dict[str, str], reason: str
) -> None:
    headers = {"Content-Type": "application/json", **headers}
    answer = await api.request("POST", "/_session", data=body, headers=headers)
    assert answer.error[:2] == (400, "bad_request")
    assert reason in answer.error[2]


async def test_who_is_not_logged_in(api: Api) -> None:
    body = (await api.get("/_session")).json
    assert body["userCtx"] == {"name": None, "roles": []}
    assert "authenticated" not in body["info"]
    assert (await api.get("/_session?basic=true")).error == (401, "unauthorized", "Please login.")
    assert (await api.get("/_session?basic=true", **auth("otto"))).json["info"] == {
        "authentication_handlers": ["cookie", "default"],
        "authenticated": "default",
    }


async def test_without_users_everybody_is_an_administrator(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        body = (await api.get("/_session")).json
        assert body["userCtx"] == {"name": None, "roles": ["_admin"]}
        assert body["info"]["authenticated"] == "default"


async def test_log_out(api: Api) -> None:
    answer = await api.delete("/_session", **by_cookie(await logged_in(api)))
    assert (answer.status, answer.json) == (200, {"ok": True})
    assert (cookie_of(answer).value, cookie_of(answer)["max-age"]) == ("", "")


@pytest.mark.parametrize("path", ["/app", "/db/_design/app/index.html?x=1"])
async def test_a_path_to_go_on_to(api: Api, path: str) -> None:
    options: dict[str, Any] = {"allow_redirects": False}
    query = urlencode({"next": path, "fail": "/failed"})
    right = await api.post(f"/_session?{query}", ANNA, **options)
    wrong = await api.post(f"/_session?{query}", {"name": "anna"}, **options)
    out = await api.delete(f"/_session?{query}", **options)
    assert [answer.status for answer in (right, wrong, out)] == [302, 302, 302]
    assert [answer.headers["Location"] for answer in (right, wrong, out)] == [path, "/failed", path]


@pytest.mark.parametrize("path", ["https://evil.example", "//evil.example", "/\\evil.example", ""])
async def test_a_path_that_leads_elsewhere(api: Api, path: str) -> None:
    answer = await api.post(f"/_session?{urlencode({'next': path})}", ANNA)
    assert answer.error[:2] == (400, "bad_request")
    assert "Set-Cookie" not in answer.headers


@pytest.mark.parametrize("value", ["x", "%", "YTpi", "YTpiOg==x", "::", "4pyT"])
async def test_a_cookie_that_is_none_of_ours(api: Api, value: str) -> None:
    answer = await api.get("/", **by_cookie(value))
    if answer.status == 400:
        assert answer.error[2] == "Malformed AuthSession cookie. Please clear your cookies."
    else:
        session = (await api.get("/_session", **by_cookie(value))).json
        assert session["userCtx"] == {"name": None, "roles": []}


async def test_a_cookie_comes_before_a_password(api: Api) -> None:
    value = await logged_in(api, "mia")
    session = await api.get("/_session", **auth("anna", "wrong", Cookie=f"AuthSession={value}"))
    assert session.json["userCtx"]["name"] == "mia"


async def test_a_session_that_is_used_is_renewed_and_others_end(tmp_path: Path) -> None:
    now = 1_700_000_000.0
    async with guarded(tmp_path, clock=lambda: now) as api:
        value = await logged_in(api)
        now += 50
        assert "Set-Cookie" not in (await api.get("/", **by_cookie(value))).headers
        now += 500
        # Streams carry the new cookie as well.
        feed = "/public/_changes?feed=continuous&timeout=1"
        renewed = cookie_of(await api.get(feed, **by_cookie(value))).value
        now += 60
        assert (await api.get("/_all_dbs", **by_cookie(value))).status == 401
        assert (await api.get("/_all_dbs", **by_cookie(renewed))).status == 200


async def test_a_session_outlives_a_restart(tmp_path: Path) -> None:
    async with guarded(tmp_path) as api:
        value = await logged_in(api, "mia")
        await secure(api, "closed", {"members": {"names": ["mia"]}})
    async with guarded(tmp_path / "other") as api:
        assert (await api.get("/db", **by_cookie(value))).status == 200


# --- the cookie ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [FORM["Content-Type"], "application/json"])
@pytest.mark.parametrize("encoding", ["identity", "gzip"])
async def test_long_bodies_are_refused_before_they_are_looked_at(
    api: Api, kind: str, encoding: str
) -> None:
    """Whoever has no log-in could have the server busy with them otherwise."""
    body = b'{"name":"' + b"a" * 20_000 if kind == "application/json" else b"name=" + b"a&" * 10_000
    if encoding == "gzip":
        body = gzip.compress(body)
        assert len(body) < 1000
    headers = {"Content-Type": kind, "Content-Encoding": encoding}
    answer = await api.request("POST", "/_session", data=body, headers=headers)
    assert answer.error[:2] == (413, "too_large")


async def test_a_form_has_few_fields(api: Api) -> None:
    text = urlencode({**ANNA, **{f"f{number}": "" for number in range(14)}})
    assert (await api.request("POST", "/_session", data=text, headers=FORM)).status == 200
    answer = await api.request("POST", "/_session", data=f"{text}&one=more", headers=FORM)
    assert answer.error == (400, "bad_request", "request body has too many fields")


SECRET = b"0123456789abcdef" * 2
HASHES = {"anna": "hash of anna's", "mia": "hash of mia's", "ü": "x"}


def test_a_cookie_is_that_users() -> None:
    sessions = Sessions(SECRET, HASHES)
    for name in HASHES:
        assert sessions.read(sessions.issue(name)) == (name, False)


def test_a_new_password_and_a_new_secret_end_the_sessions() -> None:
    value = Sessions(SECRET, HASHES).issue("anna")
    assert Sessions(SECRET, HASHES | {"anna": "another"}).read(value) is None
    assert Sessions(b"another", HASHES).read(value) is None
    assert Sessions(SECRET, {"mia": "hash of mia's"}).read(value) is None


@given(st.data())
def test_nobody_makes_a_cookie_out_of_another(data: st.DataObject) -> None:
    sessions = Sessions(SECRET, HASHES)
    good = bytearray(base64.urlsafe_b64decode(sessions.issue("anna") + "=="))
    place = data.draw(st.integers(0, len(good) - 1))
    change = data.draw(st.integers(1, 255))
    good[place] ^= change
    with suppress(RequestError):
        assert sessions.read(base64.urlsafe_b64encode(bytes(good)).decode()) is None


@given(st.text())
def test_any_text_as_a_cookie_is_refused(text: str) -> None:
    with suppress(RequestError):
        assert Sessions(SECRET, HASHES).read(text) is None


# --- the secret ------------------------------------------------------------------------


def test_the_secret_is_made_once_and_nobody_else_reads_it(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    secret = server_secret(folder)
    file = folder / "session.secret"
    assert len(secret) == 32
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert server_secret(folder) == secret
    assert [path.name for path in folder.iterdir()] == ["session.secret"]
    file.chmod(0o644)
    assert server_secret(folder) == secret
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_a_secret_that_is_damaged_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "session.secret").write_bytes(b"short")
    with pytest.raises(PermanentError, match="damaged; delete it"):
        server_secret(tmp_path)


def test_a_secret_that_cannot_be_kept(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file, not a folder")
    with pytest.raises(PermanentError, match="cannot be kept"):
        server_secret(tmp_path / "data")
