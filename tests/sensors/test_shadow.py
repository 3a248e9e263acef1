"""Which command is sent and when, with a device that is lossy, restarts, clamps and refuses."""

from __future__ import annotations

from typing import Any

import hypothesis
import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from agent.sensors.shadow import (
    ALL,
    LONGEST_PATIENCE,
    MOST_SETTINGS,
    Refusal,
    Shadow,
    same,
)
from firmware_adapters import CborFrames, Event, JsonLines, Report
from firmware_adapters.adapter import Value

AT = "2026-03-01T08:00:00.000000Z"
LATER = "2026-03-01T09:00:00.000000Z"


def sent(data: bytes) -> tuple[int, dict[str, Value]]:
    """The number and the settings of a command of the adapter JsonLines."""
    command = msgspec.json.decode(data)
    return command["n"], command["set"]


def shadow(desired: object = None) -> Shadow:
    made = Shadow(JsonLines(), number=41)
    made.want(desired, AT)
    made.began()
    return made


def asked(made: Shadow, now: float = 0.0, **settings: Value) -> None:
    """The question is asked, and answered with these settings."""
    assert sent(made.turn(now)[0]) == (42, {})
    made.hear(Report(settings, answers=42, complete=True), now, AT)


# --- the order of things ---------------------------------------------------------------


def test_nothing_is_sent_unless_something_is_desired() -> None:
    made = shadow()
    assert made.turn(0.0) == (b"", float("inf"))
    made.hear(Report({"interval_ms": 1000}, complete=True), 0.0, AT)
    assert made.turn(1.0)[0] == b""
    assert made.reported == {"interval_ms": 1000}


def test_a_device_that_takes_bytes_is_asked_a_few_times() -> None:
    made = shadow()
    made.takes_bytes = True
    moments = [now for now in range(1000) if made.turn(float(now))[0]]
    assert moments == [0, 2, 6]
    made.began()
    assert sent(made.turn(1000.0)[0])[1] == {}


def test_what_differs_is_told_and_confirmed() -> None:
    made = shadow({"interval_ms": 500, "mode": "eco"})
    asked(made, interval_ms=1000, mode="eco")
    assert made.states() == {"interval_ms": "pending", "mode": "confirmed"}
    assert sent(made.turn(0.1)[0]) == (43, {"interval_ms": 500})
    made.hear(Report({"interval_ms": 500, "mode": "eco"}, answers=43, complete=True), 0.2, AT)
    assert set(made.states().values()) == {"confirmed"}
    assert made.turn(0.3) == (b"", float("inf"))


def test_what_is_set_already_is_not_told() -> None:
    made = shadow({"interval_ms": 500})
    asked(made, interval_ms=500)
    assert made.turn(0.1)[0] == b""


def test_it_is_repeated_ever_more_seldom_and_by_one_number() -> None:
    made = shadow({"interval_ms": 500})
    asked(made, interval_ms=1000)
    moments, commands = [], []
    for now in range(3000):
        data, wake = made.turn(float(now))
        assert now < wake <= now + LONGEST_PATIENCE
        if data:
            moments.append(now)
            commands.append(sent(data))
    assert moments[:5] == [0, 2, 6, 14, 30]
    assert len(moments) <= 18
    assert commands == [(43, {"interval_ms": 500})] * len(moments)
    # The device is back: it is told at once.
    made.began()
    assert made.turn(3000.0)[0]


def test_another_wish_is_told_at_once() -> None:
    made = shadow({"interval_ms": 500})
    asked(made, interval_ms=1000)
    made.turn(0.0)
    made.want({"interval_ms": 600}, AT)
    assert sent(made.turn(0.1)[0]) == (44, {"interval_ms": 600})
    # The answer to the first one comes late: it says how the device was set, and confirms nothing.
    late = Report({"interval_ms": 500}, {"interval_ms": "too short"}, 43, complete=True)
    made.hear(late, 0.2, AT)
    assert made.states() == {"interval_ms": "pending"}
    made.hear(Report({"interval_ms": 600}, answers=44, complete=True), 0.3, AT)
    assert made.states() == {"interval_ms": "confirmed"}
    made.hear(Report({"interval_ms": 600}, answers=44, complete=True), 0.4, AT)  # once more
    assert made.turn(9.0)[0] == b""


