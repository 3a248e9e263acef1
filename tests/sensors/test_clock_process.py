"""A gateway that starts in 1970, as a process: a hub's Date or a GPS receiver tells it the time."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import time
import tty
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests import agents
from tests.agents import edge_agent
from tests.cli.helpers import query, request
from tests.devices.micropython import SensorNode, Witness
from tests.firmware_adapters.test_nmea import sentence
from tests.patience import when_true
from tests.rig.network import find_free_port
from tests.sensors.wrong_clock import WrongClock
from tests.server.certificates import self_signed

ENOUGH = 1200
"""Readings to correct: it takes a second or so."""

KILLS = 2

_OFF = 20.0
"""Seconds that a time may be wrong by: HTTP tells whole ones, and on a busy machine what tells the
time is heard late. Every wrong time that could be believed here is an hour off, or more."""

READING = "body ->> 'type' = 'reading'"
"""Other documents are edited, too: what the device says of its settings, for example."""

CLOCK = """
[clock]
sources = {sources}
"""


def bodies(store: Path) -> list[dict[str, Any]]:
    """The readings in a store, in the order of their ids."""
    sql = f"SELECT id, body FROM docs WHERE {READING} ORDER BY id"
    return [{"_id": id, **json.loads(body)} for id, body in query(store, sql)]


def seconds(at: str) -> float:
    return datetime.fromisoformat(at).timestamp()


def test_killed_while_it_corrects_what_it_recorded(tmp_path: Path) -> None:
    """None is lost and none doubled, here and in the hub, and all have their right time."""
    port = find_free_port()
    store, cloud = tmp_path / "gateway" / "edge.sqlite", tmp_path / "hub" / "edge.sqlite"
    clock = WrongClock.in_1970(tmp_path / "clock")
    began = time.time()
    seen: set[str] = set()
    with SensorNode(tmp_path / "device", tmp_path / "sent.txt", interval_ms=10) as node:
        config = agents.gateway_config(
            tmp_path / "gateway.toml",
            CLOCK.format(sources='["http"]'),
            agents.table("device", name="node", port=str(node.port), adapter="cbor-frames"),
            agents.table(
                "remote",
                name="hub",
                url=f"http://127.0.0.1:{port}/edge",
                create=True,
                retry_cap=1,
            ),
        )

        def corrected() -> int:
            ((count,),) = query(store, f"SELECT count(*) FROM docs WHERE gen = 2 AND {READING}")
            return int(count)

        with contextlib.ExitStack() as running:
            with agents.gateway(config, environment=clock.environment) as gateway:
                url = gateway.wait_until_ready()
                when_true(lambda: len(query(store, "SELECT 1 FROM docs")) > ENOUGH)
                node.stop()
                node.interval_ms = 200
                node.start()  # it goes on, more slowly, and with another boot id
                status = request("GET", f"{url}/_status")["clock"]
                assert (status["state"], status["source"]) == ("unsure", None)
                assert status["waiting"] >= ENOUGH
                assert corrected() == 0
                running.enter_context(agents.hub(tmp_path / "hub", port=port))
                when_true(corrected)
            seen |= {body["_id"] for body in bodies(store)}  # it was killed
            done = [corrected()]
            assert done[0] < ENOUGH
            for _ in range(KILLS):
                with agents.gateway(config, environment=clock.environment):
                    when_true(lambda: corrected() > min(done[-1], ENOUGH - 1))
                seen |= {body["_id"] for body in bodies(store)}
                done.append(corrected())
            with agents.gateway(config, environment=clock.environment) as gateway:
                url = gateway.wait_until_ready()
                assert request("GET", f"{url}/_status")["clock"]["source"] == "remote hub"
                when_true(lambda: request("GET", f"{url}/_status")["clock"]["waiting"] == 0)
                node.stop()
                last = node.witnesses()[-1]
                when_true(lambda: has_come(bodies(store), last))
                when_true(lambda: bodies(cloud) == bodies(store))
    ended = time.time()

    found = bodies(cloud)
    marks = Counter(body.get("clock") for body in found)
    assert marks["corrected"] >= ENOUGH
    assert marks["unset"] == 0
    assert marks[None] > 0
    assert seen <= {body["_id"] for body in found}
    for sensor in last.values:
        own = [body for body in found if body["sensor"] == sensor]  # in the order of their ids
        frames = [(body["boot"], body["sequence"]) for body in own]
        assert len(frames) == len(set(frames))
        times = [seconds(body["time"]) for body in own]
        assert began - _OFF < min(times) <= max(times) < ended + _OFF
        # A frame that comes late was taken a little before those that it is recorded after.
        assert all(second > first - _OFF for first, second in pairwise(times))
    boot = time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
    for body in found:
        if body.get("clock") == "corrected":
            assert abs(boot + body["monotonic"] / 1000 - seconds(body["time"])) < _OFF
            assert body["time_recorded"].startswith("1970-01-01T00:")
    sql = f"SELECT max(gen), max(conflicts) FROM docs WHERE {READING}"
    assert query(store, sql) == [(2, 0)]


def has_come(found: list[dict[str, Any]], last: Witness) -> bool:
    """Whether the readings of a frame are there."""
    frame = (last.boot, last.sequence)
    there = [body for body in found if (body["boot"], body["sequence"]) == frame]
    return len(there) == len(last.values)


class Line:
    """A device of a test's own: what it writes, a port says."""

    def __init__(self) -> None:
        self._ours, theirs = pty.openpty()
        tty.setraw(theirs)
        self.port = os.ttyname(theirs)

    def say(self, data: bytes) -> None:
        os.write(self._ours, data)


