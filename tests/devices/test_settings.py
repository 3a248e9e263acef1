"""What is desired at a hub reaches real firmware, and what that says comes back: over a gateway
that is killed, a cable that is unplugged, and devices that restart."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import pytest

from agent.documents.revision import Rev
from agent.store.store import Store
from firmware_adapters import CborFrames
from tests.agents import table
from tests.devices.building import avr_firmware, simulated_board
from tests.devices.cable import Board
from tests.devices.micropython import SensorNode
from tests.faults.site import Place, Site, contents, get
from tests.mqtt.site import edit
from tests.patience import until

ID = "device:node"


class Device(Protocol):
    def plug_in(self) -> None: ...
    def unplug(self) -> None: ...
    def reset(self) -> None: ...


@pytest.fixture(scope="module")
def avr(tmp_path_factory: pytest.TempPathFactory) -> list[str | Path]:
    folder = tmp_path_factory.mktemp("avr")
    return [simulated_board(folder), avr_firmware(folder / "build")[0]]


@pytest.fixture
def device(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SensorNode | Board]:
    """By the name of the parameter: an AVR, or MicroPython, which loses its settings at a reset."""
    port, log = tmp_path / "port", tmp_path / "device.log"
    with ExitStack() as stack:
        if request.param == "avr":
            command = request.getfixturevalue("avr")
            yield stack.enter_context(Board(port, log, command))
        else:
            yield stack.enter_context(SensorNode(port, log))


both = pytest.mark.parametrize("device", ["micropython", "avr"], indirect=True)
micropython = pytest.mark.parametrize("device", ["micropython"], indirect=True)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    port = str(tmp_path / "port")
    return Site(tmp_path, table("device", name="node", port=port, adapter="cbor-frames"))


async def document(session: aiohttp.ClientSession, place: Place) -> dict[str, Any]:
    return await get(session, f"{place.url}/edge/{ID}?conflicts=true") or {}


async def desire(session: aiohttp.ClientSession, place: Place, **desired: Any) -> None:
    body = {**await document(session, place), "desired": desired}
    body.pop("_conflicts", None)
    async with session.put(f"{place.url}/edge/{ID}", json=body) as response:
        assert response.status == 201, await response.text()


async def reported(
    session: aiohttp.ClientSession, place: Place, interval_ms: int, wish: int | None = None
) -> dict[str, Any]:
    """Wait until the document at a place says that the device has this interval, and the wish."""
    desired = {} if wish is None else {"interval_ms": wish}
    found: dict[str, Any] = {}

    async def arrived() -> bool:
        found.clear()
        found.update(await document(session, place))
        return (
            found.get("reported") == {"interval_ms": interval_ms}
            and found.get("desired", {}) == desired
        )

    await until(arrived, f"{interval_ms} ms is reported at the {place.name}")
    return found


def frames(readings: list[Any]) -> dict[Any, list[int]]:
    """When the device took readings, in milliseconds since its start, by boot."""
    found: dict[Any, set[int]] = {}
    for body in readings:
        found.setdefault(body["boot"], set()).add(body["uptime_ms"])
    return {boot: sorted(moments) for boot, moments in found.items()}


async def fast_readings(session: aiohttp.ClientSession, place: Place, *, boots: int = 1) -> None:
    """Wait until readings have come in quick succession, of so many boots: ten times as many as
    the device takes by itself."""

    async def arrived() -> bool:
        url = f"{place.url}/edge/_find"
        query = {"selector": {"type": "reading"}, "limit": 5000}
        async with session.post(url, json=query) as response:
            readings = (await response.json())["docs"]
        quick = 0
        for moments in frames(readings).values():
            steps = [after - before for before, after in pairwise(moments)]
            quick += sum(step < 500 for step in steps) >= 10
        return quick >= boots

    await until(arrived, "readings come at the new interval", every=0.2)


@both
async def test_a_wish_at_the_hub_reaches_the_device(site: Site, device: Device) -> None:
    async with site.running() as session:
        await reported(session, site.hub, 1000)
        await desire(session, site.hub, interval_ms=50)
        found = await reported(session, site.hub, 50, 50)
        assert (found["type"], found["device"], found["gateway"]) == ("device", "node", "gateway-1")
        await fast_readings(session, site.hub)
        # One that the device refuses, with its reason.
        await desire(session, site.hub, interval_ms=0, colour="red")

        async def refused() -> Any:
            return (await document(session, site.hub)).get("refused")

        await until(refused, "it is refused")
        found = await document(session, site.hub)
        assert found["reported"] == {"interval_ms": 50}
        refusals = {
            name: (each["value"], each["reason"]) for name, each in found["refused"].items()
        }
        assert refusals == {
            "interval_ms": (0, "10 to 86400000"),
            "colour": ("red", "the device does not have this setting"),
        }
        await desire(session, site.hub, interval_ms=60)
        assert "refused" not in await reported(session, site.hub, 60, 60)
        await site.converge(session)
    for place in site.places:
        assert len(contents(place.file).leaves[ID]) == 1


@both
async def test_a_device_that_restarts_gets_it_again(site: Site, device: Device) -> None:
    async with site.running() as session:
        await reported(session, site.hub, 1000)
        await desire(session, site.hub, interval_ms=50)
        await reported(session, site.hub, 50, 50)
        await fast_readings(session, site.gateway)
        device.reset()
        await fast_readings(session, site.gateway, boots=2)
        await site.converge(session)


@both
async def test_a_wish_while_the_cable_is_unplugged(site: Site, device: Device) -> None:
    async with site.running() as session:
        await reported(session, site.hub, 1000)
        device.unplug()
        await desire(session, site.hub, interval_ms=50)

        async def pending() -> bool:
            status = await get(session, f"{site.gateway.url}/_status")
            return bool(status["devices"][0]["settings"]["pending"] == ["interval_ms"])

        await until(pending, "the gateway knows the wish")
        device.plug_in()
        await reported(session, site.hub, 50, 50)
        await fast_readings(session, site.gateway)


@both
async def test_a_wish_while_the_gateway_is_dead(site: Site, device: Device) -> None:
    async with site.running() as session:
        await reported(session, site.hub, 1000)
        for interval_ms in (50, 60):
            site.gateway.kill()
            await desire(session, site.hub, interval_ms=interval_ms)
            site.gateway.start()
            await reported(session, site.hub, interval_ms, interval_ms)
            # Dead again as soon as it has heard of it, whatever it was doing.
            await desire(session, site.hub, interval_ms=interval_ms + 1)
            await until(
                wish_at(session, site.gateway, interval_ms + 1), "the wish is at the gateway"
            )
            site.gateway.kill()
            site.gateway.start()
            await reported(session, site.hub, interval_ms + 1, interval_ms + 1)
        await site.converge(session)


def wish_at(session: aiohttp.ClientSession, place: Place, interval_ms: int) -> Callable[[], Any]:
    async def arrived() -> bool:
        return (await document(session, place)).get("desired") == {"interval_ms": interval_ms}

    return arrived


@pytest.mark.parametrize("device", ["avr"], indirect=True)
async def test_a_report_and_a_wish_at_the_same_time(site: Site, device: Board) -> None:
    """Both sides edit the same revision; the gateway alone resolves it, and the wish counts."""
    async with site.running() as session:
        await reported(session, site.hub, 1000)
        site.gateway.kill()
        await desire(session, site.hub, interval_ms=50)
        site.hub.kill()
        device.tell(CborFrames().encode({"interval_ms": 333}))
        site.gateway.start()
        await reported(session, site.gateway, 333)
        site.hub.start()
        await reported(session, site.hub, 50, 50)
        await site.converge(session)
    found = contents(site.hub.file)
    assert [leaf.deleted for leaf in found.leaves[ID].values()].count(False) == 1


@micropython
async def test_two_wishes_at_the_same_time(site: Site, device: Device) -> None:
    """One of them is done, and the other one can be seen at both sides."""
    async with site.running() as session:
        found = await reported(session, site.hub, 1000)
        await until(wish_at_both(session, site, found), "it is at both")
        site.gateway.kill()
        await desire(session, site.hub, interval_ms=50)
        store = await Store.open(site.gateway.file)
        before = await store.get(ID)
        assert before is not None
        body = {key: value for key, value in found.items() if not key.startswith("_")}
        rev = await edit(store, ID, Rev.parse(found["_rev"]), **body, desired={"interval_ms": 60})
        assert before.rev == Rev.parse(found["_rev"])
        await store.close()
        site.gateway.start()

        async def settled() -> bool:
            at_hub = await document(session, site.hub)
            wish = at_hub.get("desired", {})
            return bool(at_hub.get("_conflicts")) and at_hub.get("reported") == wish

        await until(settled, "one of them is done")
        await site.converge(session)
    leaves = contents(site.gateway.file).leaves[ID]
    wishes = [leaf.body["desired"]["interval_ms"] for leaf in leaves.values() if not leaf.deleted]
    assert sorted(wishes) == [50, 60]
    assert rev.generation == 2


def wish_at_both(
    session: aiohttp.ClientSession, site: Site, found: Mapping[str, Any]
) -> Callable[[], Any]:
    async def equal() -> bool:
        return (await document(session, site.gateway)).get("_rev") == found["_rev"]

    return equal
