"""Readings for others on a real Mosquitto: what mosquitto_sub sees is what docs/mqtt.md says."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
import tracemalloc
import tty
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from agent import __version__
from agent.documents.revision import Revision, first_revision
from agent.peers.mqtt_tls import TlsFiles
from agent.peers.mqtt_topics import READINGS_PREFIX, parse_broker_url
from agent.peers.urls import Credentials
from agent.sensors.packing import Row, Shared, Window
from agent.store.store import Store
from agent.telemetry.options import Options
from agent.telemetry.publisher import Publisher
from tests import agents
from tests.agents import CHECKOUT, edge_agent
from tests.cli.helpers import in_process
from tests.mqtt.mosquitto import Mosquitto
from tests.mqtt.site import edit, opened, until

READY = "ready"
TEMPERATURE = "edge-readings/gateway-1/greenhouse/temperature"
CONFIG = "homeassistant/device/gateway-1/greenhouse/config"


class Listener:
    """`mosquitto_sub`: everything that somebody with nothing of ours sees on a broker."""

    def __init__(self, broker: Mosquitto, file: Path) -> None:
        self._file = file
        self._where = ("-h", "127.0.0.1", "-p", str(broker.port))
        self._process: asyncio.subprocess.Process | None = None

    @property
    def lines(self) -> list[str]:
        """`topic payload`, for each message."""
        return [line for line in self._file.read_text().splitlines() if line != f"{READY} "]

    def on(self, topic: str) -> list[str]:
        """The payloads on a topic."""
        return [line.partition(" ")[2] for line in self.lines if line.split(" ")[0] == topic]

    def values(self, sensor: str = "temperature", device: str = "greenhouse") -> list[Any]:
        """The values of a sensor's readings."""
        topic = f"edge-readings/gateway-1/{device}/{sensor}"
        return [json.loads(payload)["value"] for payload in self.on(topic) if payload]

    async def say(self, topic: str, payload: str) -> None:
        await self._run("mosquitto_pub", "-t", topic, "-m", payload)

    async def __aenter__(self) -> Listener:
        with self._file.open("wb") as file:
            self._process = await asyncio.create_subprocess_exec(
                *("mosquitto_sub", *self._where, "-t", "#", "-F", "%t %p"), stdout=file
            )
        try:
            await until(self._is_heard)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.terminate()
        await self._process.wait()

    async def _is_heard(self) -> bool:
        await self._run("mosquitto_pub", "-t", READY, "-n")
        return f"{READY} " in self._file.read_text().splitlines()

    async def _run(self, program: str, *arguments: str) -> None:
        process = await asyncio.create_subprocess_exec(program, *self._where, *arguments)
        assert await process.wait() == 0


def options(broker: Mosquitto, **more: Any) -> Options:
    url, _ = parse_broker_url(broker.url, READINGS_PREFIX)
    devices = more.pop("devices", ["greenhouse"])
    more = {"gateway": "gateway-1", "credentials": None, "heartbeat": 2.0, **more}
    return Options(broker=url, tls=TlsFiles(), devices=frozenset(devices), **more)


@asynccontextmanager
async def publishing(store: Store, broker: Mosquitto, **more: Any) -> AsyncIterator[Publisher]:
    """A publisher that is connected, if its broker runs."""
    publisher = Publisher("site", store, options(broker, **more))
    task = asyncio.create_task(publisher.run())
    try:
        await until(lambda: publisher.status()["state"] == "connected" or publisher.last_error)
        yield publisher
    finally:
        if not task.done():
            task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def reading(
    value: Any, sensor: Any = "temperature", device: Any = "greenhouse", **more: Any
) -> Revision:
    reading.count += 1  # type: ignore[attr-defined]
    body = {"type": "reading", "device": device, "sensor": sensor, "value": value}
    body |= {"time": "2026-03-01T08:15:30.250000Z", **more}
    return first_revision(f"{reading.count:09d}", body)  # type: ignore[attr-defined]


reading.count = 0  # type: ignore[attr-defined]


def numbers(start: int, stop: int) -> list[Revision]:
    return [reading(number) for number in range(start, stop)]