def test_a_refusal_is_kept_until_something_changes() -> None:
    made = shadow({"interval_ms": 0})
    asked(made, interval_ms=1000)
    number, _ = sent(made.turn(0.1)[0])
    answer = {"interval_ms": "10 to 86400000"}
    made.hear(Report({"interval_ms": 1000}, answer, number, complete=True), 0.2, AT)
    assert made.states() == {"interval_ms": "refused"}
    assert made.refused == {"interval_ms": Refusal("10 to 86400000", AT, 0)}
    assert made.turn(1000.0)[0] == b""
    made.want({"interval_ms": 20}, LATER)
    assert made.refused == {}
    assert sent(made.turn(1000.0)[0])[1] == {"interval_ms": 20}


def test_after_the_device_has_started_it_is_told_again_what_it_refused() -> None:
    made = shadow({"interval_ms": 0})
    asked(made, interval_ms=1000)
    number, _ = sent(made.turn(0.1)[0])
    made.hear(Report({"interval_ms": 1000}, {"interval_ms": "too short"}, number), 0.2, AT)
    made.began()
    number, settings = sent(made.turn(3.0)[0])
    assert settings == {}
    made.hear(Report({"interval_ms": 1000}, answers=number, complete=True), 3.1, AT)
    assert made.states() == {"interval_ms": "refused"}  # until the device says something else
    number, settings = sent(made.turn(3.2)[0])
    made.hear(Report({"interval_ms": 0}, answers=number, complete=True), 3.3, AT)
    assert made.states() == {"interval_ms": "confirmed"}


def test_after_a_restart_a_refusal_is_tried_again_and_keeps_its_time() -> None:
    made = shadow({"interval_ms": 0})
    refused = {"interval_ms": Refusal("too short", AT, 0)}
    made.restore({"interval_ms": 1000}, refused)
    asked(made, interval_ms=1000)
    number, _ = sent(made.turn(0.1)[0])
    made.hear(Report({"interval_ms": 1000}, {"interval_ms": "too short"}, number), 0.2, LATER)
    assert made.refused == refused


@pytest.mark.parametrize("complete", [True, False])
def test_what_was_heard_before_the_document_was_read_counts(complete: bool) -> None:
    made = Shadow(JsonLines())
    made.began()
    made.hear(Report({"interval_ms": 1000}, complete=complete), 0.0, AT)
    made.restore({"interval_ms": 500, "mode": "eco"}, {})
    made.want({"interval_ms": 500}, AT)
    assert made.states() == {"interval_ms": "pending"}
    assert ("mode" in made.reported) is not complete


def test_what_the_device_makes_of_it_is_told_as_it_is() -> None:
    made = shadow({"interval_ms": 7})
    asked(made, interval_ms=1000)
    number, _ = sent(made.turn(0.1)[0])
    made.hear(Report({"interval_ms": 10}, answers=number, complete=True), 0.2, AT)
    assert made.reported == {"interval_ms": 10}
    assert made.refused["interval_ms"].reason == "the device has set 10 instead"
    # It comes round after all.
    made.hear(Report({"interval_ms": 7}, complete=True), 0.3, AT)
    assert made.states() == {"interval_ms": "confirmed"}


def test_a_setting_that_the_device_does_not_have() -> None:
    made = shadow({"colour": "red", "interval_ms": 500})
    asked(made, interval_ms=1000)
    number, settings = sent(made.turn(0.1)[0])
    assert settings == {"colour": "red", "interval_ms": 500}
    made.hear(Report({"interval_ms": 500}, answers=number, complete=True), 0.2, AT)
    assert made.states() == {"colour": "refused", "interval_ms": "confirmed"}
    assert made.refused["colour"].reason == "the device does not have this setting"


def test_a_device_that_loses_what_it_took_is_not_flooded() -> None:
    made = shadow({"interval_ms": 500})
    asked(made, interval_ms=1000)
    commands = 0
    for step in range(6000):  # ten minutes, a report each tenth of a second
        data, _ = made.turn(step / 10)
        if data:
            commands += 1
            number, settings = sent(data)
            made.hear(Report(settings, answers=number, complete=True), step / 10, AT)
        else:
            made.hear(Report({"interval_ms": 1000}, complete=True), step / 10, AT)
    assert 3 <= commands <= 10


