"""A remote is verified by schedule: two agents as they are run, and the verifier alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.config_file import load
from agent.errors import ConfigError, TransientError
from agent.peers.local import LocalPeer
from agent.replication import verifier
from agent.replication.job import Job, State
from agent.replication.lanes import FAR_BEHIND
from agent.replication.replicator import Replicator
from agent.replication.verifier import Verified, Verifier
from agent.store.store import Store
from tests import agents
from tests.agents import AgentProcess, edge_agent
from tests.cli.helpers import request
from tests.mqtt.mosquitto import Mosquitto
from tests.patience import until, when_true
from tests.store.helpers import put, reading

COUNT = 300


# --- two agents ------------------------------------------------------------------------


class Site:
    """A hub with the database `edge`, and a gateway whose remote it is."""

    def __init__(self, folder: Path, hub: AgentProcess, remote: str | None) -> None:
        """`remote` is the hub's database for the gateway; by default over HTTP."""
        self.hub = hub
        self.hub_url = hub.wait_until_ready()
        url = remote or f"{self.hub_url}/edge"
        keys = {"name": "cloud", "url": url, "create": True, "verify_interval": 1, "retry_cap": 1}
        self.config = agents.gateway_config(folder / "gateway.toml", agents.table("remote", **keys))
        self.url = ""

    @property
    def verified(self) -> Any:
        return request("GET", f"{self.url}/_status")["remotes"][0]["verified"]

    @property
    def attention(self) -> list[str]:
        """What is said of the remote."""
        findings = request("GET", f"{self.url}/_status")["attention"]
        return [each["what"] for each in findings if each["what"].startswith("Remote ")]

    def wait_for(self, different: int) -> Any:
        """The result of a verification that found so many of all documents to differ."""

        def found() -> bool:
            last = self.verified
            return bool(
                last["time"] and (last["documents"], last["different"]) == (COUNT, different)
            )

        when_true(found)
        return self.verified


@pytest.fixture(params=["http", "mqtt"])
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with ExitStack() as stack:
        arguments: list[object] = ["hub", "--data", tmp_path / "hub", "--listen", "127.0.0.1:0"]
        remote = None
        if request.param == "mqtt":
            broker = Mosquitto(tmp_path / "broker")
            broker.start_now()
            stack.callback(broker.end_now)
            arguments += ["--broker", broker.url]
            remote = f"{broker.url}/edge"
        hub = stack.enter_context(AgentProcess(*arguments, log=tmp_path / "hub.log"))
        yield Site(tmp_path, hub, remote)


def test_two_agents(site: Site) -> None:
    with agents.gateway(site.config) as gateway:
        site.url = gateway.wait_until_ready()
        docs = [{"_id": f"d{number:03}", "n": number} for number in range(COUNT)]
        request("POST", f"{site.url}/edge/_bulk_docs", {"docs": docs})
        same = site.wait_for(0)
        assert (same["by"], same["ids"], same["error"]) == ("ranges", [], None)
        assert site.attention == []

        # Where a replication does not look again.
        rev = request("GET", f"{site.hub_url}/edge/d007")["_rev"]
        request("POST", f"{site.hub_url}/edge/_purge", {"d007": [rev]})
        assert site.wait_for(1)["ids"] == ["d007"]
        [told] = site.attention
        assert told.startswith("Remote cloud: 1 document differs from those there, as of ")
        shown = edge_agent("status", "--url", site.url)
        assert f"{COUNT} documents compared by ranges, 1 differs" in shown.stdout
        gateway.stop()
    site.hub.stop()

    # What was found outlives the process, and being unable to look again.
    with agents.gateway(site.config) as gateway:
        site.url = gateway.wait_until_ready()
        last = site.verified
        assert (last["different"], last["ids"]) == (1, ["d007"])
        gateway.stop()


@pytest.mark.parametrize("site", ["http"], indirect=True)
def test_a_repair_is_seen(site: Site) -> None:
    with agents.gateway(site.config) as gateway:
        site.url = gateway.wait_until_ready()
        docs = [{"_id": f"d{number:03}", "n": number} for number in range(COUNT)]
        request("POST", f"{site.url}/edge/_bulk_docs", {"docs": docs})
        site.wait_for(0)
        rev = request("GET", f"{site.url}/edge/d000")["_rev"]
        request("POST", f"{site.url}/edge/_purge", {"d000": [rev]})
        site.wait_for(1)
        sides = (f"{site.url}/edge", f"{site.hub_url}/edge")
        assert edge_agent("verify", *sides, "--repair").status == 0
        site.wait_for(0)
        gateway.stop()


# --- the configuration -----------------------------------------------------------------


@pytest.mark.parametrize("key", ["push_selector", "pull_selector", "push_doc_ids"])
def test_not_with_what_makes_sides_differ(tmp_path: Path, key: str) -> None:
    path = tmp_path / "gateway.toml"
    value = '["a"]' if key.endswith("ids") else "{}"
    remote = '[[remote]]\nname = "cloud"\nurl = "http://h/d"\nverify_interval = 60\n'
    path.write_text(f'[agent]\ndata = "d"\n{remote}')
    assert load(path).remote[0].verify_interval == 60
    path.write_text(f'[agent]\ndata = "d"\n{remote}{key} = {value}\n')
    with pytest.raises(ConfigError, match=f"verify_interval is of no use with {key}"):
        load(path)


