"""What a web page elsewhere makes a browser send changes nothing here."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent.server.cors import Cors
from tests.server.accounts import auth, guarded, password_of
from tests.server.api import Api

APP = "https://app.example.org"
OTHER = "https://evil.example"
REFUSED = "A page of another site may not change anything here"
FORM = '{"docs": [{"_id": "planted"}], "x": "="}'


def by_form(**headers: str) -> dict[str, Any]:
    """A request as a form with `enctype=text/plain` sends it: no browser asks before."""
    return {"data": FORM.encode(), "headers": {"Content-Type": "text/plain", **headers}}


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": OTHER},
        {"Origin": "null"},
        {"Origin": OTHER, "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Origin": "http://127.0.0.1:1", "Sec-Fetch-Site": "same-site"},
    ],
)
async def test_a_form_elsewhere_writes_nothing_where_nobody_logs_in(
    api: Api, headers: dict[str, str]
) -> None:
    for path in (
        *("/db/_bulk_docs", "/db", "/db/_purge", "/db/_compact", "/db/_resolve"),
        *("/_replicate", "/_session", "/_hooks/mail/retry", "/_hooks/mail/drop"),
    ):
        answer = await api.request("POST", path, **by_form(**headers))
        assert answer.status == 403, path
        assert answer.json["reason"].startswith(REFUSED)
    for method in ("PUT", "DELETE", "COPY"):
        assert (await api.request(method, "/db/doc", headers=headers)).status == 403
    assert (await api.get("/db")).json["doc_count"] == 0


async def test_a_cookie_does_not_help(tmp_path: Path) -> None:
    async with guarded(tmp_path) as api:
        login = {"name": "anna", "password": password_of("anna")}
        cookie = (await api.post("/_session", login)).headers["Set-Cookie"].partition(";")[0]
        answer = await api.request("POST", "/db/_bulk_docs", **by_form(Origin=OTHER, Cookie=cookie))
        assert answer.status == 403
        own = {"Origin": api.url, "Cookie": cookie}
        assert (await api.put("/db/mine", {}, headers=own)).status == 201


async def test_own_pages_write(api: Api) -> None:
    headers = [
        {"Origin": api.url},
        {"Origin": api.url, "Sec-Fetch-Site": "same-origin"},
        # A proxy may have changed the Host header.
        {"Origin": "https://proxy.example", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
        {},
    ]
    for number, given in enumerate(headers):
        assert (await api.put(f"/db/{number}", {}, headers=given)).status == 201


async def test_pages_elsewhere_may_look(api: Api) -> None:
    # Their browser shows them nothing of it: see test_cors.py.
    assert (await api.get("/db", headers={"Origin": OTHER})).status == 200


@pytest.fixture
async def trusting(tmp_path: Path) -> AsyncIterator[Api]:
    async with guarded(tmp_path, cors=Cors([APP])) as api:
        yield api


async def test_pages_that_the_configuration_names_write(trusting: Api) -> None:
    named = auth("anna", Origin=APP, **{"Sec-Fetch-Site": "cross-site"})
    assert (await trusting.put("/db/doc", {}, **named)).status == 201
    other = auth("anna", Origin=OTHER, **{"Sec-Fetch-Site": "cross-site"})
    assert (await trusting.put("/db/other", {}, **other)).status == 403
    assert (await trusting.put("/db/other", {}, **auth("anna", Origin=OTHER))).status == 403
