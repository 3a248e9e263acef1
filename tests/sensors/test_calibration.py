"""From what a device says to what is meant by it."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.sensors.calibration import Calibrated, Calibration
from agent.store.store import Store
from tests.sensors.recording import documents, line, recording

NUMBERS = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
BOUNDED = st.floats(-1e15, 1e15)
TABLES = st.dictionaries(BOUNDED, BOUNDED, min_size=2, max_size=8).map(
    lambda pairs: tuple(sorted(pairs.items()))
)


def test_scale_and_offset() -> None:
    calibration = Calibration(scale=0.1, offset=-40)
    assert calibration.apply(3) == Calibrated(-39.7, 3)
    assert calibration.apply(400) == Calibrated(0.0, 400)
    assert Calibration(scale=0.1).apply(3).value == 0.3  # not 0.30000000000000004


def test_a_table_is_interpolated_linearly() -> None:
    calibration = Calibration(table=((0, 10), (10, 20), (20, 0)))
    assert [calibration.apply(told).value for told in (0, 1, 10, 15.0, 20)] == [10, 11, 20, 10, 0]
    assert calibration.apply(-1) == Calibrated(10, -1, "beyond-calibration")
    assert calibration.apply(20.5) == Calibrated(0, 20.5, "beyond-calibration")


def test_the_valid_range_is_that_of_the_calibrated_value() -> None:
    calibration = Calibration(scale=2, valid=(0, 10))
    assert [calibration.apply(told).quality for told in (-1, 0, 5, 5.5)] == [
        "out-of-range",
        None,
        None,
        "out-of-range",
    ]
    assert Calibration(valid=(0, 10)).apply(11) == Calibrated(11, None, "out-of-range")


@pytest.mark.parametrize("told", [True, False, "open", ""])
def test_truth_values_and_texts_stay_as_they_are(told: bool | str) -> None:
    calibration = Calibration(scale=2, offset=1, valid=(5, 6))
    assert calibration.apply(told) == Calibrated(told)


@given(NUMBERS)
def test_without_calibration_numbers_stay_as_they_are(told: float) -> None:
    value, raw, quality = Calibration().apply(told)
    assert (value, type(value), raw, quality) == (told, type(told), None, None)


@given(NUMBERS, BOUNDED, BOUNDED, st.one_of(st.none(), TABLES))
def test_what_comes_of_it_is_always_a_number(
    told: float, scale: float, offset: float, table: tuple[tuple[float, float], ...] | None
) -> None:
    calibration = Calibration(table=table) if table else Calibration(scale, offset)
    value, raw, _ = calibration.apply(told)
    assert isinstance(value, int | float)
    assert math.isfinite(value)
    assert raw in (None, told)


@given(TABLES, NUMBERS)
def test_a_table_yields_what_lies_between_its_neighbours(
    table: tuple[tuple[float, float], ...], told: float
) -> None:
    value, raw, quality = Calibration(table=table).apply(told)
    assert isinstance(value, float)
    assert raw == told
    inside = table[0][0] <= told <= table[-1][0]
    assert (quality is None) == inside
    if inside:
        (low, high) = next(
            sorted((y0, y1)) for (x0, y0), (x1, y1) in pairwise(table) if x0 <= told <= x1
        )
    else:
        low = high = table[0 if told < table[0][0] else -1][1]
    slack = 1e-11 * max(abs(low), abs(high))
    assert low - slack <= value <= high + slack


async def test_what_is_stored_and_shown(store: Store) -> None:
    sensors = [
        {"name": "t", "unit": "Cel", "scale": 0.5, "valid": [0, 50]},
        {"name": "*", "unit": "1"},
    ]
    async with recording(store, sensors=sensors) as recorder:
        await recorder.feed(line(sensor="t", value=43, unit="ADC", seq=1, boot=1))
        await recorder.feed(line(sensor="t", value=102, seq=2, boot=1))
        await recorder.feed(line(sensor="x", value=7, seq=3, boot=1))
    by_sequence = {body["sequence"]: body for body in await documents(store, "reading")}
    shown = {
        number: {key: body.get(key) for key in ("value", "unit", "raw", "quality")}
        for number, body in by_sequence.items()
    }
    assert shown == {
        1: {"value": 21.5, "unit": "Cel", "raw": 43, "quality": None},
        2: {"value": 51, "unit": "Cel", "raw": 102, "quality": "out-of-range"},
        3: {"value": 7, "unit": "1", "raw": None, "quality": None},
    }
    stats = recorder.sensors["t"]
    assert (stats.last_value, stats.unit, stats.last_quality) == (51, "Cel", "out-of-range")
