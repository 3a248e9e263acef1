"""CSV lines: columns, types, ranges, and what damage may and may not do."""

from __future__ import annotations

from functools import reduce
from operator import xor
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_adapters import Adapter, Reading, SettingsError, create
from firmware_adapters.csv_lines import MAX_LINE
from tests.firmware_adapters.damage import Damage, damages
from tests.firmware_adapters.noise import kinds, readings, survive

COLUMNS: list[dict[str, Any]] = [
    {},
    {"name": "temperature", "unit": "C", "min": -40, "max": 85},
    {"name": "count", "type": "integer", "min": 0},
    {"name": "open", "type": "boolean"},
]


def make(**settings: Any) -> Adapter:
    return create("csv-lines", {"column": COLUMNS, **settings})


def checked(line: bytes) -> bytes:
    return b"%s*%02X\r\n" % (line, reduce(xor, line, 0))


def test_a_line() -> None:
    items = make().receive(b"\n17:01, 21.5,0042,on\r\n")
    assert items == [
        Reading("temperature", 21.5, "C"),
        Reading("count", 42),
        Reading("open", True),
    ]


def test_other_dialects() -> None:
    adapter = make(delimiter=";", decimal_comma=True)
    assert readings(adapter.receive(b'\n"a;b";-3,25;7;0\n'))[0] == Reading(
        "temperature", -3.25, "C"
    )
    adapter = make(delimiter=" ")
    assert len(readings(adapter.receive(b"\nx 1e1 1 no\n"))) == 3


def test_an_empty_cell_is_no_value() -> None:
    items = make().receive(b"\n,,5,off\n")
    assert kinds(items) == ["no-value"]
    assert readings(items) == [Reading("count", 5), Reading("open", False)]


@pytest.mark.parametrize(
    "line",
    [
        b"x,21.5,5",
        b"x,21.5,5,on,",
        b"x,85.1,5,on",
        b"x,-41,5,on",
        b"x,21.5,-1,on",
        b"x,21.5,5.0,on",
        b"x,21.5,5,maybe",
        b"x,nan,5,on",
        b"x,inf,5,on",
        b"x,2_1,5,on",
        b"x,0x15,5,on",
        b"x,1e999,5,on",
        b"x,21.5,5" + b"0" * 18 + b",on",
        b'x,"21.5,5,on',
        b"x,21,5,5,on",
        b"\xff,21.5,5,on",
        b"\x07,21.5,5,on",
        "x,٢١,5,on".encode(),
    ],
)
def test_one_wrong_value_costs_the_line(line: bytes) -> None:
    items = make().receive(b"\n" + line + b"\n")
    assert len(items) == 1
    assert kinds(items) in (["malformed"], ["noise"])


def test_the_first_line_after_opening_is_dropped() -> None:
    adapter = make()
    for _ in range(2):
        items = adapter.receive(b"x,1.5,5,on\nx,21.5,5,on\n")
        assert kinds(items) == ["cut-frame"]
        assert readings(items)[0].value == 21.5
        adapter.receive(b"x,2")
        adapter.reset()


def test_a_first_line_with_its_check_value_is_whole() -> None:
    adapter = make(checksum="xor")
    assert len(readings(adapter.receive(checked(b"x,21.5,5,on")))) == 3
    adapter.reset()
    assert kinds(adapter.receive(checked(b"x,21.5,5,on")[2:])) == ["cut-frame"]
    assert kinds(adapter.receive(b"x,21.5,5,on\n")) == ["cut-frame"]
    assert kinds(adapter.receive(checked(b"x,21.5,5,on").replace(b"2", b"3"))) == ["bad-crc"]


LINES = st.builds(
    "x,{:.2f},{},{}".format,
    st.floats(-40, 85),
    st.integers(0, 10_000),
    st.sampled_from(["on", "off"]),
)


@given(st.lists(LINES, min_size=1, max_size=8), damages(), st.data())
def test_with_a_check_value_nothing_comes_that_was_not_sent(
    lines: list[str], damage: Damage, data: st.DataObject
) -> None:
    stream = damage(b"\n" + b"".join(checked(line.encode()) for line in lines))
    sent = set(lines)
    # The check value is weak: what counts is that it was it that was deceived.
    deceived = [
        piece
        for raw in stream.split(b"\n")
        if (piece := raw.strip())[-3:-2] == b"*"
        and checked(piece[:-3]).strip().lower() == piece.lower()
        and piece[:-3].decode("latin-1") not in sent
    ]
    items = survive(lambda: make(checksum="xor"), stream, data, MAX_LINE)
    if not deceived:
        good = readings(make().receive("\n".join(["", *lines, ""]).encode()))
        assert all(reading in good for reading in readings(items))


@given(st.lists(LINES, min_size=1, max_size=8), damages(), st.data())
def test_without_one_all_readings_are_at_least_in_range(
    lines: list[str], damage: Damage, data: st.DataObject
) -> None:
    stream = damage("\n".join(["", *lines, ""]).encode())
    for reading in readings(survive(make, stream, data, MAX_LINE)):
        if reading.sensor == "temperature":
            assert isinstance(reading.value, float | int)
            assert -40 <= reading.value <= 85
        else:
            assert isinstance(reading.value, int)
            assert reading.value >= 0


@given(st.binary(max_size=4 * MAX_LINE), st.data())
def test_anything_may_arrive(stream: bytes, data: st.DataObject) -> None:
    survive(make, stream, data, MAX_LINE)
    survive(lambda: make(checksum="xor"), stream, data, MAX_LINE)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "column"),
        ({"column": []}, "no column has a name"),
        ({"column": [{}, {}]}, "no column has a name"),
        ({"column": [{"name": "a"}, {"name": "a"}]}, "same name"),
        ({"column": [{"name": "a", "min": 2, "max": 1}]}, "min is above max"),
        ({"column": [{"name": "a", "max": float("nan")}]}, "finite"),
        ({"column": [{"name": "a", "type": "text", "min": 1}]}, "of no use"),
        ({"column": [{"name": "a", "kind": "text"}]}, "kind"),
        ({"column": [{"name": "a b"}]}, "name"),
        ({"column": COLUMNS, "decimal_comma": True}, "delimiter"),
        ({"column": COLUMNS, "delimiter": ".."}, "delimiter"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        create("csv-lines", settings)


def test_it_takes_no_commands() -> None:
    with pytest.raises(ValueError, match="no commands"):
        make().encode({"interval": 1})
