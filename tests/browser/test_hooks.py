"""What hooks have given up is tried again, or forgotten, by who is in charge."""

from __future__ import annotations

import re
from pathlib import Path

from playwright.sync_api import expect

from tests.agents import AgentProcess, gateway, gateway_config, table
from tests.browser.conftest import PHONE, Opener
from tests.browser.site import request
from tests.browser.test_log_in import log_in
from tests.browser.test_pages import sideways
from tests.patience import when_true
from tests.server.accounts import auth, password_of, quick_hash

HOSTILE = "<img src=x onerror=fail()>\u202egnp"


def test_what_was_given_up_is_tried_again_or_forgotten(opener: Opener, tmp_path: Path) -> None:
    """The receiver takes documents once there is a file; `Nein!` is what it says before."""
    works = tmp_path / "works"
    call = ["/bin/sh", "-c", f'test -e "{works}" || {{ echo Nein! >&2; exit 1; }}']
    hooks = [
        table("hook", name="mail", command=call, attempts=1),
        table("hook", name="away", url="http://127.0.0.1:9/"),
    ]
    with gateway(gateway_config(tmp_path / "hooks.toml", *hooks)) as agent:
        url = agent.wait_until_ready()
        docs = [{"_id": id} for id in ("a", "b", "c", HOSTILE)]
        request("POST", f"{url}/edge/_bulk_docs", {"docs": docs})
        page = opener(url)
        page.get_by_role("link", name="4 documents given up by mail").click()
        letters = page.locator("main").get_by_role("listitem")
        expect(letters).to_have_count(4)
        expect(letters.first).to_contain_text(re.compile("^a.*after 1 attempt:.*Nein!"))
        expect(letters.last).to_contain_text("onerror=fail()>\\u202egnp")
        letters.first.get_by_role("button", name="Try again").click()
        expect(page.get_by_role("status")).to_have_text("1 document to be tried again.")
        expect(letters.last).to_contain_text("after 2 attempts")  # it is the latest one now
        works.touch()
        letters.filter(has_text=re.compile("^b")).get_by_role("button", name="Try again").click()
        expect(letters).to_have_count(3)
        letters.filter(has_text=re.compile("^c")).get_by_role("button", name="Forget").click()
        expect(page.get_by_role("status")).to_have_text("1 document forgotten.")
        expect(letters).to_have_count(2)
        page.set_viewport_size(PHONE)
        assert sideways(page) == []
        page.get_by_role("button", name="Forget all").click()
        page.get_by_role("button", name="Keep them").click()
        expect(letters).to_have_count(2)
        page.get_by_role("button", name="Try all again").click()
        expect(page.get_by_text("Nothing is given up")).to_be_visible()
        page.evaluate("location.hash = '#/hooks?name=away'")
        page.get_by_role("button", name="Try now").click()
        expect(page.get_by_role("status")).to_have_text("It is tried now.")
        page.close()  # which asks the agent every two seconds
        assert request("GET", f"{url}/_status")["hooks"][0]["processed"] == 3


def test_only_administrators_get_there(opener: Opener, tmp_path: Path) -> None:
    config = tmp_path / "hub.toml"
    users = [
        table("user", name=name, password_hash=quick_hash(password_of(name)), roles=roles)
        for name, roles in {"anna": ["_admin"], "mia": ["staff"]}.items()
    ]
    hook = table("hook", name="mail", database="edge", command=["/bin/false"], attempts=1)
    config.write_text("\n".join(['[server]\nlisten = "127.0.0.1:0"\n', *users, hook]))
    options = ("hub", "--data", tmp_path / "data", "--config", config)
    with AgentProcess(*options, log=tmp_path / "log") as hub:
        url = hub.wait_until_ready()
        as_anna = auth("anna")["headers"]
        request("PUT", f"{url}/edge", **as_anna)
        request("PUT", f"{url}/edge/order", {}, **as_anna)
        when_true(lambda: request("GET", f"{url}/_status", **as_anna)["hooks"][0]["dead"])
        page = opener(url, "#/hooks?name=mail", expected=["401"])
        log_in(page, "mia")
        expect(page.get_by_text("Only administrators see")).to_be_visible()
        page.get_by_role("link", name="Overview").click()
        expect(page.get_by_role("row", name=re.compile("^mail"))).to_have_text(re.compile("1$"))
        expect(page.get_by_role("link", name=re.compile("given up"))).to_have_count(0)
        page.get_by_role("button", name="Log out").click()
        log_in(page, "anna")
        page.get_by_role("link", name=re.compile("given up")).click()
        page.get_by_role("button", name="Forget all").click()
        page.get_by_role("button", name="Forget them").click()
        expect(page.get_by_role("status")).to_have_text("1 document forgotten.")
        page.close()
        assert request("GET", f"{url}/_hooks/mail/dead", **as_anna)["dead"] == []