def documented(language: str, part: str) -> str:
    """The block of docs/mqtt.md in a language that has `part` in it."""
    text = (CHECKOUT / "docs" / "mqtt.md").read_text("utf-8").replace('"0.1.0"', f'"{__version__}"')
    blocks = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    [block] = [block for block in blocks if part in block]
    return str(block)


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[Mosquitto]:
    async with Mosquitto(tmp_path / "broker") as broker:
        yield broker


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with opened(tmp_path / "edge.sqlite") as store:
        yield store


@pytest.fixture
async def seen(broker: Mosquitto, tmp_path: Path) -> AsyncIterator[Listener]:
    async with Listener(broker, tmp_path / "seen") as listener:
        yield listener


async def test_what_is_documented(store: Store, broker: Mosquitto, seen: Listener) -> None:
    async with publishing(store, broker, discovery="homeassistant"):
        await store.graft([reading(21.5, unit="C", sequence=4711, boot=903441, uptime_ms=12)])
        await until(lambda: len(seen.lines) == 3)
    _, *lines = documented("console", "mosquitto_sub").splitlines()
    assert [line for line in seen.lines if line.startswith("edge-readings/")][:2] == lines
    [config] = seen.on(CONFIG)
    assert config == documented("json", "unique_id").strip()
    status = "edge-readings/gateway-1/status"
    await until(lambda: seen.on(status)[1:] == ['{"status":"offline","role":"gateway"}'])


async def test_only_what_is_new(store: Store, broker: Mosquitto, seen: Listener) -> None:
    await store.graft(numbers(0, 5))
    async with publishing(store, broker, retain=False) as publisher:
        await store.graft(numbers(5, 10))
        await until(lambda: seen.values() == [5, 6, 7, 8, 9])
        await until(lambda: publisher.status()["published"] == 5)


async def test_only_readings_of_the_gateways_devices(
    store: Store, broker: Mosquitto, seen: Listener
) -> None:
    async with publishing(store, broker) as publisher:
        await store.graft(
            [
                reading(1, device="of-another-gateway"),
                first_revision("s", {"type": "setpoint", "device": "greenhouse", "value": 1}),
                reading({"not": "a value"}),
                reading([1, 2]),
                reading(None),
                reading(1, sensor=""),
                reading(1, sensor="s" * 65),
                reading(1, sensor=7),
                reading(1, time=None),
                reading(1, unit="u" * 65),
                reading(1 << 70),
            ]
        )
        deleted = await edit(store, "gone", None, type="reading")
        await edit(store, "gone", deleted, deleted=True)
        await store.graft([reading(2)])
        await until(lambda: seen.values() != [])
        assert len(seen.lines) == 2
        assert publisher.last_error is None


async def test_the_latest_reading_of_a_packed_window(
    store: Store, broker: Mosquitto, seen: Listener
) -> None:
    """As the gateway packs them, and what only looks like that."""
    common = Shared("greenhouse", "vibration", "m/s2", None, 7, (), ("boot", 0))
    rows = tuple(Row(1_772_352_930_250_000 + 10_000 * n, 0.5 * n, 2**32 - 2 + n) for n in range(4))
    document = Window("w", common, rows).document()
    body = json.loads(document.body)
    odd: list[dict[str, Any]] = [
        {"columns": {"time": [], "value": []}},
        {"columns": {"time": [0], "value": []}},
        {"columns": {"time": [2**62], "value": [1]}},
        {"columns": {"time": ["x"], "value": [1]}},
        {"columns": None},
        {"time": "yesterday"},
        {"sensor": ""},
    ]
    windows = [first_revision(str(number), body | change) for number, change in enumerate(odd)]
    async with publishing(store, broker) as publisher:
        await store.graft([*windows, document])
        await until(lambda: publisher.published == 1)
        topic = "edge-readings/gateway-1/greenhouse/vibration"
        await until(lambda: seen.on(topic))
        [payload] = seen.on(topic)
        assert json.loads(payload) == {
            "value": 1.5,
            "unit": "m/s2",
            "time": "2026-03-01T08:15:30.280000Z",
            "sequence": 1,
            "clock": "unset",
        }
        assert publisher.last_error is None


