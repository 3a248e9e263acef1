"""Each page shows what is there, on a desk and on a phone, with the keyboard and without seeing."""

from __future__ import annotations

import asyncio
import re
import socket
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Page, expect

from tests.agents import gateway, gateway_config, table
from tests.browser.conftest import PHONE, Opener
from tests.browser.site import DEVICE, Site, request
from tests.patience import PATIENCE, when_true
from tests.rig.line import Line

A, B, C = "a" * 32, "b" * 32, "c" * 32
PAGES = {
    "overview": "Overview",
    "sensors": "Sensors",
    f"sensors?device={DEVICE}&sensor=temperature": "Sensors",
    "documents": "Documents",
    "documents?id=setpoints": "Documents",
    "conflicts": "Conflicts",
    "conflicts?id=setpoints": "Conflicts",
    "gateways": "Gateways",
}


@pytest.fixture(scope="module", autouse=True)
def conflict(site: Site) -> None:
    site.graft("setpoints", f"1-{A}", day=21, night=16)
    site.graft("setpoints", f"2-{B}", f"1-{A}", day=22, night=16)
    site.graft("setpoints", f"2-{C}", f"1-{A}", day=21, night=15)


def settled(page: Page, title: str) -> None:
    """Wait until a page is there with what it loads."""
    expect(page.get_by_role("heading", level=1)).to_have_text(title)
    expect(page.get_by_text("Loading …")).to_have_count(0)


def sideways(page: Page) -> list[str]:
    """What is wider than its place, so that one has to scroll to see all of it."""
    found: list[str] = page.evaluate(
        """[...document.querySelectorAll("html, .top, .scrolls, .segments")]
            .filter((each) => each.scrollWidth > each.clientWidth)
            .map((each) => `${each.tagName}.${each.className}`)"""
    )
    return found


def test_the_overview_shows_what_is_going_on(site: Site, opener: Opener) -> None:
    page = opener(site.url)
    expect(page).to_have_title("Overview · gateway-1")
    detect = page.locator(".stage", has_text="Detect")
    expect(detect.locator(".figure .number")).to_have_text(re.compile(r"[1-9]"))
    row = page.get_by_role("row", name=re.compile("cloud push"))
    expect(row).to_contain_text("live")
    expect(row).to_contain_text("just now")
    expect(page.get_by_role("row", name=re.compile("cloud pull"))).to_contain_text("live")
    expect(page.get_by_text(re.compile("cloud was verified .*all are the same"))).to_be_visible()
    expect(page.get_by_role("link", name=DEVICE)).to_be_visible()
    expect(page.get_by_role("link", name=re.compile("^Conflicts"))).to_have_text(
        re.compile(r"Conflicts\s*[1-9]")
    )


def test_a_remote_that_is_not_reached_is_said_with_what_to_do(
    site: Site, opener: Opener, tmp_path: Path
) -> None:
    url = f"http://127.0.0.1:9/{'longname' * 8}"
    remote = table("remote", name="gone", url=url, retry_cap=1)
    with gateway(gateway_config(tmp_path / "alone.toml", remote)) as alone:
        page = opener(alone.wait_until_ready())
        row = page.locator(".trouble").first
        expect(row).to_contain_text("cannot be reached")
        expect(row).to_contain_text("check that the server runs")
        page.set_viewport_size(PHONE)
        expect(page.locator(".attention")).to_contain_text("longname")
        assert sideways(page) == []
        page.close()


def test_what_hooks_do_is_shown(opener: Opener, tmp_path: Path) -> None:
    hooks = [
        table("hook", name="mail", command=["/bin/false"], attempts=1),
        table("hook", name="bus", url="http://127.0.0.1:9/", retry_cap=1),
    ]
    with gateway(gateway_config(tmp_path / "hooks.toml", *hooks)) as agent:
        url = agent.wait_until_ready()
        request("PUT", f"{url}/edge/order", {})
        page = opener(url)
        rows = page.get_by_role("region", name="Hooks").get_by_role("row")
        expect(rows.nth(1)).to_have_text(re.compile(r"mail.*live.*0\s*0\s*1\s*Show 1\s*$"))
        expect(rows.nth(2)).to_have_text(re.compile(r"bus.*waiting.*1\s*0\s*[1-9]\d*\s*0$"))
        expect(rows.nth(3)).to_have_text(re.compile("cannot be reached.*(Next try|tried again)"))
        page.set_viewport_size(PHONE)
        assert sideways(page) == []
        page.close()


