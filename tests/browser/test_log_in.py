"""Who may see what, and what pages elsewhere can do."""

from __future__ import annotations

import threading
from base64 import b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from tests.agents import AgentProcess, table
from tests.browser.conftest import SMALL_PHONE, Opener
from tests.browser.site import Site, request
from tests.browser.test_pages import sideways
from tests.server.accounts import auth, password_of, quick_hash

ROLES = {"anna": ["_admin"], "mia": ["staff"], "rita": ["staff", "_reader"]}
CONTROLS: dict[str, tuple[str, list[tuple[Any, str]]]] = {
    "documents?db=edge&id=doc": (
        '"n": 1',
        [("button", "Edit"), ("button", "Delete"), ("link", "New")],
    ),
    "conflicts?db=edge&id=both": (
        "left",
        [
            ("radio", 'side: "left"'),
            ("button", "Keep version 2"),
            ("button", "Resolve with what is chosen"),
            ("button", "Delete the document"),
        ],
    ),
    "sensors?db=edge&device=shed&sensor=t": (
        "volume",
        [("textbox", "Wanted value of volume"), ("button", "Set")],
    ),
}
"""Pages, what is on them, and how members change it: by role and name."""

TIME = "2026-03-01T00:00:00Z"
SHED = {"_rev": "1-a", "device": "shed"}
DOCS = [
    *({"_id": "both", "_rev": f"1-{side}", "side": side} for side in ("left", "right")),
    {**SHED, "_id": f"shed:t:{TIME}:0", "type": "reading", "sensor": "t", "time": TIME, "value": 1},
    {**SHED, "_id": "device:shed", "type": "device", "reported": {"volume": 7}},
]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a hub with users, and one document in the database `edge`."""
    folder = tmp_path_factory.mktemp("guarded")
    users = [
        table("user", name=name, password_hash=quick_hash(password_of(name)), roles=roles)
        for name, roles in ROLES.items()
    ]
    config = folder / "hub.toml"
    config.write_text("\n".join(['[server]\nlisten = "127.0.0.1:0"\n', *users]))
    options = ("hub", "--data", folder / "data", "--config", config)
    with AgentProcess(*options, log=folder / "log") as hub:
        url = hub.wait_until_ready()
        as_anna = auth("anna")["headers"]
        request("PUT", f"{url}/edge", **as_anna)
        request("PUT", f"{url}/edge/_security", {"members": {"roles": ["staff"]}}, **as_anna)
        request("PUT", f"{url}/edge/doc", {"n": 1}, **as_anna)
        request("POST", f"{url}/edge/_bulk_docs", {"docs": DOCS, "new_edits": False}, **as_anna)
        yield url


def log_in(page: Page, name: str, password: str | None = None) -> None:
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password_of(name) if password is None else password)
    page.get_by_role("button", name="Log in").click()


def test_nobody_sees_anything_without_a_log_in(guarded: str, opener: Opener) -> None:
    page = opener(guarded, "#/documents?db=edge&id=doc", expected=["401"])
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    expect(page.get_by_role("navigation")).to_have_count(0)
    log_in(page, "anna", "wrong")
    expect(page.get_by_role("alert")).to_have_text("The name or the password is wrong.")
    log_in(page, "anna")
    expect(page.locator("pre.json")).to_contain_text('"n": 1')  # where one wanted to go
    [cookie] = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    page.get_by_role("button", name="Log out").click()
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()
    assert [cookie["value"] for cookie in page.context.cookies()] == [""]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_and_those_who_cannot_see_get_in(
    guarded: str, opener: Opener, axe: str, scheme: str
) -> None:
    options = {"color_scheme": scheme, "bypass_csp": True, "viewport": SMALL_PHONE}
    page = opener(guarded, "#/documents?db=edge&id=doc", expected=["401"], **options)
    expect(page.get_by_label("Name")).to_be_focused()
    page.keyboard.type("mia")
    page.keyboard.press("Tab")
    page.keyboard.type("wrong")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_be_visible()
    assert sideways(page) == []
    page.evaluate(axe)
    assert page.evaluate("axe.run(document)")["violations"] == []
    page.get_by_label("Password").fill(password_of("mia"))
    page.keyboard.press("Enter")
    expect(page.locator("pre.json")).to_be_visible()
    for width in (1250, 1090, 870, 850):
        page.set_viewport_size({"width": width, "height": 640})
        assert sideways(page) == []
    page.set_viewport_size(SMALL_PHONE)
    assert sideways(page) == []
    out, bar = (
        page.get_by_role("button", name="Log out").bounding_box(),
        page.get_by_role("banner").bounding_box(),
    )
    assert out is not None
    assert bar is not None
    assert out["height"] < bar["height"]
    assert bar["y"] <= out["y"]


def test_a_session_that_has_ended_asks_again(guarded: str, opener: Opener) -> None:
    page = opener(guarded, expected=["401"])
    log_in(page, "anna")
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    page.context.clear_cookies()
    expect(page.get_by_role("heading", name="Log in")).to_be_visible()


def controls_of(page: Page) -> Iterator[tuple[str, list[Locator]]]:
    """Of each page with something to change, as it is opened: what changes it, and is there."""
    for where, (text, names) in CONTROLS.items():
        page.evaluate("(where) => { location.hash = where; }", f"#/{where}")
        main = page.locator("main")
        expect(main).to_contain_text(text)
        found = [main.get_by_role(role, name=name, exact=True) for role, name in names]
        yield where, [each for each in found if each.count()]


def test_a_member_edits(guarded: str, opener: Opener) -> None:
    page = opener(guarded, expected=["401"])
    log_in(page, "mia")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    for where, controls in controls_of(page):
        assert len(controls) == len(CONTROLS[where][1]), where


def test_a_reader_reads_and_changes_nothing(guarded: str, opener: Opener) -> None:
    page = opener(guarded, expected=["401", "403"])
    log_in(page, "rita")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    for where, controls in controls_of(page):
        assert controls == [], where
    status = page.evaluate(
        """async () => (await fetch("/edge/planted", {
            method: "PUT", body: "{}", headers: {"Content-Type": "application/json"},
        })).status"""
    )
    assert status == 403


# --- pages elsewhere -------------------------------------------------------------------


@contextmanager
def page_elsewhere(html: str) -> Iterator[str]:
    """The URL of another site's page."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(html.encode())

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://localhost:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()


