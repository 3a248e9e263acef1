"""One part that fails is started again, counted and shown; the rest does not notice."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from agent.config import (
    AgentConfig,
    Config,
    DeviceConfig,
    RemoteConfig,
    ServerConfig,
    UserConfig,
)
from agent.device import Device
from agent.errors import PermanentError, StoreHeldError, StoreWriteError
from agent.replication.replicator import Replicator
from agent.runtime import Agent
from agent.sensors.link import SerialLink
from agent.sensors.recorder import Recorder
from agent.server.passwords import hash_password
from agent.store.store import Store
from agent.supervisor import Supervisor
from tests.devices.micropython import SensorNode
from tests.patience import PATIENCE, until


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Restarts come after a few milliseconds, not after a second."""
    monkeypatch.setattr("agent.supervisor._RESTART_BASE", 0.005)
    monkeypatch.setattr("agent.supervisor._RESTART_CAP", 0.01)


# --- the supervisor --------------------------------------------------------------------


@pytest.fixture
async def supervisor() -> AsyncIterator[Supervisor]:
    supervisor = Supervisor()
    yield supervisor
    await supervisor.stop()


async def test_a_task_that_fails_is_started_again_and_counted(
    supervisor: Supervisor, caplog: pytest.LogCaptureFixture
) -> None:
    starts = 0
    goes_well = asyncio.Event()

    async def task() -> None:
        nonlocal starts
        starts += 1
        if starts <= 3:
            raise RuntimeError(f"start {starts}")
        goes_well.set()
        await asyncio.Event().wait()

    supervisor.start("task", task)
    assert supervisor.restarts == {}
    async with asyncio.timeout(PATIENCE):
        await goes_well.wait()
    assert starts == 4
    assert supervisor.restarts == {"task": 3}
    logged = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert [record.getMessage() for record in logged] == [
        "task task failed and is started again"
    ] * 3
    assert "start 3" in caplog.text  # with its traceback: it is a bug


async def test_one_that_fails_for_ever_leaves_the_others_alone(supervisor: Supervisor) -> None:
    steps = 0

    async def bad() -> None:
        raise RuntimeError("bad")

    async def good() -> None:
        nonlocal steps
        while True:
            steps += 1
            await asyncio.sleep(0)

    async def went_on() -> bool:
        return supervisor.restarts.get("bad", 0) >= 5 and steps > 5

    supervisor.start("bad", bad)
    supervisor.start("good", good)
    await until(went_on)
    assert "good" not in supervisor.restarts


async def test_a_task_that_is_done_is_left_at_that(supervisor: Supervisor) -> None:
    starts = 0

    async def task() -> None:
        nonlocal starts
        starts += 1

    supervisor.start("task", task)
    await asyncio.sleep(0.05)
    assert (starts, supervisor.restarts) == (1, {})


async def test_stopping_waits_for_what_tasks_do_last(supervisor: Supervisor) -> None:
    done = []

    async def task() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            done.append("tidied up")

    supervisor.start("task", task)
    await asyncio.sleep(0)
    await supervisor.stop()
    assert done == ["tidied up"]