def test_a_hub_shows_what_comes_in(site: Site, opener: Opener) -> None:
    page = opener(site.hub_url)
    for stage, note in (("Detect", "in all databases"), ("Transfer", "received")):
        shown = page.locator(".stage", has_text=stage)
        expect(shown.locator(".figure .number")).to_have_text(re.compile(r"[1-9]"))
        expect(shown.locator(".note")).to_have_text(re.compile(rf"^[1-9].* in all · {note}$"))
    expect(page.locator(".stage", has_text="Verify and confirm")).to_contain_text("on disk")
    expect(page.locator(".stage", has_text="Process")).to_contain_text("no hook configured")


@pytest.mark.parametrize("time", ["2031-07-01T12:00:00Z", "1970-01-02T00:00:00Z"])
def test_a_browser_whose_clock_is_wrong_tells_times_right(
    site: Site, opener: Opener, time: str
) -> None:
    page = opener(site.url, time=time)
    assert page.evaluate("new Date().getFullYear()") == int(time[:4])
    expect(page.get_by_role("row", name=re.compile("cloud push"))).to_contain_text("just now")
    page.evaluate(f"location.hash = '#/sensors?device={DEVICE}&sensor=temperature'")
    expect(page.locator(".reading")).to_contain_text("just now")
    expect(page.locator(".legend")).to_be_visible()
    expect(page.get_by_text("No readings in this time")).to_have_count(0)


def test_answers_that_take_long_put_no_clock_back(site: Site, opener: Opener) -> None:
    """What is new while the status is on its way is not in the future."""
    page = opener(site.url, f"#/sensors?device={DEVICE}&sensor=temperature")
    reading = page.locator(".reading")
    expect(reading).to_contain_text("just now")
    page.evaluate(
        """() => {
            window.late = 0;
            const { fetch } = window;
            window.fetch = async (path, options) => {
                const answer = await fetch(path, options);
                if (path !== "/_status") return answer;
                await new Promise((resolve) => setTimeout(resolve, 4000));
                window.late += 1;
                return answer;
            };
        }"""
    )
    when_true(lambda: page.evaluate("window.late"))
    for _ in range(10):
        page.wait_for_timeout(100)
        assert "in " not in reading.inner_text()


def test_what_needs_attention_leads_to_where_one_can_act(site: Site, opener: Opener) -> None:
    page = opener(site.url)
    page.get_by_role("listitem").filter(has_text="Conflicts: ").get_by_role("link").click()
    settled(page, "Conflicts")
    expect(page.get_by_role("link", name=re.compile("^setpoints"))).to_be_visible()


def test_a_phone_shows_everything_without_scrolling_aside(site: Site, opener: Opener) -> None:
    page = opener(site.url, viewport=PHONE, is_mobile=True, has_touch=True)
    for where, title in PAGES.items():
        page.evaluate(f"location.hash = '#/{where}'")
        settled(page, title)
        assert sideways(page) == [], where
        for link in page.get_by_role("navigation").get_by_role("link").all():
            box = link.bounding_box()
            assert box is not None
            assert box["y"] + box["height"] <= PHONE["height"]
            assert box["height"] >= 44  # a thumb's width