def test_a_form_of_another_site_writes_nothing(browser: Browser, site: Site) -> None:
    """Nobody needs to log in to the gateway, so there is no cookie to hold back."""
    html = f"""<form action="{site.url}/edge/_bulk_docs" method="post" enctype="text/plain">
        <input name='{{"docs": [{{"_id": "planted"}}], "x": "' value='"}}'></form>
        <script>document.forms[0].submit()</script>"""
    with page_elsewhere(html) as url:
        page = browser.new_page()
        page.goto(url)
        page.wait_for_url(f"{site.url}/**")
        assert "A page of another site" in page.locator("body").inner_text()
        page.close()
    found = request("POST", f"{site.url}/edge/_all_docs", {"keys": ["planted"]})
    assert found["rows"][0] == {"key": "planted", "error": "not_found"}


def test_no_other_site_can_put_the_page_into_a_frame(browser: Browser, site: Site) -> None:
    with page_elsewhere(f'<iframe src="{site.url}/_utils/"></iframe>') as url:
        page = browser.new_page()
        messages: list[str] = []
        page.on("console", lambda said: messages.append(said.text))
        page.goto(url)
        page.wait_for_load_state("networkidle")
        assert any("frame-ancestors" in text for text in messages)
        page.close()


def test_an_attached_page_does_not_run(site: Site, opener: Opener) -> None:
    """Somebody attached a page that would act in the name of whoever looks at it."""
    script = "<script>document.title = 'ran'</script><title>quiet</title>"
    stub = {"content_type": "text/html", "data": b64encode(script.encode()).decode()}
    site.put("with page", _attachments={"page.html": stub})
    page = opener(site.url, expected=["sandboxed"])
    page.goto(f"{site.url}/edge/with%20page/page.html")
    assert page.title() == "quiet"
