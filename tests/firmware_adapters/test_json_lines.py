"""JSON lines: both forms, what is refused, and damage on the wire."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_adapters import Event, JsonLines, Reading, Report
from firmware_adapters.adapter import Held, Value
from firmware_adapters.json_lines import MAX_LINE
from tests.firmware_adapters.damage import Damage, damages, pieces

DOCUMENTATION = Path(__file__).parents[2] / "docs" / "firmware.md"

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)
HEADER = ["seq", "boot", "time", "uptime_ms", "units", "log"]
MEMBERS = st.sampled_from(
    [*HEADER, "sensor", "settings", "refused_settings", "answers", "a", "b"],
)
OBJECTS = st.dictionaries(MEMBERS, JSON)


def receive(*lines: str) -> list[Reading | Event]:
    return JsonLines().receive(b"\n" + b"".join(line.encode() + b"\n" for line in lines))


def only_event(line: str) -> Event:
    (item,) = receive(line)
    assert isinstance(item, Event)
    return item


def test_one_sensor_a_line() -> None:
    line = (
        '{"sensor":"t","value":1.5,"unit":"C","seq":1,"boot":7,'
        '"time":"2025-01-02T03:04:05.678Z","uptime_ms":99,"colour":"red"}'
    )
    assert receive(line) == [Reading("t", 1.5, "C", "2025-01-02T03:04:05.678Z", 1, 7, 99)]


def test_a_line_that_wants_to_be_acknowledged() -> None:
    line = '{"t":1,"seq":7,"boot":"x","age_ms":250,"ack_from":5,"ack_dropped":2}'
    (reading,) = receive(line)
    assert reading == Reading("t", 1, sequence=7, boot="x", age_ms=250, held=Held(5, 2))


def test_several_sensors_a_line() -> None:
    line = (
        '{"temperature":21.5,"humidity":40,"open":false,"mode":"eco","seq":4294967295,"boot":"x",'
        '"units":{"temperature":"C","unknown":"m"},"uptime_ms":5}'
    )
    shared: Any = {"sequence": 4294967295, "boot": "x", "uptime_ms": 5}
    assert receive(line) == [
        Reading("temperature", 21.5, "C", **shared),
        Reading("humidity", 40, **shared),
        Reading("open", False, **shared),
        Reading("mode", "eco", **shared),
    ]


def test_the_examples_in_the_documentation() -> None:
    text = DOCUMENTATION.read_text().partition("\n## JSON lines\n")[2]
    several, one, command = re.findall(r"^    (\{.*\})$", text, re.MULTILINE)
    assert receive(several, one) == [
        Reading("temperature", 21.5, "C", sequence=7, boot=1234),
        Reading("humidity", 40, sequence=7, boot=1234),
        Reading("temperature", 21.5, "C", "2025-01-02T03:04:05.678Z", sequence=8),
    ]
    assert JsonLines().encode({"interval_ms": 500}) == command.encode() + b"\n"


def test_line_ends_and_empty_lines() -> None:
    assert receive(' {"a":1}\r', "", "\r", '\t{"a":2}') == [Reading("a", 1), Reading("a", 2)]


def test_logs_and_heartbeats() -> None:
    assert receive('{"log":"up\\u001b[31m","seq":1}', '{"seq":2}', "{}") == [
        Event("log", "up\N{REPLACEMENT CHARACTER}[31m", sequence=1),
        Event("heartbeat", "a frame without readings", sequence=2),
        Event("heartbeat", "a frame without readings"),
    ]


@pytest.mark.parametrize(
    ("given_time", "kept"),
    [
        ("2025-01-02T03:04:05Z", "2025-01-02T03:04:05Z"),
        ("2025-01-02T03:04:05.123456789Z", "2025-01-02T03:04:05.123456789Z"),
        ("2025-01-02T03:04:05+00:00", "2025-01-02T03:04:05Z"),
        ("2025-01-02T03:04:05+01:00", None),
        ("2025-01-02T03:04:05", None),
        ("2025-01-02 03:04:05Z", None),
        ("2025-02-30T03:04:05Z", None),
        ("2025-01-02T25:04:05Z", None),
        ("٢٠٢٥-01-02T03:04:05Z", None),
        ("2025-01-02T03:04:05Z\n", None),
        (1735786500, None),
    ],
)
def test_times(given_time: object, kept: str | None) -> None:
    items = receive(json.dumps({"a": 1, "time": given_time}))
    assert items[-1] == Reading("a", 1, time=kept)
    assert [item.kind for item in items[:-1] if isinstance(item, Event)] == (
        [] if kept else ["malformed"]
    )


def test_one_bad_value_costs_only_itself() -> None:
    line = '{"a":1,"b":null,"c":1e999,"d":{"e":1},"f":"\\ud800","":1,"g":9223372036854775808,"h":2}'
    items = receive(line)
    assert [item.sensor for item in items if isinstance(item, Reading)] == ["a", "h"]
    kinds = [item.kind for item in items if isinstance(item, Event)]
    assert kinds == ["no-value"] + ["malformed"] * 5


@pytest.mark.parametrize(
    "line",
    [
        "Booting...",
        "5",
        "[]",
        "null",
        '{"a":NaN}',
        '{"a":Infinity}',
        '{"a":1,"a":2}',
        '{"a":1}{"b":2}',
        '{"a":1',
        "{'a':1}",
        '{"a":1,"seq":-1}',
        '{"a":1,"seq":4294967296}',
        '{"a":1,"seq":"1"}',
        '{"a":1,"boot":1.5}',
        '{"a":1,"units":["C"]}',
        '{"sensor":1,"value":1}',
        '{"log":1}',
        "[" * 4000,
        '{"a":' * 600 + "1" + "}" * 600,
        json.dumps({f"s{n}": n for n in range(65)}),
    ],
)
def test_malformed_lines(line: str) -> None:
    assert only_event(line).kind == "malformed"


def test_bytes_that_are_not_text_are_noise() -> None:
    assert JsonLines().receive(b'\n{"a":"\xff"}\n') == [
        Event("noise", "a line that is not UTF-8", size=9)
    ]


def test_a_tail_that_the_decoder_refuses_for_its_contents_is_a_cut_line_too() -> None:
    (event,) = JsonLines().receive(b'{"a":NaN,"b":1}}\n')
    assert isinstance(event, Event)
    assert event.kind == "cut-frame"


@given(OBJECTS, st.data())
def test_the_tail_of_a_line_is_never_taken_for_a_line(
    message: dict[str, Any], data: st.DataObject
) -> None:
    line = json.dumps(message).encode() + b"\n"
    tail = line[data.draw(st.integers(1, len(line))) :]
    adapter = JsonLines()
    items = adapter.receive(tail)
    assert not [item for item in items if isinstance(item, Reading)]
    assert {item.kind for item in items if isinstance(item, Event)} <= {"cut-frame", "too-long"}
    assert adapter.receive(b'{"a":1}\n') == [Reading("a", 1)]


def test_after_a_reset_the_first_line_may_be_cut_again() -> None:
    adapter = JsonLines()
    assert adapter.receive(b'{"a":1}\n{"b"') == [Reading("a", 1)]
    adapter.reset()
    (first, second) = adapter.receive(b':2}\n{"c":3}\n')
    assert isinstance(first, Event)
    assert first.kind == "cut-frame"
    assert second == Reading("c", 3)


@pytest.mark.parametrize("excess", [0, 1])
def test_the_longest_line(excess: int) -> None:
    line = '{"a":1,"b":"' + "x" * (MAX_LINE - 14 + excess) + '"}'
    assert len(line) == MAX_LINE + excess
    items = receive(line, '{"c":1}')
    assert items[-1] == Reading("c", 1)
    kinds = [item.kind for item in items if isinstance(item, Event)]
    assert kinds == (["too-long", "too-long"] if excess else [])


@given(st.lists(OBJECTS, min_size=1, max_size=4), damages(), st.data())
def test_damage_raises_nothing_and_spoils_only_what_it_touches(
    messages: list[dict[str, Any]], damage: Damage, data: st.DataObject
) -> None:
    stream = damage(b"".join(json.dumps(message).encode() + b"\n" for message in messages))
    adapter = JsonLines()
    items = [item for piece in pieces(data, stream) for item in adapter.receive(piece)]
    assert items == JsonLines().receive(stream)
    # Once a line feed has come through, whatever went before is over and done with.
    adapter.receive(b"\n")
    assert adapter.receive(b'{"seq":5,"a":1}\n') == [Reading("a", 1, sequence=5)]


@given(st.binary(max_size=10_000), st.data())
def test_pieces_make_no_difference(stream: bytes, data: st.DataObject) -> None:
    at_once = JsonLines().receive(stream)
    adapter = JsonLines()
    assert [item for piece in pieces(data, stream) for item in adapter.receive(piece)] == at_once


def test_settings() -> None:
    text = DOCUMENTATION.read_text().partition("\n## Settings\n")[2].partition("\n## Versions\n")[0]
    command, answer = re.findall(r"^    (\{.*?\})\n\n", text, re.MULTILINE | re.DOTALL)
    settings: dict[str, Value] = {"interval_ms": 0, "colour": "red"}
    assert json.loads(JsonLines().command(17, settings)) == json.loads(command)
    event = only_event(" ".join(answer.split()))
    assert (event.kind, event.boot) == ("settings", 1234)
    reason = {"interval_ms": "10 to 86400000"}
    assert event.report == Report({"interval_ms": 1000}, reason, 17, complete=True)
    # They are no sensors, in neither form.
    assert receive('{"settings":{"a":1},"b":2}')[1:] == [Reading("b", 2)]
    assert receive('{"settings":{"a":1},"sensor":"b","value":2}')[1:] == [Reading("b", 2)]
    assert only_event('{"settings":5,"b":2}').kind == "malformed"
    with pytest.raises(ValueError, match="4096 are allowed"):
        JsonLines().check({"a": "x" * 4090})


def test_commands() -> None:
    command = {"setpoint": 21.5, "name": "Küche\n", "on": True, "list": [1, None]}
    encoded = JsonLines().encode(command)
    assert encoded.endswith(b"\n")
    assert encoded.count(b"\n") == 1
    assert encoded.isascii()
    assert json.loads(encoded) == command


@pytest.mark.parametrize(
    "command",
    [{"a": float("inf")}, {"a": object()}, {1: 2}, {"a": [[[[1]]]]}, {"a": "x" * MAX_LINE}],
)
def test_commands_that_cannot_be_sent(command: dict[Any, Any]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        JsonLines().encode(command)
