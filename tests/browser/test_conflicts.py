"""Conflicts are seen side by side, and resolved by whoever looks at them."""

from __future__ import annotations

import re

from playwright.sync_api import expect

from tests.browser.conftest import Opener
from tests.browser.site import Site, request

A, B, C, D = "a" * 32, "b" * 32, "c" * 32, "d" * 32


def make(site: Site, id: str) -> None:
    """Two sides have changed a document: `day` both, `night` and `note` one of them each."""
    site.graft(id, f"1-{A}", zone="north", day=21, night=16)
    site.graft(id, f"2-{B}", f"1-{A}", zone="north", day=22, night=16, note="by Anna")
    site.graft(id, f"2-{C}", f"1-{A}", zone="north", day=23, night=15)


def conflicts_of(site: Site, id: str) -> list[str]:
    revs: list[str] = site.get(id, conflicts="true").get("_conflicts", [])
    return revs


def test_a_conflict_is_resolved_by_field(site: Site, opener: Opener) -> None:
    make(site, "by field")
    page = opener(site.url, "#/conflicts")
    page.get_by_role("link", name=re.compile("by field")).click()
    table = page.get_by_role("table")
    day = table.get_by_role("row", name=re.compile("^day"))
    expect(day).to_contain_text("23")
    expect(day).to_contain_text("22")
    resolve = page.get_by_role("button", name="Resolve with what is chosen")
    expect(day.get_by_role("cell").first).to_have_text("21")  # what it was before
    for chosen in ("night: 15", 'note: "by Anna"'):  # what one side only has changed
        expect(table.get_by_role("radio", name=chosen)).to_be_checked()
    expect(day.get_by_role("radio", checked=True)).to_have_count(0)
    expect(resolve).to_be_disabled()
    day.get_by_role("radio", name="day: 22").check()
    resolve.click()
    expect(page).not_to_have_url(re.compile("id="))  # it goes back to the list once it is written
    doc = site.get("by field")
    assert (doc["day"], doc["night"], doc["note"], doc["zone"]) == (22, 15, "by Anna", "north")
    assert conflicts_of(site, "by field") == []


def test_a_version_is_kept_as_a_whole(site: Site, opener: Opener) -> None:
    make(site, "whole")
    page = opener(site.url, "#/conflicts?id=whole")
    page.get_by_role("button", name="Keep version 2").click()
    expect(page.get_by_role("button", name="Keep version 2")).to_have_count(0)
    doc = site.get("whole")
    assert (doc["day"], doc["night"], doc["note"]) == (22, 16, "by Anna")
    assert conflicts_of(site, "whole") == []


def test_members_that_look_alike_are_chosen_one_by_one(site: Site, opener: Opener) -> None:
    site.graft("alike", f"1-{A}", **{"a.b": 1, "a": {"b": 1}})
    site.graft("alike", f"2-{B}", f"1-{A}", **{"a.b": 22, "a": {"b": 23}})
    site.graft("alike", f"2-{C}", f"1-{A}", **{"a.b": 32, "a": {"b": 33}})
    page = opener(site.url, "#/conflicts?id=alike")
    chosen = [page.get_by_role("radio", name=f"a.b: {value}") for value in (22, 33)]
    for radio in chosen:
        radio.check()
    for radio in chosen:
        expect(radio).to_be_checked()
    page.get_by_role("button", name="Resolve with what is chosen").click()
    expect(page).to_have_url(re.compile("#/conflicts$|#/conflicts.db"))
    doc = site.get("alike")
    assert (doc["a.b"], doc["a"]) == (22, {"b": 33})


def test_of_very_many_versions_one_is_kept_as_a_whole(site: Site, opener: Opener) -> None:
    site.graft("many", f"1-{A}", v=0)
    for number in range(40):
        site.graft("many", f"2-{number:032x}", f"1-{A}", v=number)
    page = opener(site.url, "#/conflicts?id=many")
    expect(page.get_by_text("8 more are not shown")).to_be_visible()
    expect(page.get_by_role("button", name="Resolve with what is chosen")).to_have_count(0)
    page.get_by_role("button", name="Keep version 2", exact=True).click()
    expect(page.get_by_role("button", name="Keep version 2", exact=True)).to_have_count(0)
    assert site.get("many")["v"] == 38
    assert conflicts_of(site, "many") == []