async def test_names_that_a_topic_cannot_carry(
    store: Store, broker: Mosquitto, seen: Listener
) -> None:
    """They are one level each, whatever they are; and discovery has a key for each of them."""
    names = {
        "a/b+c": "a%2Fb%2Bc",
        "#": "%23",
        "+": "%2B",
        "$SYS": "%24SYS",
        "\x00\n": "%00%0A",
        "Größe": "Gr%C3%B6%C3%9Fe",
        "{{ 1/0 }}": "%7B%7B%201%2F0%20%7D%7D",
        "req": "req",
        "..": "..",
        "💧" * 64: "%F0%9F%92%A7" * 64,
    }
    async with publishing(store, broker, discovery="homeassistant"):
        await store.graft([reading(number, sensor=name) for number, name in enumerate(names)])
        await until(lambda: len([line for line in seen.lines if '"value"' in line]) == len(names))
    for number, encoded in enumerate(names.values()):
        [payload] = seen.on(f"edge-readings/gateway-1/greenhouse/{encoded}")
        assert json.loads(payload)["value"] == number
    components = json.loads(seen.on(CONFIG)[0])["components"]
    assert sorted(entry["name"] for entry in components.values()) == sorted(names)
    assert all(re.fullmatch(r"[A-Za-z0-9_-]+", key) for key in components)


async def test_home_assistant(store: Store, broker: Mosquitto, seen: Listener) -> None:
    def components() -> dict[str, Any]:
        found: dict[str, Any] = json.loads(seen.on(CONFIG)[-1])["components"]
        return found

    async with publishing(store, broker, discovery="homeassistant"):
        await store.graft(
            [
                reading(21.5, unit="C"),
                reading(40, "air_humidity", unit="%"),
                reading(97, "battery", unit="%"),
                reading(3, "slope", unit="%"),
                reading(12, "total", unit="kWh"),
                reading(1, "plain"),
                reading(1, "odd", unit="furlong"),
            ]
        )
        await until(lambda: seen.values("odd") != [])
        assert len(seen.on(CONFIG)) == 1
        told = {entry["name"]: entry for entry in components().values()}
        assert {
            name: (
                entry.get("device_class"),
                entry.get("unit_of_measurement"),
                entry["state_class"],
            )
            for name, entry in told.items()
        } == {
            "temperature": ("temperature", "°C", "measurement"),
            "air_humidity": ("humidity", "%", "measurement"),
            "battery": ("battery", "%", "measurement"),
            "slope": (None, "%", "measurement"),
            "total": ("energy", "kWh", "total_increasing"),
            "plain": (None, None, "measurement"),
            "odd": (None, "furlong", "measurement"),
        }
        # What comes later is added; what is known already costs nothing.
        await store.graft([reading(True, "door"), reading("ok", "state"), reading(22, unit="C")])
        await until(lambda: seen.values() == [21.5, 22])
        assert len(seen.on(CONFIG)) == 2
        door, state = components()["door"], components()["state"]
        assert (door["platform"], door["payload_on"]) == ("binary_sensor", "True")
        assert (state["platform"], "state_class" in state) == ("sensor", False)
        assert len(components()) == 9
    # The next start knows them, before there is any reading.
    async with publishing(store, broker, discovery="homeassistant"):
        await until(lambda: len(seen.on(CONFIG)) == 3)
        assert len(components()) == 9
        # Home Assistant starts.
        await seen.say("homeassistant/status", "offline")
        await seen.say("homeassistant/status", "online")
        await until(lambda: len(seen.on(CONFIG)) == 4)
        assert seen.on(CONFIG)[3] == seen.on(CONFIG)[2]


