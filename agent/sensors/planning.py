"""What becomes of a batch of arrivals: the documents to write, and what to remember. Pure.

What is remembered (`DeviceState`) is stored in the transaction that writes the documents. So the
same arrivals make the same documents, whatever was cut short and done again in between.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from agent.documents.revision import Revision, first_revision
from agent.documents.times import microseconds
from agent.sensors.alarms import AlarmState, alarm_cleared
from agent.sensors.moments import ABSOLUTE, Mark, Moment, Moments, Scale
from agent.sensors.packing import Packer, Row, Window, shared
from agent.sensors.reporting import Kept
from agent.sensors.rules import Rule, Rules
from agent.sensors.sequence import SequenceState
from firmware_adapters.adapter import Event, Held, Reading, Value

_MOST_SENSORS = 1000
"""Sensors of one device that are remembered; those of others are stored all the same. Noise on a
line without checksums may look like ever new sensors."""

_BACK = 600_000_000
"""Microseconds. A reading without a number whose own time is before the last one's by less is an
old one that comes again; by more, and the device's clock was set back."""

_STEP = 1_000_000
"""Microseconds. When the time is put right by less, what is remembered stays as it is."""

_json = msgspec.json.Encoder()


class Arrival(msgspec.Struct, frozen=True):
    """What a good frame held, and when it arrived, in microseconds of the monotonic clock."""

    at: int
    item: Reading | Event


class SensorState(Struct, omit_defaults=True):
    """What is remembered of a sensor, as far as its rule needs it."""

    newest: int = 0
    """The time of the last reading that changed anything of what is remembered, in microseconds
    since the epoch; others change nothing here, so that they cost no write."""
    kept: Kept | None = None
    alarms: dict[str, AlarmState] = msgspec.field(default_factory=dict)
    told: bool = False
    """Whether the times are the device's own."""

    def pending(self) -> list[int | None]:
        """Since when alarms have been about to be raised."""
        return [alarm.since for alarm in self.alarms.values()]

    def raised(self) -> list[str]:
        """The names of the alarms that are raised."""
        return [name for name, alarm in self.alarms.items() if alarm.document is not None]

    def move(self, step: int) -> None:
        """The time was put right by so many microseconds: nothing got older by that."""
        self.newest += step
        if self.kept is not None:
            self.kept = replace(self.kept, at=self.kept.at + step)
        for alarm in self.alarms.values():
            if alarm.since is not None:
                alarm.since += step


class DeviceState(SequenceState, omit_defaults=True):
    """All that is remembered of a device."""

    sensors: dict[str, SensorState] = msgspec.field(default_factory=dict)
    newest: int = 0
    ahead: int = 0
    """These two are what `Moments` has to know of what was written before."""
    boot_id: str = ""
    offset: int = 0
    """By which the sensors' times were made, as `Scale` has it."""

    def follow(self, scale: Scale) -> None:
        """Bring what is remembered of sensors to the scale of what comes now. From one boot of the
        machine to the next nobody knows how long it took, but that times go on."""
        step = scale.offset - self.offset
        if self.boot_id == scale.boot_id:
            if abs(step) < _STEP:
                return
            for sensor in self.sensors.values():
                if not sensor.told:
                    sensor.move(step)
        self.boot_id, self.offset = scale.boot_id, scale.offset


class Sample(NamedTuple):
    """A reading that is new, as it is recorded."""

    reading: Reading
    moment: Moment
    value: Value
    unit: str | None
    raw: Value | None
    quality: str | None
    kept: bool
    """False: it told nothing new, and is not stored."""
    gaps: int | None
    """As `SequenceState` has counted them by then; None where it has no number, or came late."""

    @property
    def at(self) -> str:
        """When it was taken, RFC 3339 in UTC."""
        return self.moment.at


class Clearing(msgspec.Struct, frozen=True):
    """An alarm's document that is to say that the alarm is over."""

    id: str
    at: str
    value: Value | None
    mark: Mark | None = None

    def applied(self, body: dict[str, Any]) -> dict[str, Any]:
        """The document's new body."""
        cleared = alarm_cleared(body, self.at, self.value)
        return cleared if self.mark is None else cleared | self.mark.members("cleared_")


class Plan(msgspec.Struct):
    """What one transaction writes, and the readings that it stands for."""

    documents: list[Revision] = msgspec.field(default_factory=list)
    cleared: list[Clearing] = msgspec.field(default_factory=list)
    samples: list[Sample] = msgspec.field(default_factory=list)
    parts: list[tuple[str, str]] = msgspec.field(default_factory=list)
    """Of windows that stay open: their ids, and bodies with what came in."""
    closed: list[str] = msgspec.field(default_factory=list)
    """The windows whose parts are not needed any more."""
    windows: dict[str, Window] = msgspec.field(default_factory=dict)
    """By sensor, those that are open then."""
    marked: int = 0
    """How many documents have a time that is not known to be right."""

    def is_empty(self) -> bool:
        """Whether there is nothing to write."""
        return not (self.documents or self.cleared or self.parts)