# --- the verifier ----------------------------------------------------------------------


@pytest.fixture
async def stores(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[Store, Store]]:
    monkeypatch.setattr(verifier, "_SETTLE", 0)
    here = await Store.open(tmp_path / "here.sqlite")
    there = await Store.open(tmp_path / "there.sqlite")
    await here.graft([reading(number) for number in range(COUNT)])
    yield here, there
    await here.close()
    await there.close()


@asynccontextmanager
async def working(check: Verifier) -> AsyncIterator[None]:
    task = asyncio.create_task(check.run())
    try:
        yield
    finally:
        assert not task.done()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.mark.parametrize(("direction", "different"), [("both", 2), ("push", 1), ("pull", 1)])
async def test_only_what_a_direction_is_to_bring_counts(
    stores: tuple[Store, Store], direction: str, different: int
) -> None:
    here, there = stores
    await there.graft([reading(number) for number in range(COUNT)])
    await put(here, "mine", None)
    await put(there, "theirs", None)
    check = Verifier("cloud", 0.1, here, LocalPeer(there), (), direction=direction)
    async with working(check):
        await until(lambda: check.last.time)
    ids = {"both": ("mine", "theirs"), "push": ("mine",), "pull": ("theirs",)}[direction]
    assert (check.last.different, check.last.ids) == (different, ids)


async def test_a_failure_keeps_what_was_found(stores: tuple[Store, Store]) -> None:
    here, there = stores

    class Failing(LocalPeer):
        fails = False

        async def info(self) -> Any:
            if self.fails:
                raise TransientError("out of order")
            return await super().info()

    peer = Failing(there)
    check = Verifier("cloud", 0.1, here, peer, ())
    async with working(check):
        await until(lambda: check.last.time)
        peer.fails = True
        await until(lambda: check.last.error)
        assert (check.last.error, check.last.different) == ("out of order", COUNT)
        assert check.last.time is not None
        peer.fails = False
        await until(lambda: check.last.error is None)


async def test_not_while_replication_is_far_behind(
    stores: tuple[Store, Store], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = asyncio.Event()

    async def look(seconds: float) -> None:
        if seconds == verifier._LOOK:
            looked.set()
        await sleep(min(seconds, 0.02))

    slow_line = asyncio.Event()

    class Slow(LocalPeer):
        async def store(self, *args: Any) -> Any:
            await slow_line.wait()
            return await super().store(*args)

    sleep = asyncio.sleep
    here, there = stores
    await here.graft([reading(number) for number in range(COUNT, COUNT + 2 * FAR_BEHIND)])
    job = Job("push", Replicator(LocalPeer(here), Slow(there), continuous=True), patient=True)
    check = Verifier("cloud", 0.1, here, LocalPeer(there), [job])
    monkeypatch.setattr(verifier.asyncio, "sleep", look)
    async with working(check):
        await looked.wait()  # nothing replicates yet
        looked.clear()
        await looked.wait()
        assert check.last == Verified()
        run = asyncio.create_task(job.run())
        await until(lambda: job.state is State.CATCHING_UP)
        for _ in range(2):
            looked.clear()
            await looked.wait()
        assert check.last == Verified()
        slow_line.set()
        await until(lambda: check.last.time)
        assert check.last.different == 0
        assert check.last.documents == COUNT + 2 * FAR_BEHIND
        run.cancel()
        await asyncio.gather(run, return_exceptions=True)


@pytest.mark.parametrize("body", ['{"time": "soon"}', '{"time": 1e300}', "{}", '{"ids": 5}', "[]"])
async def test_anything_in_the_local_document(stores: tuple[Store, Store], body: str) -> None:
    here, there = stores
    await here.put_local("verified:cloud", None, body)
    check = Verifier("cloud", 0.1, here, LocalPeer(there), ())

    async def kept() -> bool:
        found = await here.get_local("verified:cloud")
        assert found is not None
        return found[1] == msgspec.json.encode(check.last).decode()

    async with working(check):
        await until(lambda: check.last.time)
        assert check.last.time is not None
        assert abs(check.last.time - time.time()) < 60
        await until(kept)


@pytest.mark.parametrize(
    ("passed", "least", "most"),
    [(None, 0, 1000), (0, 1000, 1100), (400, 600, 700), (5000, 0, 100), (-9e9, 1000, 1100)],
)
def test_when_the_first_one_is(passed: float | None, least: float, most: float) -> None:
    check = Verifier("cloud", 1000, None, None, ())  # type: ignore[arg-type]
    waits = []
    for _ in range(50):
        check.last = Verified(None if passed is None else time.time() - passed)
        waits.append(check._first_wait())
    assert least - 1 <= min(waits) < max(waits) <= most