async def test_a_device_that_is_taken_out(
    store: Store, broker: Mosquitto, seen: Listener, tmp_path: Path
) -> None:
    devices = ["greenhouse", "cellar"]
    async with publishing(store, broker, discovery="homeassistant", devices=devices):
        await store.graft([reading(1), reading(2, device="cellar")])
        await until(lambda: len(seen.values()) + len(seen.values(device="cellar")) == 2)
    async with publishing(store, broker, discovery="homeassistant"):
        await until(lambda: seen.on("homeassistant/device/gateway-1/cellar/config")[-1] == "")
        await until(lambda: seen.on("edge-readings/gateway-1/cellar/temperature")[-1] == "")
    async with publishing(store, broker):
        await until(lambda: seen.on(CONFIG)[-1] == "")
        await store.graft([reading(3)])
        await until(lambda: seen.values()[-1] == 3)
    # What a newcomer sees is what is retained.
    async with Listener(broker, tmp_path / "newcomer") as newcomer:
        await until(lambda: len(newcomer.lines) == 2)
        assert newcomer.values() == [3]
    assert seen.on(CONFIG).count("") == 1


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize("backlog", [False, True])
async def test_a_broker_that_is_away(
    store: Store, broker: Mosquitto, tmp_path: Path, *, qos: int, backlog: bool
) -> None:
    more = {"qos": qos, "backlog": backlog, "discovery": "homeassistant"}
    async with publishing(store, broker, **more) as publisher:
        async with Listener(broker, tmp_path / "before") as before:
            await store.graft(numbers(0, 10))
            await until(lambda: before.values() == [*range(10)])
        await broker.kill()
        await until(lambda: publisher.last_error)
        # One of each sensor, so that what was published is retained when somebody listens again.
        await store.graft([reading(number, f"s{number}") for number in range(10)])
        status = publisher.status()
        assert (status["state"], status["published"]) == ("waiting", 10)
        await broker.start()
        async with Listener(broker, tmp_path / "after") as after:
            await until(lambda: publisher.status()["state"] == "connected")
            await until(lambda: after.on(CONFIG))  # the broker has forgotten everything
            await store.graft(numbers(10, 20))
            await until(lambda: after.values()[-1:] == [19])
            assert after.values()[-10:] == [*range(10, 20)]
            outage = [value for number in range(10) for value in after.values(f"s{number}")]
            assert outage == ([*range(10)] if backlog else [])
            await until(lambda: publisher.last_error is None)
    if backlog:
        await store.graft(numbers(20, 30))
        async with (
            Listener(broker, tmp_path / "last") as last,
            publishing(store, broker, **more),
        ):
            await until(lambda: last.values()[-10:] == [*range(20, 30)])


@pytest.mark.parametrize("backlog", [False, True])
async def test_a_correction_is_no_new_reading(
    store: Store, broker: Mosquitto, seen: Listener, tmp_path: Path, backlog: bool
) -> None:
    """Where every reading is wanted, it is published again, but is not the latest."""
    async with publishing(store, broker, backlog=backlog):
        first = reading(1, clock="unset")
        await store.graft([first, reading(2)])
        await until(lambda: seen.values() == [1, 2])
        assert json.loads(seen.on(TEMPERATURE)[0])["clock"] == "unset"
        await store.write(
            lambda transaction: transaction.rewrite(
                first.id, lambda body: {**body, "clock": "corrected"}
            )
        )
        await store.graft([reading(3, sensor="other")])
        await until(lambda: seen.values("other") == [3])
        assert seen.values() == ([1, 2, 1] if backlog else [1, 2])
        async with Listener(broker, tmp_path / "late") as late:
            await until(lambda: late.values("other") == [3])
            assert late.values() == [2]


async def test_a_backlog_begins_with_the_first_start(
    store: Store, broker: Mosquitto, tmp_path: Path
) -> None:
    """Even if there is no connection before the end, however that comes."""
    await store.graft(numbers(0, 3))
    await broker.stop()
    publisher = Publisher("site", store, options(broker, backlog=True))
    task = asyncio.create_task(publisher.run())
    await until(lambda: publisher.last_error)
    found = await store.get_local("telemetry:site")
    task.cancel()
    await asyncio.wait({task})
    assert found is not None
    assert json.loads(found[1])["seq"] == 3


async def test_thousands_of_readings_and_a_broker_that_does_not_read(
    store: Store, broker: Mosquitto, seen: Listener
) -> None:
    """They wait in the store, not in memory."""
    readings = numbers(0, 10_000)
    async with publishing(store, broker, backlog=True, heartbeat=60.0) as publisher:
        broker.send(signal.SIGSTOP)
        tracemalloc.start()
        for start in range(0, len(readings), 1000):
            await store.graft(readings[start : start + 1000])
        await asyncio.sleep(0.5)
        grown, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert grown < 2 * 2**20
        assert publisher.published < 10_000
        broker.send(signal.SIGCONT)
        await until(lambda: publisher.published == 10_000)
        await until(lambda: len(seen.values()) == 10_000)
    assert seen.values() == [*range(10_000)]