def plan(
    device: str,
    rules: Rules,
    state: DeviceState,
    arrivals: Iterable[Arrival],
    windows: Mapping[str, Window],
    overdue: Collection[str] = (),
    scale: Scale = ABSOLUTE,
) -> Plan:
    """Plan what to write for what is new among `arrivals`; `state` takes note of all of them.

    `windows` are those that are open, by sensor; those whose ids are in `overdue` are closed.
    `scale` makes times of the moments of arrival.
    """
    made = Plan()
    packer = Packer(windows)
    state.follow(scale)
    moments = Moments(scale, state.newest, state.ahead)
    for frame in _frames(arrivals, moments):
        new: Iterable[str] = frame.readings
        if frame.sequence is not None:
            values = {sensor: reading.value for sensor, (_, reading) in frame.readings.items()}
            new = state.accept(frame.boot, frame.sequence, values, frame.held)
        late = frame.sequence is not None and frame.sequence != state.last
        for sensor, (moment, reading) in frame.readings.items():
            if sensor in new:
                rule = rules.of(sensor)
                sample = _judged(made, device, rule, state, moment, reading, late=late)
                made.samples.append(sample)
                if sample.kept and not _packed(packer, device, rule, sample, late=late):
                    made.documents.append(_document(device, sample))
                    made.marked += moment.mark is not None
    for sensor, window in list(packer.open.items()):
        if window.id in overdue:
            packer.close(sensor)
    made.documents += packer.documents
    made.marked += packer.marked
    made.parts = packer.parts()
    made.closed = packer.closed
    made.windows = packer.open
    if not made.is_empty():  # else no id was given, and the disk is spared
        state.newest, state.ahead = moments.newest, moments.ahead
    return made


def _judged(
    made: Plan,
    device: str,
    rule: Rule,
    state: DeviceState,
    moment: Moment,
    reading: Reading,
    *,
    late: bool,
) -> Sample:
    """A reading as its rule has it. Alarms that it raises or clears are added to `made`."""
    value, raw, quality = rule.calibration.apply(reading.value)
    unit = rule.unit or reading.unit
    kept = True
    sensor = _remembered(state, rule, reading.sensor)
    if sensor is not None:
        now = microseconds(moment.at)
        sensor.told = reading.time is not None
        if reading.sequence is None and reading.time is not None:
            late = now < sensor.newest <= now + _BACK
        # What comes late is stored, but says nothing of how things are now.
        if not late:
            before = sensor.pending()
            about = _about(device, moment, reading, value, unit)
            turned = _step_alarms(made, rule, sensor, about, moment, reading)
            if rule.deadband is not None:
                new = Kept(now, value, unit, quality)
                kept = turned or rule.deadband.keeps(sensor.kept, new)
                if kept:
                    sensor.kept = new
            if kept or sensor.pending() != before:
                sensor.newest = now
            if not rule.has_state:
                del state.sensors[reading.sensor]
    gaps = None if late or reading.sequence is None else state.gaps
    return Sample(reading, moment, value, unit, raw, quality, kept, gaps)


def _packed(packer: Packer, device: str, rule: Rule, sample: Sample, *, late: bool) -> bool:
    """Put a reading into a window, if that is where it belongs."""
    reading = sample.reading
    if rule.pack is None or isinstance(sample.value, str):
        return False  # texts would make a document of any size
    if reading.sequence is None and reading.time is not None:
        return False  # only by its document's id such a reading is known to come again
    at = microseconds(sample.at)
    if at < 0:
        return False  # held by a device since before 1970, to a gateway that starts then
    row = Row(at, sample.value, reading.sequence, reading.uptime_ms, sample.raw)
    mark = sample.moment.mark
    unset = None if mark is None else (mark.boot_id, at - mark.monotonic)
    names = (device, reading.sensor, sample.unit, sample.quality, reading.boot)
    common = shared(*names, row, unset)
    return packer.take(_id(device, sample.moment, reading), common, row, rule.pack, late=late)


def _remembered(state: DeviceState, rule: Rule, name: str) -> SensorState | None:
    """What is remembered of a sensor; None if that is, and shall be, nothing."""
    sensor = state.sensors.get(name)
    if sensor is None and rule.has_state and len(state.sensors) < _MOST_SENSORS:
        sensor = state.sensors[name] = SensorState()
    return sensor