def test_who_is_overtaken_writes_nothing(site: Site, opener: Opener) -> None:
    make(site, "overtaken")
    page = opener(site.url, "#/conflicts?id=overtaken", expected=["409"])
    expect(page.get_by_role("table")).to_be_visible()
    site.graft("overtaken", f"3-{D}", f"2-{C}", f"1-{A}", zone="north", day=30, night=15)
    page.get_by_role("button", name="Keep version 2").click()
    alert = page.get_by_role("alert")
    expect(alert).to_contain_text("nothing was written")
    expect(alert).to_contain_text("day: 23 → 30")
    expect(page.get_by_role("table")).to_contain_text("30")
    assert conflicts_of(site, "overtaken") == [f"2-{B}"]


def test_a_document_is_deleted_with_all_its_versions(site: Site, opener: Opener) -> None:
    make(site, "unwanted")
    page = opener(site.url, "#/conflicts?id=unwanted")
    page.get_by_role("button", name="Delete the document").click()
    page.get_by_role("button", name="Keep it").click()
    assert conflicts_of(site, "unwanted") == [f"2-{B}"]
    page.get_by_role("button", name="Delete the document").click()
    page.get_by_role("button", name="Delete", exact=True).click()
    expect(page).not_to_have_url(re.compile("unwanted"))
    leaves = request("GET", f"{site.url}/edge/unwanted?open_revs=all")
    assert [leaf["ok"].get("_deleted") for leaf in leaves] == [True, True]


def test_conflicts_of_other_databases_are_found(site: Site, opener: Opener) -> None:
    other = f"{site.hub_url}/site%2Fa%2Bb"
    request("PUT", other)
    docs = [{"_id": "x/+%", "_rev": f"1-{each}", "v": each} for each in "ab"]
    request("POST", f"{other}/_bulk_docs", {"docs": docs, "new_edits": False})
    page = opener(site.hub_url, "#/conflicts?db=edge")
    page.get_by_role("link", name="site/a+b").click()
    page.get_by_role("link", name="x/+%").click()
    page.get_by_role("button", name="Keep version 2").click()
    expect(page.get_by_text("No document of this database has a conflict")).to_be_visible()
    assert request("GET", f"{other}/x%2F%2B%25")["v"] == "a"
    request("DELETE", other)


def test_many_conflicts_of_large_documents_are_a_small_list(site: Site, opener: Opener) -> None:
    """Pages of them, that is, without the documents; and only the one that is opened is loaded."""
    db = f"{site.hub_url}/many"
    request("PUT", db)
    text = "x" * 20_000
    versions = [(f"d{number:02}", v) for number in range(51) for v in ("a", "b")]
    docs = [{"_id": id, "_rev": f"1-{v}", "v": v, "text": text} for id, v in versions]
    request("POST", f"{db}/_bulk_docs", {"docs": docs, "new_edits": False})
    page = opener(site.hub_url)
    with page.expect_response(re.compile("/many/_conflicts")) as listed:
        page.evaluate("location.hash = '#/conflicts?db=many'")
    # Not what was resolved lately, which is in a table.
    lines = page.get_by_role("listitem").get_by_role("link", name=re.compile(r"^d\d\d"))
    expect(lines).to_have_count(50)
    expect(lines.first).to_contain_text("2 versions; they differ in v")
    assert len(listed.value.body()) < 20_000
    page.get_by_role("button", name="Next page").click()
    expect(lines).to_have_text([re.compile("^d50")])
    expect(page.get_by_role("button", name="Next page")).to_be_disabled()
    with page.expect_response(re.compile("/many/_conflicts")) as opened:
        lines.click()
    expect(page.get_by_role("radio", name='v: "b"')).to_be_visible()
    assert len(opened.value.body()) < 3 * len(text)
    page.get_by_role("link", name="All conflicts").click()
    expect(lines).to_have_text([re.compile("^d50")])  # where somebody came from
    lines.click()
    page.get_by_role("button", name="Keep version 2").click()
    expect(page.get_by_text("None of them comes after where this page begins")).to_be_visible()
    page.get_by_role("button", name="First page").click()
    expect(lines).to_have_count(50)
    page.close()
    request("DELETE", db)


def test_a_document_without_a_conflict_says_so(site: Site, opener: Opener) -> None:
    site.put("peaceful", n=1)
    page = opener(site.url, "#/conflicts?id=peaceful")
    expect(page.get_by_text("This document has no conflict any more")).to_be_visible()
    assert request("GET", f"{site.url}/edge/peaceful")["n"] == 1