def rmc() -> bytes:
    """What a GPS receiver says now."""
    now = datetime.now(UTC)
    return sentence(
        f"GPRMC,{now:%H%M%S}.{now.microsecond // 10_000:02d},A,4807.038,N,01131.000,W,"
        f"022.4,084.4,{now:%d%m%y},003.1,W"
    )


def test_a_gps_receiver_tells_the_time_and_then_the_clock_jumps(tmp_path: Path) -> None:
    store = tmp_path / "gateway" / "edge.sqlite"
    clock = WrongClock.in_1970(tmp_path / "clock")
    board, gps = Line(), Line()
    config = agents.gateway_config(
        tmp_path / "gateway.toml",
        CLOCK.format(sources="[]"),
        agents.table("device", name="board", port=board.port, adapter="json-lines"),
        agents.table("device", name="gps", port=gps.port, adapter="nmea", clock=True),
    )
    taken: list[float] = []

    def of_board() -> list[dict[str, Any]]:
        return [body for body in bodies(store) if body["device"] == "board"]

    def measure(count: int) -> None:
        for _ in range(count):
            taken.append(time.time())
            board.say(json.dumps({"t": len(taken)}).encode() + b"\n")
            when_true(lambda: len(of_board()) == len(taken))

    with agents.gateway(config, environment=clock.environment) as gateway:
        url = gateway.wait_until_ready()

        def state() -> Any:
            return request("GET", f"{url}/_status")["clock"]

        when_true(lambda: all(d["state"] == "open" for d in devices(url)))
        board.say(b"\n")
        gps.say(b"\r\n")
        measure(5)
        assert {body["clock"] for body in of_board()} == {"unset"}
        said = edge_agent("status", "--url", url, environment={"COLUMNS": "200"}).stdout
        assert "No source has told the time yet" in said
        assert 'trust = "system" below [clock]' in said

        def is_sure() -> bool:
            gps.say(rmc())
            return bool(state()["state"] == "sure")

        when_true(is_sure)
        when_true(lambda: state()["corrected"] == 5)
        assert state()["source"] == "device gps"
        assert "clock:" not in edge_agent("status", "--url", url).stdout
        measure(3)
        for ahead in (86_400 * 90, -3600):
            clock.set(ahead)
            when_true(partial(shows, state, ahead))
            measure(3)
        gateway.stop()

    found = of_board()
    assert [body["value"] for body in found] == list(range(1, len(taken) + 1))
    for body, at in zip(found, taken, strict=True):
        assert abs(seconds(body["time"]) - at) < _OFF, body
    assert [body.get("clock") for body in found] == ["corrected"] * 5 + [None] * 9
    of_gps = [body for body in bodies(store) if body["device"] == "gps"]
    assert of_gps
    assert not any("clock" in body for body in of_gps if body["sensor"] == "RMC.lat")


def shows(state: Callable[[], Any], ahead: float) -> bool:
    """Whether the system clock is `ahead` of the agent's time by now."""
    return bool(abs(state()["offset"] + ahead) < _OFF)


def devices(url: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = request("GET", f"{url}/_status")["devices"]
    return found


def test_a_remote_over_tls_is_believed_unless_told_otherwise(tmp_path: Path) -> None:
    """A clock that is an hour ahead: the certificate is valid all the same."""
    certificate, key = self_signed(tmp_path)
    hub_config = tmp_path / "hub.toml"
    hub_config.write_text(
        f'[server]\ntls_certificate = "{certificate}"\ntls_key = "{key}"\n', encoding="utf-8"
    )
    clock = WrongClock(tmp_path / "clock", 3600)
    log = tmp_path / "hub.log"
    hub = ("hub", "--data", tmp_path / "hub", "--listen", "127.0.0.1:0", "--config", hub_config)
    with agents.AgentProcess(*hub, log=log) as running:
        remote = agents.table(
            "remote",
            name="cloud",
            url=f"{running.wait_until_ready()}/edge",
            ca_file=str(certificate),
            create=True,
        )
        config = agents.gateway_config(
            tmp_path / "gateway.toml", CLOCK.format(sources='["https"]'), remote
        )
        with agents.gateway(config, environment=clock.environment) as gateway:
            url = gateway.wait_until_ready()

            def state() -> Any:
                return request("GET", f"{url}/_status")["clock"]

            when_true(lambda: state()["state"] == "sure")
            assert state()["source"] == "remote cloud"
            assert abs(state()["offset"] + 3600) < _OFF
