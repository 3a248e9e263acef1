"""Cross-origin requests, as a browser sends them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.server.access import Access
from agent.server.cors import Cors
from tests.server.accounts import auth, guarded
from tests.server.api import Answer, Api, running

APP = "https://app.example.org"
OTHER = "https://evil.example"


def asked(
    origin: str | None = APP, method: str = "PUT", headers: str | None = None
) -> dict[str, dict[str, str]]:
    """A preflight request's headers."""
    sent = {"Access-Control-Request-Method": method}
    if origin is not None:
        sent["Origin"] = origin
    if headers is not None:
        sent["Access-Control-Request-Headers"] = headers
    return {"headers": sent}


def cors_of(answer: Answer) -> dict[str, str]:
    return {
        name.lower().removeprefix("access-control-"): value
        for name, value in answer.headers.items()
        if name.lower().startswith("access-control-")
    }


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with guarded(tmp_path, cors=Cors([APP, "http://localhost:8080"])) as api:
        yield api


@pytest.mark.parametrize("path", ["/", "/db", "/db/doc", "/db/_bulk_docs", "/nope/_all_docs"])
async def test_a_preflight_needs_no_log_in(api: Api, path: str) -> None:
    # What PouchDB makes a browser ask for.
    wanted = "authorization, content-type, if-match,X-CSRF-Token"
    answer = await api.request("OPTIONS", path, **asked(headers=wanted))
    assert (answer.status, answer.text) == (204, "")
    cors = cors_of(answer)
    assert cors["allow-origin"] == APP
    assert cors["allow-credentials"] == "true"
    assert {"GET", "PUT", "POST", "DELETE", "COPY"} <= set(cors["allow-methods"].split(", "))
    allowed = set(cors["allow-headers"].split(", "))
    assert allowed == {"authorization", "content-type", "if-match", "x-csrf-token"}
    assert cors["max-age"] == "600"
    assert answer.headers["Vary"] == "Origin"


@pytest.mark.parametrize(
    ("origin", "method", "headers"),
    [
        (OTHER, "PUT", None),
        (f"{APP}.evil.example", "PUT", None),
        (f"{APP}:8443", "PUT", None),
        ("http://app.example.org", "PUT", None),
        ("null", "PUT", None),
        (None, "PUT", None),
        (APP, "PATCH", None),
        (APP, "", None),
        (APP, "PUT", "x-unknown"),
    ],
)
async def test_a_preflight_that_is_refused(
    api: Api, origin: str | None, method: str, headers: str | None
) -> None:
    answer = await api.request("OPTIONS", "/", **asked(origin, method, headers))
    assert answer.error[:2] == (405, "method_not_allowed")
    if origin != APP:
        assert cors_of(answer) == {}


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/public", 200),
        ("/public/_changes?feed=continuous&timeout=1", 200),
        ("/public/nope", 404),
        ("/db", 401),
        ("/_all_dbs", 401),
        ("/public/_bulk_docs", 405),
    ],
)
async def test_answers_and_errors_can_be_read(api: Api, path: str, status: int) -> None:
    answer = await api.get(path, **auth(None, Origin=APP))
    assert answer.status == status
    cors = cors_of(answer)
    assert (cors["allow-origin"], cors["allow-credentials"]) == (APP, "true")
    assert {"etag", "content-type"} <= set(cors["expose-headers"].split(", "))
    foreign = await api.get(path, **auth(None, Origin=OTHER))
    assert (foreign.status, cors_of(foreign)) == (status, {})
    assert foreign.headers["Vary"] == "Origin"


async def test_everybody_may_ask_where_the_operator_says_so(tmp_path: Path) -> None:
    async with guarded(tmp_path, cors=Cors(["*"])) as api:
        answer = await api.request("OPTIONS", "/db", **asked(OTHER))
        assert (answer.status, cors_of(answer)["allow-origin"]) == (204, OTHER)
        answer = await api.get("/db", **auth("mia", Origin=OTHER))
        assert (answer.status, cors_of(answer)["allow-origin"]) == (200, OTHER)
        assert cors_of(await api.get("/db", **auth("mia"))) == {}
        login = await api.post("/_session", {"name": "x"}, **auth(None, Origin=OTHER))
        assert "SameSite=Strict" in login.headers["Set-Cookie"]


async def test_it_is_off_by_default(tmp_path: Path) -> None:
    async with running(tmp_path) as api:
        assert (await api.request("OPTIONS", "/", **asked())).status == 405
        answer = await api.get("/", headers={"Origin": APP})
        assert cors_of(answer) == {}
        assert "Vary" not in answer.headers


async def test_a_foreign_host_name_is_refused_before_anything_is_allowed(tmp_path: Path) -> None:
    async with running(tmp_path, access=Access(cors=Cors([APP]))) as api:
        options = asked()
        options["headers"]["Host"] = "evil.example"
        assert (await api.request("OPTIONS", "/", **options)).status == 403