async def test_who_is_far_behind_goes_on_from_the_present(
    store: Store, broker: Mosquitto, seen: Listener
) -> None:
    async with publishing(store, broker, qos=1, heartbeat=60.0) as publisher:
        broker.send(signal.SIGSTOP)
        await store.graft(numbers(0, 10))
        await asyncio.sleep(0.1)
        for start in range(0, 5000, 1000):
            await store.graft(numbers(start, start + 1000))
        broker.send(signal.SIGCONT)
        await until(lambda: publisher.published)
        await store.graft([reading(-1)])
        await until(lambda: seen.values()[-1:] == [-1])
        assert publisher.published < 2000


async def test_ever_new_sensors(store: Store, broker: Mosquitto, seen: Listener) -> None:
    async with publishing(store, broker, discovery="homeassistant") as publisher:
        await store.graft([reading(number, f"s{number}") for number in range(600)])
        await store.graft([reading(-1, "s0")])
        await until(lambda: seen.values("s0") == [0, -1])
        await until(lambda: (publisher.published, publisher.skipped) == (501, 100))
        assert len(json.loads(seen.on(CONFIG)[-1])["components"]) == 500


async def test_an_interval(store: Store, broker: Mosquitto, seen: Listener) -> None:
    async with publishing(store, broker, interval=0.5):
        await store.graft([*numbers(0, 50), reading(1, "other")])
        await until(lambda: seen.values("other") == [1])
        assert seen.values() == [0]
        await asyncio.sleep(0.6)
        await store.graft(numbers(50, 60))
        await until(lambda: seen.values() == [0, 50])


async def test_a_reading_that_is_too_large_for_the_broker(store: Store, tmp_path: Path) -> None:
    async with (
        Mosquitto(tmp_path / "broker", more="max_packet_size 5000") as broker,
        Listener(broker, tmp_path / "seen") as seen,
        publishing(store, broker, qos=1, discovery="homeassistant") as publisher,
    ):
        await store.graft([reading("x" * 6000), reading(2)])
        await store.graft([reading(number, f"s{number}") for number in range(50)])
        await until(lambda: seen.values() == [2])
        await until(lambda: seen.values("s49") == [49])
        await until(lambda: (publisher.published, publisher.skipped) == (51, 1))
        assert publisher.last_error is None


async def test_the_documented_access_rules(store: Store, tmp_path: Path) -> None:
    """They allow a gateway what it needs, and nothing in another's name."""
    folder = tmp_path / "broker"
    folder.mkdir()
    passwords, rules = folder / "passwords", folder / "rules"
    passwords.touch(mode=0o600)
    for user in ("gateway-1", "gateway-2", "gateway_1", "reader"):
        command = ("mosquitto_passwd", "-b", passwords, user, "secret")
        await asyncio.to_thread(subprocess.run, command, check=True)
    blocks = [documented("mosquitto-acl", part) for part in ("edge-readings", "_5f")]
    rules.write_text("\n".join([*blocks, "user reader\ntopic read #\n"]))
    rules.chmod(0o600)
    more = f"password_file {passwords}\nacl_file {rules}\n"
    async with Mosquitto(folder, more=more, anonymous=False) as broker:
        mine, others = Credentials("gateway-1", "secret"), Credentials("gateway-2", "secret")
        async with publishing(
            store, broker, qos=1, discovery="homeassistant", credentials=mine
        ) as publisher:
            await store.graft(numbers(0, 3))
            await until(lambda: publisher.published == 3)
            assert publisher.last_error is None
        async with publishing(store, broker, qos=1, credentials=others) as publisher:
            await until(lambda: publisher.last_error)
            assert "does not allow user 'gateway-2'" in str(publisher.last_error)
            assert "secret" not in str(publisher.status())
        named = {"gateway": "gateway_1", "credentials": Credentials("gateway_1", "secret")}
        async with publishing(
            store, broker, qos=1, discovery="homeassistant", **named
        ) as publisher:
            await store.graft(numbers(3, 5))
            await until(lambda: publisher.published == 2)
            assert publisher.last_error is None


BROKER = "mqtt://broker.example.org"


