"""Documents are found, edited without overwriting anybody, and never run as anything."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import Opener
from tests.browser.site import Site, request
from tests.patience import PATIENCE

A, B, C, D = "a" * 32, "b" * 32, "c" * 32, "d" * 32
EDITOR = "The document's members, as JSON"

HOSTILE_IDS = (
    '<img src=x onerror="fail()">',
    "<script>fail()</script>",
    "javascript:fail()",
    "constructor",
    "a/b?c#d&e=%2F",
    "'\"><svg onload=fail()>",
    "\u202egpj.exe",
    "x" * 4000,
    "{{7*7}}",
)


def at(id: str) -> str:
    return f"#/documents?{_encoded(id=id)}"


def _encoded(**query: str) -> str:
    from urllib.parse import urlencode

    return urlencode(query)


def edited(page: Page) -> Any:
    return page.get_by_label(EDITOR)


def test_documents_are_found_by_the_beginning_of_their_id(site: Site, opener: Opener) -> None:
    for number in range(60):
        site.put(f"zone:{number:02}", n=number)
    page = opener(site.url, "#/documents")
    page.get_by_role("searchbox").fill("zone:")
    links = page.locator(".ids a")
    expect(links).to_have_count(50)
    expect(links.first).to_have_text("zone:00")
    page.get_by_role("button", name="Next page").click()
    expect(links).to_have_count(10)
    links.last.click()
    expect(page.locator("pre.json")).to_contain_text('"n": 59')


def test_a_mango_query_finds_and_a_mistake_is_explained(site: Site, opener: Opener) -> None:
    for number in range(3):
        site.put(f"pump:{number}", kind="pump", n=number)
    page = opener(site.url, "#/documents", expected=["400"])
    page.get_by_role("button", name="Query").click()
    query = page.get_by_label("Mango query")
    query.fill('{"selector": {"kind": "pump", "n": {"$gt": 0}}}')
    page.get_by_role("button", name="Find").click()
    expect(page.locator(".ids a")).to_have_text(["pump:1", "pump:2"])
    query.fill('{"selector": {"n": {"$nope": 1}}}')
    page.get_by_role("button", name="Find").click()
    expect(page.get_by_role("alert")).to_contain_text("$nope")
    query.fill('{"selector": ')
    page.get_by_role("button", name="Find").click()
    expect(page.get_by_role("alert")).to_contain_text("JSON")


def test_an_edit_keeps_every_digit(site: Site, opener: Opener) -> None:
    url = f"{site.url}/edge/digits"
    text = '{"big": 12345678901234567890, "one": 1.0, "in": {"__proto__": {"x": 1}}, "n": 1}'
    request_text("PUT", url, text)
    page = opener(site.url, at("digits"))
    page.get_by_role("button", name="Edit").click()
    box = edited(page)
    box.fill(box.input_value().replace('"n": 1\n', '"n": 2\n'))
    page.get_by_role("button", name="Save").click()
    expect(page.locator("pre.json")).to_contain_text('"n": 2')
    stored = request_text("GET", url)
    for part in ("12345678901234567890", "1.0", '"__proto__":{"x":1}', '"n":2'):
        assert part in stored


def request_text(method: str, url: str, body: str | None = None) -> str:
    import urllib.request

    data = None if body is None else body.encode()
    headers = {"Content-Type": "application/json"}
    with urllib.request.urlopen(
        urllib.request.Request(url, data, headers, method=method), timeout=PATIENCE
    ) as response:
        return str(response.read().decode())


def test_who_is_overtaken_sees_what_changed_and_loses_nothing(site: Site, opener: Opener) -> None:
    rev = site.put("shared", zone="north", day=21, night=16)
    page = opener(site.url, at("shared"), expected=["409"])
    page.get_by_role("button", name="Edit").click()
    site.put("shared", _rev=rev, zone="north", day=23, night=16, note="theirs")
    edited(page).fill('{"zone": "north", "day": 21, "night": 15}')
    page.get_by_role("button", name="Save").click()
    clash = page.get_by_role("alert")
    expect(clash).to_contain_text("Somebody else has changed this document")
    expect(clash.get_by_role("row", name=re.compile("^day"))).to_contain_text("23")
    expect(clash.get_by_role("row", name=re.compile("^note"))).to_contain_text('"theirs"')
    assert site.get("shared")["night"] == 16
    page.get_by_role("button", name="Put my changes on top of theirs").click()
    page.get_by_role("button", name="Save").click()
    expect(page.locator("pre.json")).to_contain_text('"night": 15')
    doc = site.get("shared")
    assert (doc["day"], doc["night"], doc["note"]) == (23, 15, "theirs")


def test_an_edit_keeps_the_attachments(site: Site, opener: Opener) -> None:
    page_of_text = {"a.txt": {"content_type": "text/plain", "data": "aGk="}}
    site.put("attached", n=1, _attachments=page_of_text)
    page = opener(site.url, at("attached"))
    expect(page.get_by_role("link", name="a.txt")).to_be_visible()
    page.get_by_role("button", name="Edit").click()
    edited(page).fill('{"n": 2}')
    page.get_by_role("button", name="Save").click()
    expect(page.locator("pre.json")).to_contain_text('"n": 2')
    assert list(site.get("attached")["_attachments"]) == ["a.txt"]


def test_a_document_is_made_and_deleted(site: Site, opener: Opener) -> None:
    page = opener(site.url, "#/documents", expected=["404"])
    page.get_by_role("link", name="New").click()
    page.get_by_label("Id", exact=True).fill("made here")
    edited(page).fill('{"made": true}')
    page.get_by_role("button", name="Save").click()
    expect(page.locator("pre.json")).to_contain_text('"made": true')
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("dialog").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("This document is deleted.")).to_be_visible()
    expect(page.locator(".tree .node.deleted")).to_have_count(1)


def test_the_revision_tree_is_drawn(site: Site, opener: Opener) -> None:
    history = [f"{n}-{A}" for n in range(9, 0, -1)]
    site.graft("tree", *history, v=0)
    site.graft("tree", f"10-{B}", *history, v=1)
    site.graft("tree", f"10-{C}", *history, v=2)
    site.graft("tree", f"10-{D}", *history, _deleted=True)
    page = opener(site.url, at("tree"))
    tree = page.locator(".tree")
    expect(tree.locator(".node.winner")).to_have_count(1)
    expect(tree.locator(".node.leaf")).to_have_count(1)
    expect(tree.locator(".node.deleted")).to_have_count(1)
    expect(tree.get_by_text("7 more")).to_be_visible()
    expect(page.get_by_text("2 revisions of this document conflict.")).to_be_visible()
    tree.get_by_role("link", name="10-bbbbbb").click()
    expect(page.locator("pre.json")).to_contain_text('"v": 1')
    expect(page.get_by_role("button", name="Edit")).to_have_count(0)


def test_hostile_documents_are_only_text(site: Site, opener: Opener) -> None:
    values = {
        "html": "<img src=x onerror=fail()><script>fail()</script>",
        "turned": "a\u202eb\u2066c",
        "url": "javascript:fail()",
        "<b>name</b>": {"constructor": {"prototype": 1}, "toString": None},
        "inner": {"__proto__": {"polluted": True}},
    }
    page = opener(site.url)
    for id in HOSTILE_IDS:
        site.put(id, **values)
        page.evaluate("(where) => { location.hash = where; }", at(id))
        body = page.locator("pre.json")
        expect(body).to_contain_text(json.dumps(id)[1:-1] if id.isascii() else "gpj.exe")
        shown = json.loads(body.inner_text())
        assert {key: shown[key] for key in values} == values
        assert "\u202e" not in page.locator("body").inner_text()
        assert page.locator("main img, main script, main b").count() == 0
        assert page.evaluate("({}).polluted") is None
        # It can be edited like any other.
        page.get_by_role("button", name="Edit").click()
        box = edited(page)
        box.fill(box.input_value().replace('"url"', '"link"'))
        page.get_by_role("button", name="Save").click()
        expect(body).to_contain_text('"link"')
        doc = site.get(id)
        assert (doc["link"], doc["inner"]) == (values["url"], values["inner"])
        request("DELETE", f"{site.url}/edge/{_path(id)}?rev={doc['_rev']}")


@pytest.mark.parametrize("id", [".", ".."])
def test_what_a_browser_cannot_ask_for_is_said(site: Site, opener: Opener, id: str) -> None:
    """Instead of showing, or changing, what the path leads to."""
    page = opener(site.url, at(id))
    expect(page.get_by_text("No browser can ask for a document").first).to_be_visible()
    expect(page.locator("pre.json")).to_have_count(0)


def _path(id: str) -> str:
    from urllib.parse import quote

    return quote(id, safe="")


def test_a_huge_document_does_not_stop_the_page(site: Site, opener: Opener) -> None:
    site.put("huge", text="x" * 3_000_000, list=list(range(50_000)))
    page = opener(site.url, at("huge"))
    expect(page.get_by_role("button", name=re.compile("^Show all"))).to_be_visible()
    assert len(page.locator("pre.json").inner_text()) < 300_000


def test_a_script_that_got_into_a_page_does_not_run(site: Site, opener: Opener) -> None:
    page = opener(site.url, expected=["Content Security Policy", "TrustedHTML", "TrustedScript"])
    expect(page.get_by_role("heading", level=1)).to_have_text("Overview")
    ran = page.evaluate(
        """() => new Promise((resolve) => {
            addEventListener("securitypolicyviolation", () => resolve("refused"));
            globalThis.fail = () => resolve("ran");
            try {
                document.body.insertAdjacentHTML("beforeend", "<img src=x onerror=fail()>");
            } catch { resolve("refused"); }
        })"""
    )
    assert ran == "refused"
    far = page.evaluate(
        "fetch('http://127.0.0.1:9/').then(() => 'sent', (error) => error.constructor.name)"
    )
    assert far == "TypeError"