def test_a_device_that_starts_all_the_time_is_not_flooded() -> None:
    made = shadow({"interval_ms": 500})
    commands = 0
    for step in range(600):  # a minute, with another boot id ten times a second
        made.began()
        commands += bool(made.turn(step / 10)[0])
    assert 20 <= commands <= 31


def test_one_by_one_when_there_is_no_answer_to_all_together() -> None:
    """A device whose buffer holds one setting gets them all."""
    device: dict[str, Value] = {"a": 0, "b": 0, "c": 0}
    made = shadow({"a": 1, "b": 2, "c": 3})
    asked(made, **device)
    now = 0.0
    while device != made.desired:
        data, now = made.turn(now)
        if data and len(sent(data)[1]) == 1:
            number, settings = sent(data)
            device |= settings
            made.hear(Report(dict(device), answers=number, complete=True), now, AT)
        assert now < 300


# --- what cannot be desired ------------------------------------------------------------


@pytest.mark.parametrize(
    ("desired", "name", "reason"),
    [
        ([1], ALL, "no object"),
        ("fast", ALL, "no object"),
        ({f"s{n}": n for n in range(MOST_SETTINGS + 1)}, ALL, "at most 64"),
        ({"interval_ms": None}, "interval_ms", "a number, text, true or false"),
        ({"interval_ms": {"ms": 500}}, "interval_ms", "a number, text, true or false"),
        ({"interval_ms": 2**63}, "interval_ms", "64 bits"),
        ({"": 1}, "", "1 to 64 printable"),
        ({"x" * 65: 1}, "x" * 64, "1 to 64 printable"),
        ({"a\nb": 1}, "a\nb", "1 to 64 printable"),
        ({"text": "x" * 1000}, "text", "256 are allowed"),
    ],
)
def test_what_is_refused_without_asking_the_device(desired: Any, name: str, reason: str) -> None:
    made = Shadow(CborFrames())
    made.began()
    made.want(desired, AT)
    assert made.states() == {name: "refused"}
    assert reason in made.refused[name].reason
    assert len(msgspec.json.encode(made.refused)) < 1000
    assert made.turn(0.0)[0] == b""


def test_the_good_ones_of_a_bad_lot_are_told() -> None:
    made = shadow({"interval_ms": 500, "nested": []})
    asked(made, interval_ms=1000)
    assert sent(made.turn(0.1)[0])[1] == {"interval_ms": 500}
    made.want({"interval_ms": 500}, AT)
    assert made.states() == {"interval_ms": "pending"}


def test_a_device_that_takes_none() -> None:
    made = Shadow(None, why_not="it cannot")
    made.began()
    made.want({"interval_ms": 500}, AT)
    assert made.refused == {"interval_ms": Refusal("it cannot", AT, 500)}
    assert made.turn(0.0) == (b"", float("inf"))
    made.want({}, AT)
    assert made.refused == {}


def test_more_than_a_frame_holds_is_told_in_several() -> None:
    desired: dict[str, Value] = {f"name{n}": "x" * 50 for n in range(10)}
    device: dict[str, Value] = dict.fromkeys(desired, "")
    adapter = CborFrames()
    made = Shadow(adapter)
    made.want(desired, AT)
    made.began()
    made.turn(0.0)
    made.hear(Report(device, complete=True), 0.0, AT)
    commands = 0
    while device != desired:
        data, _ = made.turn(0.0)
        assert 0 < len(data) <= 258
        _, told = decoded(data)
        device |= told
        commands += 1
        made.hear(Report(dict(device), answers=commands + 1, complete=True), 0.0, AT)
    assert 3 <= commands <= 10


def decoded(data: bytes) -> tuple[int, dict[str, Value]]:
    import cbor2
    from cobs import cobs  # type: ignore[import-untyped]

    command = cbor2.loads(cobs.decode(data.strip(b"\0"))[:-2])
    return command["n"], command["set"]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (500, 500.0, True),
        (21.53, 21.530000686645508, True),  # the same as 32-bit floats
        (21.53, 21.54, False),
        (16_777_217, 16_777_216, False),  # integers are exact
        (1, True, False),
        (0, False, False),
        (True, True, True),
        ("1", 1, False),
        (1e300, 1e300, True),
        (1e300, 2e300, False),
        (1, None, False),
    ],
)
def test_when_a_device_is_set_as_desired(one: object, other: object, expected: bool) -> None:
    assert same(one, other) is expected
    assert same(other, one) is expected