def barriers(page: Page) -> dict[str, list[str]]:
    """What keeps people out of a page as it is; `axe` was evaluated in it."""
    results = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return {
        violation["id"]: [node["html"] for node in violation["nodes"]]
        for violation in results["violations"]
        if violation["impact"] in ("serious", "critical")
    }


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_keeps_anybody_out(site: Site, opener: Opener, axe: str, scheme: str) -> None:
    # axe itself writes HTML, which the pages' policy does not allow.
    page = opener(site.url, color_scheme=scheme, bypass_csp=True, reduced_motion="reduce")
    page.evaluate(axe)
    for where, title in PAGES.items():
        page.evaluate(f"location.hash = '#/{where}'")
        settled(page, title)
        assert barriers(page) == {}, where


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_opens_keeps_nobody_out(site: Site, opener: Opener, axe: str, scheme: str) -> None:
    """Dialogs, editors, queries, and what says that something is wrong or is not there."""
    page = opener(
        site.url,
        "#/documents?id=setpoints",
        color_scheme=scheme,
        bypass_csp=True,
        reduced_motion="reduce",
        expected=["400", "404"],
    )
    page.evaluate(axe)
    settled(page, "Documents")
    page.get_by_role("button", name="Delete").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert barriers(page) == {}, "deleting"
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Edit").click()
    page.get_by_role("textbox", name=re.compile("JSON")).fill("{")
    page.get_by_role("button", name="Save").click()
    expect(page.get_by_role("alert")).to_be_visible()
    assert barriers(page) == {}, "editing, with a mistake"
    page.evaluate("location.hash = '#/documents?id=nobody'")
    expect(page.get_by_text("There is no such document.")).to_be_visible()
    assert barriers(page) == {}, "a document that is not there"
    page.get_by_role("button", name="Query").click()
    page.get_by_role("button", name="Find").click()
    settled(page, "Documents")
    assert barriers(page) == {}, "a query"
    page.evaluate("location.hash = '#/conflicts?id=nobody'")
    expect(page.get_by_text("This document has no conflict any more")).to_be_visible()
    assert barriers(page) == {}, "no conflict"
    page.evaluate("location.hash = '#/conflicts?id=setpoints'")
    page.get_by_text("The result").click()
    expect(page.get_by_role("textbox", name="The result, as JSON")).to_be_visible()
    assert barriers(page) == {}, "a result"
    page.get_by_role("button", name="Keyboard shortcuts").click()
    expect(page.get_by_role("dialog")).to_be_visible()
    assert barriers(page) == {}, "the keys"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_trouble_keeps_nobody_out(opener: Opener, axe: str, scheme: str, tmp_path: Path) -> None:
    """What needs attention, and what hooks have given up."""
    parts = [
        table("remote", name="gone", url="http://127.0.0.1:9/edge", retry_cap=1),
        table("device", name="silent", port=str(tmp_path / "gone"), adapter="json-lines"),
        table("hook", name="mail", command=["/bin/false"], attempts=1),
        table("hook", name="bus", url="http://127.0.0.1:9/", retry_cap=1),
    ]
    with gateway(gateway_config(tmp_path / "trouble.toml", *parts)) as agent:
        url = agent.wait_until_ready()
        request("PUT", f"{url}/edge/order", {})
        page = opener(url, color_scheme=scheme, bypass_csp=True, reduced_motion="reduce")
        page.evaluate(axe)
        given_up = page.get_by_role("link", name="1 document given up by mail")
        expect(given_up).to_be_visible()
        expect(page.get_by_role("row", name=re.compile("^bus.*waiting"))).to_be_visible()
        assert barriers(page) == {}, "the overview"
        given_up.click()
        expect(page.locator("main").get_by_role("listitem")).to_have_count(1)
        assert barriers(page) == {}, "dead letters"
        page.get_by_role("button", name="Forget all").click()
        expect(page.get_by_role("dialog")).to_be_visible()
        assert barriers(page) == {}, "forgetting"
        page.get_by_role("button", name="Forget them").click()
        expect(page.get_by_role("status")).to_have_text("1 document forgotten.")
        assert barriers(page) == {}, "nothing given up"
        for where in ("sensors", "hooks?name=bus"):
            page.evaluate(f"location.hash = '#/{where}'")
            settled(page, where.partition("?")[0].capitalize())
            assert barriers(page) == {}, f"{where}, where there is nothing"
        page.close()  # which asks the agent every two seconds


def test_the_keyboard_is_enough(site: Site, opener: Opener) -> None:
    page = opener(site.url)
    settled(page, "Overview")
    page.keyboard.press("Tab")
    skip = page.get_by_role("link", name="Skip to the content")
    expect(skip).to_be_focused()
    expect(skip).to_be_in_viewport()
    outline = skip.evaluate("element => getComputedStyle(element).outlineStyle")
    assert outline != "none"
    page.keyboard.press("Enter")
    expect(page.locator("main")).to_be_focused()
    for keys, title in (("gs", "Sensors"), ("gd", "Documents"), ("gc", "Conflicts")):
        page.keyboard.type(keys)
        settled(page, title)
    page.keyboard.type("gd")
    settled(page, "Documents")
    page.keyboard.press("/")
    expect(page.get_by_role("searchbox")).to_be_focused()
    page.keyboard.type("go")  # is typed, and goes nowhere
    settled(page, "Documents")
    page.keyboard.press("Tab")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_colours_follow_the_system_until_somebody_chooses(site: Site, opener: Opener) -> None:
    page = opener(site.url, color_scheme="dark")
    root = page.locator("html")

    def ground(theme: str) -> Any:
        expect(root).to_have_attribute("data-theme", theme)
        return page.evaluate("getComputedStyle(document.body).backgroundColor")

    settled(page, "Overview")
    dark = ground("dark")
    page.emulate_media(color_scheme="light")
    assert ground("light") != dark
    choice = page.get_by_role("button", name=re.compile("^Colours"))
    choice.click()
    ground("light")
    choice.click()
    assert ground("dark") == dark
    page.reload()
    settled(page, "Overview")
    ground("dark")  # it is remembered