def _step_alarms(
    made: Plan,
    rule: Rule,
    sensor: SensorState,
    about: dict[str, Any],
    moment: Moment,
    reading: Reading,
) -> bool:
    """Raise and clear alarms; returns whether there was anything to raise or to clear."""
    turned = False
    value, now = about["value"], microseconds(moment.at)
    for name in sorted(sensor.alarms.keys() - {threshold.name for threshold in rule.thresholds}):
        document = sensor.alarms.pop(name).document
        if document is not None:
            made.cleared.append(Clearing(document, moment.at, None, moment.mark))
            turned = True
    for threshold in rule.thresholds:
        alarm = sensor.alarms.setdefault(threshold.name, AlarmState())
        match threshold.step(alarm, value, now):
            case "raised":
                alarm.document = (
                    f"alarm:{about['device']}:{reading.sensor}:{threshold.name}:"
                    f"{moment.key}:{_last_part(reading)}"
                )
                made.documents.append(first_revision(alarm.document, threshold.body(about)))
                made.marked += moment.mark is not None
                turned = True
            case "cleared":
                assert alarm.document is not None  # noqa: S101  (or nothing is cleared)
                made.cleared.append(Clearing(alarm.document, moment.at, value, moment.mark))
                sensor.alarms[threshold.name] = AlarmState()
                turned = True
    return turned


def _about(
    device: str, moment: Moment, reading: Reading, value: Value, unit: str | None
) -> dict[str, Any]:
    about = {"device": device, "sensor": reading.sensor, "time": moment.at, "value": value}
    if unit is not None:
        about["unit"] = unit
    if moment.mark is not None:
        about |= moment.mark.members()
    return about


def _document(device: str, sample: Sample) -> Revision:
    reading, moment = sample.reading, sample.moment
    body = {"type": "reading", **_about(device, moment, reading, sample.value, sample.unit)}
    if sample.raw is not None:
        body["raw"] = sample.raw
    if sample.quality is not None:
        body["quality"] = sample.quality
    if reading.sequence is not None:
        body["sequence"] = reading.sequence
    if reading.boot is not None:
        body["boot"] = reading.boot
    if reading.uptime_ms is not None:
        body["uptime_ms"] = reading.uptime_ms
    return first_revision(_id(device, moment, reading), body)


def _id(device: str, moment: Moment, reading: Reading) -> str:
    return f"{device}:{reading.sensor}:{moment.key}:{_last_part(reading)}"


def _last_part(reading: Reading) -> str:
    if reading.sequence is not None:
        number = f"{reading.sequence:010d}"
        # A device whose clock starts anew with each boot tells the same times again.
        again = reading.time is not None and reading.boot is not None
        return f"{reading.boot}-{number}" if again else number
    if reading.time is None and reading.age_ms is None:
        return "0"  # the time of arrival is unique
    # Two values with the same time from the device are two readings; a repeat is one.
    return hashlib.blake2b(_json.encode(reading.value), digest_size=4).hexdigest()


def first_frames(arrivals: list[Arrival], most: int) -> list[Arrival]:
    """The first arrivals, `most` and the rest of the frame that the last of them is part of: what
    is stored of a frame is acknowledged, so it must be all of it."""
    end = min(most, len(arrivals))
    while 0 < end < len(arrivals) and _same_frame(arrivals[end - 1].item, arrivals[end].item):
        end += 1
    return arrivals[:end]


def _same_frame(first: Reading | Event, second: Reading | Event) -> bool:
    same = (first.boot, first.sequence) == (second.boot, second.sequence)
    return same and first.sequence is not None


class _Frame(msgspec.Struct):
    """By sensor, the moment and the reading; none in a frame that held only an event."""

    boot: int | str | None
    sequence: int | None
    held: Held | None
    readings: dict[str, tuple[Moment, Reading]]


def _frames(arrivals: Iterable[Arrival], moments: Moments) -> Iterator[_Frame]:
    """What arrived in one frame: until the number changes or a sensor comes again."""
    frame: _Frame | None = None
    for arrival in arrivals:
        item = arrival.item
        again = isinstance(item, Reading) and frame is not None and item.sensor in frame.readings
        if frame is None or again or (frame.boot, frame.sequence) != (item.boot, item.sequence):
            if frame is not None:
                yield frame
            frame = _Frame(item.boot, item.sequence, item.held, {})
        if isinstance(item, Reading):
            moment = moments.of(arrival.at, item.time, item.age_ms)
            frame.readings[item.sensor] = (moment, item)
    if frame is not None:
        yield frame