def test_true_is_another_wish_than_1() -> None:
    made = shadow({"on": 1})
    asked(made, on=False)
    made.want({"on": True}, AT)
    assert sent(made.turn(0.1)[0])[1] == {"on": True}


# --- any course of events --------------------------------------------------------------

NAMES = st.sampled_from(["a", "b", "gone"])
VALUES = st.integers(-3, 12) | st.booleans() | st.just("text")


class Device:
    """Takes integers from 0 to 9 as `a` and `b`; more than 9 are 9 to `b`. Settings are in RAM."""

    def __init__(self) -> None:
        self.settings: dict[str, Value] = {"a": 1, "b": 1}

    def obey(self, data: bytes) -> bytes:
        number, settings = sent(data)
        refused = {}
        for name in settings.keys() & self.settings.keys():
            value = settings[name]
            if type(value) is int and 0 <= value <= 9:
                self.settings[name] = value
            elif type(value) is int and value > 9 and name == "b":
                self.settings[name] = 9
            else:
                refused[name] = "0 to 9"
        answer = {"answers": number, "settings": self.settings, "refused_settings": refused}
        return msgspec.json.encode(answer) + b"\n"


class Course(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.device = Device()
        self.now = 0.0
        self.number = 0
        self.desired: dict[str, Any] = {}
        self.on_its_way: list[bytes] = []
        self.shadow = Shadow(JsonLines())
        self.start()

    def start(self) -> None:
        self.number += 1000
        before = self.shadow
        self.shadow = Shadow(JsonLines(), number=self.number)
        # What is in the document, in the form that it has there.
        refused = msgspec.convert(msgspec.to_builtins(before.refused), dict[str, Refusal])
        self.shadow.restore(before.reported, refused)
        self.shadow.want(self.desired, AT)
        self.shadow.began()

    def hear(self, line: bytes) -> None:
        [item] = JsonLines().receive(b"\n" + line)
        assert isinstance(item, Event)
        assert item.report is not None
        self.shadow.hear(item.report, self.now, AT)

    @rule(name=NAMES, value=VALUES)
    def desire(self, name: str, value: Value) -> None:
        self.desired = {**self.desired, name: value}
        self.shadow.want(self.desired, AT)

    @rule(name=NAMES)
    def desire_no_more(self, name: str) -> None:
        self.desired = {key: value for key, value in self.desired.items() if key != name}
        self.shadow.want(self.desired, AT)

    @rule(seconds=st.sampled_from([0.0, 0.1, 1.0, 5.0, 100.0]), arrives=st.booleans())
    def send(self, seconds: float, arrives: bool) -> None:
        self.now += seconds
        data, _ = self.shadow.turn(self.now)
        if data and arrives:
            self.on_its_way.append(self.device.obey(data))

    @precondition(lambda self: self.on_its_way)
    @rule(lost=st.booleans(), again=st.booleans())
    def answer(self, lost: bool, again: bool) -> None:
        line = self.on_its_way.pop(0)
        if not lost:
            self.hear(line)
        if again:
            self.on_its_way.append(line)

    @rule(noticed=st.booleans())
    def restart_device(self, noticed: bool) -> None:
        self.device = Device()
        if noticed:
            self.shadow.began()

    @rule()
    def restart_agent(self) -> None:
        self.start()

    @invariant()
    def every_wish_has_a_state(self) -> None:
        states = self.shadow.states()
        assert states.keys() == self.desired.keys()
        for name, state in states.items():
            assert (state == "refused") == (name in self.shadow.refused)
            if state == "confirmed":
                assert same(self.desired[name], self.shadow.reported[name])

    def teardown(self) -> None:
        """On a good line everything is settled after one more opening, with few commands."""
        self.shadow.began()
        commands = 0
        for _ in range(200):
            data, wake = self.shadow.turn(self.now)
            if data:
                commands += 1
                self.hear(self.device.obey(data))
            elif wake == float("inf"):
                break
            else:
                self.now = wake
        assert commands <= 2
        assert not self.desired or self.shadow.reported == self.device.settings
        for name, value in self.desired.items():
            good = name != "gone" and type(value) is int and 0 <= value <= 9
            assert self.shadow.states()[name] == ("confirmed" if good else "refused")
            if good:
                assert self.device.settings[name] == value


Course.TestCase.settings = hypothesis.settings(max_examples=150, stateful_step_count=30)
TestCourse = Course.TestCase