def test_what_came_while_there_was_no_connection_is_shown(site: Site, opener: Opener) -> None:
    """Of a device that is another gateway's: nothing comes after the connection is back."""
    time = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    site.put(f"shed:t:{time}:0", type="reading", device="shed", sensor="t", time=time, value=1)
    rev = site.put("device:shed", type="device", device="shed", reported={"volume": 7})
    old = "What is shown here may be old"
    with line_to(site.url) as (line, run):
        url = f"http://127.0.0.1:{line.port}"
        page = opener(url, "#/sensors?device=shed&sensor=t", expected=["net::ERR_"])
        volume = page.get_by_role("row", name=re.compile("^volume"))
        expect(page.get_by_text("live", exact=True)).to_be_visible()
        expect(volume).to_contain_text("7")
        run(line.cut())
        expect(page.get_by_text(old)).to_be_visible()
        expect(page.get_by_text("connecting", exact=True)).to_be_visible()
        now = {"type": "device", "device": "shed", "reported": {"volume": 11}}
        site.put("device:shed", _rev=rev, **now)
        run(line.mend())
        expect(volume).to_contain_text("11")
        expect(page.get_by_text(old)).to_have_count(0)
        page.close()


def test_an_agent_that_is_slow_to_answer_is_asked_less_often(site: Site, opener: Opener) -> None:
    """It is asked again after 5 seconds, but after four times as many as the answer took."""
    slow = """() => {
        window.asked = 0;
        const { fetch } = window;
        window.fetch = async (path, options) => {
            if (!path.includes("/_conflicts")) return fetch(path, options);
            window.asked += 1;
            await new Promise((resolve) => setTimeout(resolve, 10000));
            return fetch(path, options);
        };
    }"""
    page = opener(site.url, time="2026-01-01T00:00:00Z")
    settled(page, "Overview")
    page.evaluate(slow)
    page.evaluate("location.hash = '#/conflicts'")

    def asked() -> Any:
        return page.evaluate("window.asked")

    when_true(lambda: asked() == 1)
    page.clock.fast_forward(10_000)
    expect(page.get_by_role("link", name=re.compile("^setpoints"))).to_be_visible()
    page.clock.fast_forward(20_000)
    page.wait_for_timeout(100)
    assert asked() == 1
    page.clock.fast_forward(60_000)
    when_true(lambda: asked() == 2)


def test_a_connection_that_is_dead_is_not_taken_for_live(site: Site, opener: Opener) -> None:
    """As when a phone goes from one network to another: nothing comes, and nobody is told."""
    time = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    reading = {"type": "reading", "device": "barn", "time": time, "value": 1}
    site.put(f"barn:t:{time}:0", **reading, sensor="t")
    barn = {"type": "device", "device": "barn"}
    rev = site.put("device:barn", **barn, reported={"volume": 7})
    old = "What is shown here may be old"
    with line_to(site.url) as (line, run):

        async def abandon() -> None:
            line.abandon()

        url = f"http://127.0.0.1:{line.port}"
        page = opener(url, "#/sensors?device=barn&sensor=t", time=time, expected=["net::ERR_"])
        volume = page.get_by_role("row", name=re.compile("^volume"))
        expect(page.get_by_text("live", exact=True)).to_be_visible()
        expect(volume).to_contain_text("7")
        with socket.create_server(("127.0.0.1", 0)) as silent:
            to_agent, line.target = line.target, silent.getsockname()[1]
            run(abandon())
            site.put("device:barn", _rev=rev, **barn, reported={"volume": 11})
            site.put(f"barn:new:{time}:0", **reading, sensor="new")
            for step in (2_000, 20_000, 20_000):  # it asks; it waits; if it had yet to ask
                page.clock.fast_forward(step)
                page.wait_for_timeout(100)
            expect(page.get_by_text(old)).to_be_visible()
            page.clock.fast_forward(45_000)
            expect(page.get_by_text("connecting", exact=True)).to_be_visible()
            line.target = to_agent
            page.clock.fast_forward(60_000)
            expect(volume).to_contain_text("11")
            expect(page.get_by_text(old)).to_have_count(0)
            expect(page.get_by_role("link", name=re.compile("^new"))).to_be_visible()
            page.close()


@contextmanager
def line_to(url: str) -> Iterator[tuple[Line, Callable[[Coroutine[Any, Any, None]], None]]]:
    """A line to a server, and what runs its methods: Playwright has a loop of its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def run(work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, loop).result(PATIENCE)

    line = Line(urlsplit(url).port or 0)
    run(line.mend())
    try:
        yield line, run
    finally:
        run(line.cut())
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


def test_a_hub_without_a_broker_says_what_gateways_would_be(site: Site, opener: Opener) -> None:
    page = opener(site.hub_url, "#/gateways")
    expect(page.get_by_text("No gateways are served over MQTT here")).to_be_visible()
