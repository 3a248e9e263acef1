"""What time it is, whoever sets the clocks: pure, with clocks that a test moves."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.config_sensors import SensorConfig
from agent.documents.revision import Revision
from agent.documents.times import microseconds, timestamp
from agent.sensors.correction import corrected
from agent.sensors.moments import Scale
from agent.sensors.packing import Body, Window, restored, rows_of
from agent.sensors.planning import Arrival, DeviceState, Plan, plan
from agent.sensors.rules import Rules
from agent.sensors.timekeeping import Measurement, Rank, Timekeeper
from firmware_adapters import Reading
from tests.sensors.clocks import HOUR, SECOND, TRUE

TOLERANCE = 2 * SECOND


def date(at: int, now: int, source: str = "remote cloud", rank: Rank = Rank.HTTPS) -> Measurement:
    """What a Date says, of a second in which the time really is `at`."""
    second = at // SECOND * SECOND
    low = second - now
    return Measurement(source, rank, low, low + SECOND // 2, low + SECOND)


def ntp(offset: int) -> Measurement:
    return Measurement("ntp", Rank.NTP, offset, offset, offset)


def test_an_own_time_that_nobody_moves() -> None:
    keeper = Timekeeper("b", 0)
    assert keeper.scale == Scale("b", 0, 0, unset=True)
    keeper.hear(date(TRUE, 0), 0)
    assert keeper.scale == Scale("b", TRUE + SECOND // 2, TRUE + SECOND // 2)
    for system in (TRUE + HOUR, 0, TRUE - HOUR):  # somebody sets the system clock
        keeper.see(system)
        assert keeper.scale.offset == TRUE + SECOND // 2


def test_a_system_clock_that_agrees_is_taken() -> None:
    keeper = Timekeeper("b", TRUE + 123_456)
    keeper.hear(date(TRUE, 0), 0)
    assert keeper.scale == Scale("b", TRUE + 123_456, TRUE + 123_456)


def test_before_anything_is_sure_a_clock_that_is_set_is_followed_forwards() -> None:
    keeper = Timekeeper("b", 0)
    keeper.see(TRUE)
    assert keeper.scale == Scale("b", TRUE, TRUE, unset=True)
    keeper.see(0)
    assert keeper.scale == Scale("b", TRUE, TRUE, unset=True)


def test_a_boot_goes_on_after_the_last_one() -> None:
    keeper = Timekeeper("b", 0)
    keeper.at_least(TRUE, 0, 50)
    assert keeper.scale == Scale("b", TRUE - 49, TRUE - 49, unset=True)
    # Where ids were an hour ahead of the time, they still are.
    keeper = Timekeeper("b", 0)
    keeper.at_least(TRUE + HOUR, HOUR, 50)
    assert keeper.scale == Scale("b", TRUE - 49, TRUE + HOUR - 49, unset=True)
    # Who knows the time has only the ids go on.
    keeper = Timekeeper("b", 0, known=TRUE - HOUR)
    keeper.at_least(TRUE, 0, 50)
    assert keeper.scale == Scale("b", TRUE - HOUR, TRUE - 49)


def test_whom_to_believe() -> None:
    keeper = Timekeeper("b", 0)
    keeper.hear(date(TRUE, 0), 0)
    # Another remote contradicts: as long as the first one is heard of, it does not count.
    keeper.hear(date(TRUE + HOUR, 0, "remote other"), 0)
    assert keeper.source == "remote cloud"
    # NTP is better, and to the point.
    keeper.hear(ntp(TRUE + 7), SECOND)
    keeper.hear(ntp(TRUE + 9007), 2 * SECOND)
    assert (keeper.source, keeper.scale.offset) == ("ntp", TRUE + 9007)
    keeper.hear(date(TRUE + HOUR, 0), HOUR)
    assert keeper.source == "ntp"
    # It has not been heard of for long.
    later = 2 * HOUR
    keeper.hear(date(TRUE + later + 3 * SECOND, later), later)
    assert (keeper.source, keeper.scale.offset) == ("remote cloud", TRUE + 3 * SECOND)


@pytest.mark.parametrize(
    "at", ["1970-01-01T00:00:30Z", "2025-12-31T23:59:58Z", "9999-12-31T23:59:59Z"]
)
def test_a_source_that_has_no_idea_is_not_believed(at: str) -> None:
    keeper = Timekeeper("b", 0)
    keeper.hear(date(microseconds(at), 0), 0)
    assert keeper.scale == Scale("b", 0, 0, unset=True)


def test_who_trusts_the_system_clock_follows_it() -> None:
    keeper = Timekeeper("b", TRUE, trusted=True)
    keeper.see(TRUE - HOUR)
    keeper.hear(date(TRUE, 0), 0)
    assert keeper.scale == Scale("b", TRUE - HOUR, TRUE)
    assert keeper.source == "system"


# --- a device's readings through all of it ---------------------------------------------


@dataclass
class World:
    """A gateway over several boots. Its readings' values are the times when they really were
    taken, in microseconds; what is remembered is written with the documents, as in a store."""

    rules: Rules
    now: int = SECOND
    true: int = TRUE
    boot: int = 0
    system: int = 0
    offsets: dict[str, int] = field(default_factory=dict)
    """By boot, what its clock has found out."""
    state: DeviceState = field(default_factory=DeviceState)
    windows: dict[str, Window] = field(default_factory=dict)
    parts: list[tuple[str, str]] = field(default_factory=list)
    documents: dict[str, dict[str, Any]] = field(default_factory=dict)
    """By id, in the order in which they were recorded."""
    sequence: int = 0
    waiting: list[Arrival] = field(default_factory=list)
    keeper: Timekeeper = field(init=False)

    def __post_init__(self) -> None:
        self.start()

    @property
    def boot_id(self) -> str:
        return f"boot-{self.boot}"

    def start(self) -> None:
        """Another process; what had arrived and was not written is gone."""
        self.waiting = []
        self.keeper = Timekeeper(self.boot_id, self.system, known=self.offsets.get(self.boot_id))
        self.state = msgspec.json.decode(msgspec.json.encode(self.state), type=DeviceState)
        self.keeper.at_least(self.state.newest, self.state.ahead, self.now)
        self.windows = restored(self.parts)

    def pass_time(self, duration: int) -> None:
        self.now += duration
        self.true += duration

    def reboot(self, off: int, system: int) -> None:
        self.pass_time(off)
        self.boot += 1
        self.now = SECOND
        self.system = system
        self.start()

    def arrive(self) -> None:
        self.pass_time(1)
        self.sequence += 1
        reading = Reading("t", self.true, sequence=self.sequence, boot=1)
        self.waiting.append(Arrival(self.now, reading))

    def write(self, *, close: bool = False) -> None:
        scale = self.keeper.scale
        stale = [
            w.id for w in self.windows.values() if close or (w.shared.unset and not scale.unset)
        ]
        made = plan("dev", self.rules, self.state, self.waiting, self.windows, stale, scale)
        self.waiting = []
        self.windows = made.windows
        self.parts = [part for part in self.parts if part[0] not in made.closed] + made.parts
        self.keep(made)

    def keep(self, made: Plan) -> None:
        for document in made.documents:
            assert isinstance(document, Revision)
            assert document.id not in self.documents
            self.documents[document.id] = json.loads(document.body)

    def hear(self, told: Measurement) -> None:
        self.keeper.hear(told, self.now)
        self.offsets.setdefault(self.boot_id, self.keeper.scale.offset)

    def correct(self) -> None:
        for boot_id, offset in self.offsets.items():
            for id, body in self.documents.items():
                self.documents[id] = corrected(body, boot_id, offset, TOLERANCE) or body

    def readings(self) -> list[tuple[str, dict[str, Any], int, int]]:
        """Of each reading the id and body of its document, its time and when it was taken."""
        found = []
        for id, body in self.documents.items():
            if body["type"] == "reading":
                found.append((id, body, microseconds(body["time"]), body["value"]))
            else:
                columns = msgspec.convert(body, Body, strict=False)
                found += [(id, body, row.at, int(row.value)) for row in rows_of(columns)]
        return found


EVENTS = st.one_of(
    st.tuples(st.just("wait"), st.sampled_from([1000, SECOND, 40 * SECOND, HOUR, 900 * HOUR])),
    st.tuples(st.just("set"), st.sampled_from([0, TRUE, TRUE - HOUR, TRUE + 90 * HOUR])),
    st.tuples(st.just("hear"), st.sampled_from(["cloud", "ntp", "gps"])),
    st.tuples(st.just("reboot"), st.sampled_from([0, TRUE - HOUR, TRUE + 1900 * HOUR])),
    st.just(("restart", 0)),
    st.just(("correct", 0)),
)
STEPS = st.lists(
    st.tuples(EVENTS, st.integers(0, 2), st.sampled_from([True, True, False])),
    min_size=1,
    max_size=12,
)
"""An event, how many readings come after it, and whether they are written before the next one."""


@settings(max_examples=250)
@example(
    steps=[(("hear", "ntp"), 0, True), (("restart", 0), 1, True), (("wait", SECOND), 2, True)],
    packed=False,
    system=TRUE,
)
@given(STEPS, st.booleans(), st.sampled_from([0, TRUE, TRUE + 5000 * HOUR]))
def test_no_order_and_no_id_changes_and_times_get_right(
    steps: list[tuple[tuple[str, Any], int, bool]], packed: bool, system: int
) -> None:
    """Whoever sets the clock, whenever it is told, stopped, killed or switched off."""
    tables = [{"name": "*", **({"pack": 30} if packed else {})}]
    world = World(Rules(msgspec.convert(tables, list[SensorConfig])), system=system)
    world.arrive()
    world.write()
    for (event, argument), count, written in steps:
        match event:
            case "wait":
                world.pass_time(argument)
            case "set":
                world.system = argument
                world.keeper.see(argument)
            case "reboot":
                world.reboot(HOUR, argument)
            case "hear" if argument == "ntp":
                world.system = world.true - world.now
                world.keeper.see(world.system)
                world.hear(ntp(world.system))
            case "hear":
                rank = Rank.DEVICE if argument == "gps" else Rank.HTTPS
                world.hear(date(world.true, world.now, argument, rank))
            case "restart":
                world.start()
            case "correct":
                world.correct()
        for _ in range(count):
            world.arrive()
        if written:
            world.write()
    for _ in range(2):  # what is open now becomes documents, too
        world.write(close=True)
    world.correct()

    ids = list(world.documents)
    assert ids == sorted(ids)
    readings = world.readings()
    values = [value for *_, value in readings]
    assert values == sorted(values)
    assert len(values) == len(set(values))
    for _, body, at, value in readings:
        if body.get("clock") == "unset" and body["boot_id"] not in world.offsets:
            continue  # nobody ever said what time it was
        assert abs(at - value) <= TOLERANCE, body
        if body.get("clock") == "corrected":
            assert (
                abs(microseconds(body["time_recorded"]) - microseconds(body["time"])) >= TOLERANCE
            )


@given(
    st.lists(st.tuples(st.integers(0, 5), st.integers(0, 9)), min_size=1, max_size=30), st.data()
)
def test_a_correction_changes_neither_what_is_kept_nor_what_is_alarming(
    frames: list[tuple[int, int]], data: st.DataObject
) -> None:
    """Every delay is counted as if the time had been known from the start."""
    config = {
        "name": "*",
        "change": 2,
        "every": 15,
        "alarm": [{"name": "high", "above": 4, "hysteresis": 1, "delay": 8}],
    }
    rules = Rules([msgspec.convert(config, SensorConfig)])
    arrivals = []
    now = SECOND
    for number, (gap, value) in enumerate(frames):
        now += gap * SECOND + 1
        arrivals.append(Arrival(now, Reading("t", value, sequence=number, boot=7)))
    expected = plan("dev", rules, DeviceState(), arrivals, {}, (), Scale("b", TRUE, TRUE))

    before = Scale("b", 0, 0, unset=True)
    after = data.draw(st.sampled_from([TRUE, TRUE - 1, 3 * SECOND, -HOUR]))
    known = data.draw(st.integers(0, len(arrivals)))
    state = DeviceState()
    made = plan("dev", rules, state, arrivals[:known], {}, (), before)
    rest = plan("dev", rules, state, arrivals[known:], {}, (), Scale("b", after, max(0, after)))
    kept = [(s.reading.sequence, s.kept) for s in made.samples + rest.samples]
    assert kept == [(s.reading.sequence, s.kept) for s in expected.samples]
    kinds = [json.loads(doc.body)["type"] for doc in made.documents + rest.documents]
    assert kinds == [json.loads(doc.body)["type"] for doc in expected.documents]
    assert len(made.cleared + rest.cleared) == len(expected.cleared)


def test_small_steps_back_do_not_turn_the_order_of_times_around() -> None:
    state = DeviceState()
    times = []
    for now, offset in (
        (SECOND, TRUE),
        (2 * SECOND, TRUE - SECOND - 5),
        (5 * SECOND, TRUE - SECOND),
    ):
        scale = Scale("b", offset, TRUE)
        arrival = Arrival(now, Reading("t", now, sequence=now, boot=1))
        (document,) = plan("dev", Rules(), state, [arrival], {}, (), scale).documents
        times.append(json.loads(document.body)["time"])
    assert times == [timestamp(TRUE + n * SECOND) for n in (1, 1, 4)]