async def test_a_waiting_restart_can_be_stopped(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.supervisor._RESTART_BASE", 1000.0)
    monkeypatch.setattr("agent.supervisor._RESTART_CAP", 1000.0)

    async def bad() -> None:
        raise RuntimeError("bad")

    async def failed() -> bool:
        return supervisor.restarts.get("bad") == 1

    supervisor.start("bad", bad)
    await until(failed)
    async with asyncio.timeout(PATIENCE):
        await supervisor.stop()


# --- the agent -------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def running(agent: Agent) -> AsyncIterator[Agent]:
    stop, ready = asyncio.Event(), asyncio.Event()
    task = asyncio.create_task(agent.run(stop, lambda _: ready.set()))
    try:
        waiting = asyncio.create_task(ready.wait())
        await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        yield agent
    finally:
        stop.set()
        await task


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[str]:
    anna = UserConfig("anna", await asyncio.to_thread(hash_password, "secret"), ["_admin"])
    server = ServerConfig(listen="127.0.0.1:0")
    async with running(Agent(tmp_path / "hub", server, [anna])) as agent:
        assert agent.server is not None
        yield agent.server.url


@pytest.fixture
async def site(tmp_path: Path, hub: str) -> AsyncIterator[tuple[Config, SensorNode]]:
    """The configuration of a gateway with two devices and two remotes; one device is there."""
    with SensorNode(tmp_path / "device", tmp_path / "sent.txt", interval_ms=20) as node:
        (tmp_path / "password").write_text("secret\n")
        login: Any = {"user": "anna", "password_file": str(tmp_path / "password")}
        remotes = [
            RemoteConfig(name=name, url=f"{hub}/{name}", create=True, retry_cap=0.1, **login)
            for name in ("first", "second")
        ]
        devices = [
            DeviceConfig(name="node", port=str(node.port), adapter="cbor-frames"),
            DeviceConfig(name="other", port=str(tmp_path / "other"), adapter="cbor-frames"),
        ]
        agent = AgentConfig(data=str(tmp_path / "gateway"), name="test")
        server = ServerConfig(listen="127.0.0.1:0")
        yield Config(agent=agent, server=server, device=devices, remote=remotes), node


async def everything_else_works(agent: Agent, failing: str) -> dict[str, Any]:
    """Waits until `failing` has failed three times and the rest does its work; the status."""
    found: dict[str, Any] = {}

    async def works() -> bool:
        found.update(await agent.status())
        jobs = [
            remote[direction]
            for remote in found["remotes"]
            for direction in ("push", "pull")
            if f"replication {remote['name']} {direction}" != failing
        ]
        return bool(
            found["restarts"].get(failing, 0) >= 3
            and found["database"]["doc_count"] >= 9
            and all(job["state"] in ("live", "catching up") for job in jobs)
            and found["remotes"][0]["push"]["docs_written"] >= 9
        )

    await until(works)
    assert found["restarts"].keys() == {failing}
    return found


async def test_a_link_that_fails(
    site: tuple[Config, SensorNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, node = site
    run = SerialLink.run

    async def failing(link: SerialLink, *callbacks: Any) -> None:
        if link.path != str(node.port):
            raise RuntimeError("a bug in the link")
        await run(link, *callbacks)

    monkeypatch.setattr(SerialLink, "run", failing)
    async with running(Agent.from_config(config)) as agent:
        status = await everything_else_works(agent, "device other")
    assert status["devices"][0]["state"] == "open"


async def test_a_recorder_that_fails(
    site: tuple[Config, SensorNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Recorder.run

    async def failing(recorder: Recorder) -> None:
        if recorder.device == "other":
            raise RuntimeError("a bug in the recorder")
        await run(recorder)

    monkeypatch.setattr(Recorder, "run", failing)
    async with running(Agent.from_config(site[0])) as agent:
        await everything_else_works(agent, "recorder other")


async def test_a_recorder_that_hangs_gives_no_sign_of_life(
    site: tuple[Config, SensorNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Recorder._write
    free = asyncio.Event()

    async def hanging(recorder: Recorder, *plan: Any) -> None:
        await free.wait()
        await write(recorder, *plan)

    monkeypatch.setattr(Recorder, "_write", hanging)
    async with running(Agent.from_config(site[0])) as agent:
        [recorder, _] = [device.recorder for device in agent._devices]
        await until(lambda: asyncio.sleep(0, recorder.waiting > 0))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(agent.check(), 2.0)
        free.set()
        await asyncio.wait_for(agent.check(), PATIENCE)


async def test_a_replication_that_fails(
    site: tuple[Config, SensorNode], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Replicator.run
    fails = True

    async def failing(replicator: Replicator, *callbacks: Callable[[], None]) -> None:
        if fails and replicator.target.label.endswith("/second"):
            raise RuntimeError("a bug in the replicator")
        await run(replicator, *callbacks)

    monkeypatch.setattr(Replicator, "run", failing)
    async with running(Agent.from_config(site[0])) as agent:
        status = await everything_else_works(agent, "replication second push")
        push = status["remotes"][1]["push"]
        assert push["state"] == "failed"
        assert "RuntimeError" in push["last_error"]
        fails = False

        async def is_back() -> bool:
            push = (await agent.status())["remotes"][1]["push"]
            return push["state"] in ("live", "catching up") and push["docs_written"] >= 9

        await until(is_back)


async def test_the_first_start_needs_no_second_try(
    site: tuple[Config, SensorNode], caplog: pytest.LogCaptureFixture
) -> None:
    """The databases at the other side are missing: each direction makes what it needs."""
    config, _ = site
    for remote in config.remote:
        remote.retry_cap = 60.0
    async with running(Agent.from_config(config)) as agent:

        async def live() -> bool:
            remotes = (await agent.status())["remotes"]
            jobs = [remote[direction] for remote in remotes for direction in ("push", "pull")]
            return all(job["state"] in ("live", "catching up") for job in jobs)

        await until(live)
    assert not [record for record in caplog.records if "replication" in record.name]


async def test_an_agent_that_cannot_start_leaves_nothing_open(
    site: tuple[Config, SensorNode], hub: str
) -> None:
    """The port is taken; with the port free it starts, with the same store."""
    config, _ = site
    config.server.listen = hub.removeprefix("http://")
    with pytest.raises(PermanentError, match="in use by another program"):
        await Agent.from_config(config).run(asyncio.Event(), lambda _: None)
    config.server.listen = "127.0.0.1:0"
    async with running(Agent.from_config(config)) as agent:
        assert (await agent.status())["name"] == "test"


async def test_the_database_of_the_agent_cannot_be_deleted_under_it(tmp_path: Path) -> None:
    config = Config(
        agent=AgentConfig(data=str(tmp_path / "data"), name="test"),
        server=ServerConfig(listen="127.0.0.1:0"),
    )
    agent = Agent.from_config(config)
    stop = asyncio.Event()
    ready = asyncio.Event()
    running = asyncio.create_task(agent.run(stop, lambda _: ready.set()))
    async with asyncio.timeout(PATIENCE):
        await ready.wait()
    with pytest.raises(StoreHeldError, match="stop it"):
        await agent.databases.delete("edge")
    assert "edge" in await agent.databases.names()
    stop.set()
    await running


async def test_readings_that_cannot_be_stored_at_the_end_are_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.device._LAST_WRITE", 0.05)
    store = await Store.open(tmp_path / "edge.sqlite")
    config = DeviceConfig(name="dev", port="/dev/null", adapter="json-lines")
    device = Device(config, store, AgentConfig(data=str(tmp_path)))
    await device.recorder.feed(b'{"sensor":"t","value":1}\n')  # and nobody runs the recorder
    with pytest.raises(StoreWriteError, match="1 readings are lost"):
        await device.store_the_rest()
    await store.close()