@pytest.mark.parametrize(
    ("tables", "parts"),
    [
        (({"url": "http://h"},), ["telemetry.url", "mqtt(s)://"]),
        (({"url": f"{BROKER}/+"},), ["telemetry 't'", "levels"]),
        (({"url": BROKER, "qos": 2},), ["telemetry.qos", "0 or 1"]),
        (({"url": BROKER, "interval": 0},), ["telemetry.interval", "above 0"]),
        (({"url": BROKER, "interval": 5, "backlog": True},), ["interval and backlog"]),
        (({"url": BROKER, "password": "x"},), ["telemetry 't'", "needs a user"]),
        (({"url": BROKER, "user": "u", "password_file": "gone"},), ["'t'", "password_file"]),
        (({"url": BROKER, "ca_file": "gone"},), ["telemetry 't'", "ca_file", "cannot be read"]),
        (({"url": BROKER, "client_key": "k"},), ["telemetry 't'", "client_certificate"]),
        (({"url": BROKER, "home_assistant": "a/#"},), ["home_assistant"]),
        (({"url": BROKER}, {"url": BROKER}), ["is used twice"]),
        (({"url": BROKER}, {"url": f"{BROKER}:1883", "name": "u"}), ["overlaps", "telemetry 'u'"]),
        (
            (
                {"url": BROKER, "home_assistant": True},
                {"url": f"{BROKER}/u", "name": "u", "home_assistant": "homeassistant"},
            ),
            ["telemetry 'u' tells Home Assistant"],
        ),
    ],
)
def test_mistakes_in_the_configuration(
    tmp_path: Path, tables: Sequence[dict[str, Any]], parts: Sequence[str]
) -> None:
    texts = [agents.table("telemetry", **{"name": "t", **keys}) for keys in tables]
    config = agents.gateway_config(tmp_path / "gateway.toml", *texts)
    complaint = in_process("config", "check", "--config", config).complaint()
    assert all(part in complaint for part in parts), complaint


@pytest.mark.parametrize(
    ("prefix", "overlaps"),
    [("", False), ("/other", False), ("/edge-sync", True), ("/edge-sync/x", True)],
)
def test_prefixes_are_apart(tmp_path: Path, prefix: str, *, overlaps: bool) -> None:
    config = agents.gateway_config(
        tmp_path / "gateway.toml",
        agents.table("remote", name="cloud", url=f"{BROKER}/edge"),
        agents.table("telemetry", name="site", url=BROKER + prefix, home_assistant=True),
    )
    checked = in_process("config", "check", "--config", config)
    if overlaps:
        assert "overlaps with edge-sync, which is that of remote 'cloud'" in checked.complaint()
    else:
        assert "remotes: cloud; telemetry: site" in checked.stdout


async def test_a_gateway(broker: Mosquitto, seen: Listener, tmp_path: Path, free_port: int) -> None:
    """The program as it is run, from a serial port to the broker."""
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    config = agents.gateway_config(
        tmp_path / "gateway.toml",
        agents.table("device", name="greenhouse", port=os.ttyname(theirs), adapter="json-lines"),
        agents.table("telemetry", name="site", url=broker.url, home_assistant=True),
        port=free_port,
    )

    def status() -> Any:
        return edge_agent("status", "--config", config, "--json").json()

    def check() -> None:
        with agents.gateway(config) as process:
            process.wait_until_ready()
            agents.when_true(lambda: status()["telemetry"][0]["state"] == "connected")
            agents.when_true(lambda: status()["devices"][0]["state"] == "open")
            os.write(ours, b'\n{"seq": 1, "temperature": 21.5}\n')
            agents.when_true(lambda: seen.values() == [21.5])
            [told] = status()["telemetry"]
            assert (told["name"], told["broker"]) == ("site", f"{broker.url}/edge-readings")
            assert (told["published"], told["skipped"], told["last_error"]) == (1, 0, None)
            shown = edge_agent("status", "--config", config, environment={"COLUMNS": "200"})
            assert f"site │ {broker.url}/edge-readings │ connected │ 1" in " ".join(
                shown.stdout.split()
            )
            assert process.stop().status == 0

    try:
        await asyncio.to_thread(check)
    finally:
        os.close(ours)
        os.close(theirs)
    assert len(seen.on(CONFIG)) == 1
    await until(lambda: "offline" in seen.on("edge-readings/gateway-1/status")[-1])
