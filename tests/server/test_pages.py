"""The dashboard's files: how they are sent, and how strictly."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from agent.server import pages
from tests.server.accounts import guarded
from tests.server.api import Api

SCRIPT = b"console.log('built')\n"


@pytest.fixture
def built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A build that is known byte by byte."""
    folder = tmp_path / "dist"
    (folder / "assets").mkdir(parents=True)
    (folder / "index.html").write_text("<!doctype html>")
    (folder / "assets" / "app-1.js").write_bytes(SCRIPT)
    (folder / "assets" / "app-1.js.gz").write_bytes(gzip.compress(SCRIPT))
    (tmp_path / "secret").write_text("not part of the build")
    monkeypatch.setattr(pages, "BUILT", folder)
    return folder


async def test_the_page_is_asked_for_again_each_time(server: Api, built: Path) -> None:
    page = await server.get("/_utils/")
    assert (page.status, page.text) == (200, "<!doctype html>")
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert page.headers["Cache-Control"] == "no-cache"
    again = await server.get("/_utils/", headers={"If-None-Match": page.headers["ETag"]})
    assert (again.status, again.text) == (304, "")
    (built / "index.html").write_text("<!doctype html>newer")
    newer = await server.get("/_utils/", headers={"If-None-Match": page.headers["ETag"]})
    assert (newer.status, newer.text) == (200, "<!doctype html>newer")


async def test_a_file_that_never_changes_is_kept_and_sent_packed(server: Api, built: Path) -> None:
    path = "/_utils/assets/app-1.js"
    async with server.open("GET", path, headers={"Accept-Encoding": "gzip"}) as answer:
        assert answer.headers["Content-Encoding"] == "gzip"
        assert await answer.read() == SCRIPT
        assert answer.headers["Content-Type"] == "text/javascript; charset=utf-8"
        assert "immutable" in answer.headers["Cache-Control"]
    plain = await server.get(path, headers={"Accept-Encoding": "identity"})
    assert plain.text.encode() == SCRIPT
    assert "Content-Encoding" not in plain.headers
    assert plain.headers["Vary"] == "Accept-Encoding"


async def test_the_browser_is_told_to_run_nothing_else(server: Api, built: Path) -> None:
    for path in ("/_utils/", "/_utils/assets/app-1.js"):
        headers = (await server.get(path)).headers
        policy = dict(part.split(" ", 1) for part in headers["Content-Security-Policy"].split("; "))
        assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "same-origin"


@pytest.mark.parametrize(
    "name",
    ["../secret", "..%2Fsecret", "%2e%2e/secret", "assets/../../secret", "/etc/passwd", "a%00",
     "assets", "nope.js", ".hidden", "assets%5C..%5C..%5Csecret", "%ff"],
)  # fmt: skip
async def test_nothing_else_is_sent(server: Api, built: Path, name: str) -> None:
    answer = await server.get(f"/_utils/{name}")
    assert answer.status in (400, 404)
    assert "not part" not in answer.text


async def test_the_slash_is_added(server: Api, built: Path) -> None:
    answer = await server.get("/_utils", allow_redirects=False)
    assert (answer.status, answer.headers["Location"]) == (301, "/_utils/")


async def test_nobody_writes_there(server: Api, built: Path) -> None:
    answer = await server.post("/_utils/", {})
    assert answer.error == (405, "method_not_allowed", "Only GET,HEAD allowed")
    assert (await server.request("HEAD", "/_utils/")).text == ""


async def test_the_log_in_page_needs_no_log_in(tmp_path: Path, built: Path) -> None:
    async with guarded(tmp_path / "data") as api:
        assert (await api.get("/_utils/")).status == 200
        assert (await api.get("/_all_dbs")).status == 401


async def test_without_a_build_the_page_says_how_to_make_one(
    server: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pages, "BUILT", tmp_path / "nothing")
    page = await server.get("/_utils/")
    assert page.status == 200
    assert "scripts/dashboard" in page.text
    assert "Content-Security-Policy" in page.headers
