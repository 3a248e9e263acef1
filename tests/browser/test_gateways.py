"""A hub and a bridge on a broker show the gateways that they hear of."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from paho.mqtt import publish
from playwright.sync_api import expect

from tests.agents import AgentProcess, gateway, gateway_config, table
from tests.browser.conftest import SMALL_PHONE, Opener
from tests.browser.site import request
from tests.browser.test_pages import sideways
from tests.mqtt.mosquitto import Mosquitto
from tests.patience import when_true

ANY = "127.0.0.1:0"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    broker = Mosquitto(tmp_path / "broker")
    broker.start_now()
    yield broker
    broker.end_now()


def test_gateways_come_and_go(broker: Mosquitto, tmp_path: Path, opener: Opener) -> None:
    config = gateway_config(
        tmp_path / "gateway.toml",
        table("remote", name="hub", url=f"{broker.url}/edge", create=True, retry_cap=1),
    )
    options = ("hub", "--data", tmp_path / "hub", "--listen", ANY, "--broker", broker.url)
    with AgentProcess(*options, log=tmp_path / "hub.log") as hub:
        url = hub.wait_until_ready()
        page = opener(url, "#/gateways")
        expect(page.get_by_text("No gateway has been heard of yet")).to_be_visible()
        with gateway(config) as agent:
            agent.wait_until_ready()
            row = page.get_by_role("row", name=re.compile("^gateway-1"))
            expect(row).to_contain_text("online")
            expect(page.get_by_text("1 of 1 online")).to_be_visible()
            page.set_viewport_size(SMALL_PHONE)
            expect(row.get_by_role("cell")).to_have_count(6)
            assert sideways(page) == []
        expect(row).to_contain_text("offline")
        page.close()  # which asks the hub every two seconds


def test_what_strangers_on_the_broker_are_called_is_only_text(
    broker: Mosquitto, tmp_path: Path, opener: Opener
) -> None:
    topic = "edge-sync/<img src=x onerror=fail()>\u202egnp/status"
    offline = '{"status": "offline", "role": "gateway", "version": "\u202e<b>9</b>"}'
    publish.single(topic, offline, retain=True, hostname="127.0.0.1", port=broker.port)
    options = ("hub", "--data", tmp_path / "hub", "--listen", ANY, "--broker", broker.url)
    with AgentProcess(*options, log=tmp_path / "hub.log") as hub:
        page = opener(hub.wait_until_ready())
        told = page.get_by_role("listitem").filter(has_text="is offline since")
        expect(told).to_contain_text(r"<img src=x onerror=fail()>\u202egnp")
        told.get_by_role("link").click()
        expect(page.get_by_role("row").nth(1)).to_contain_text(r"\u202e<b>9</b>")
        assert "\u202e" not in page.locator("body").inner_text()
        assert page.locator("main img, main b").count() == 0
        page.close()


def test_a_bridge_has_an_overview_and_gateways(
    broker: Mosquitto, tmp_path: Path, opener: Opener
) -> None:
    with AgentProcess(
        "hub", "--data", tmp_path / "hub", "--listen", ANY, log=tmp_path / "hub.log"
    ) as hub:
        upstream = f"{hub.wait_until_ready()}/edge"
        request("PUT", upstream)
        options = ("bridge", "--broker", broker.url, "--upstream", upstream, "--listen", ANY)
        with AgentProcess(*options, log=tmp_path / "bridge.log") as bridge:
            url = bridge.wait_until_ready()
            when_true(lambda: request("GET", f"{url}/_status")["mqtt"]["state"] == "connected")
            # It has no users, so nothing to ask who one is.
            page = opener(url, expected=["404"])
            expect(page.get_by_text(upstream)).to_be_visible()
            links = page.get_by_role("navigation").get_by_role("link")
            expect(links).to_have_text(["Overview", "Gateways"])
            links.last.click()
            expect(page.get_by_text("No gateway has been heard of yet")).to_be_visible()
            page.close()
