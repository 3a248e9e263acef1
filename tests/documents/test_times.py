"""Times as texts and as numbers: nothing is lost on the way, and texts sort as times do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.documents.times import microseconds, millisecond_timestamp, timestamp

_YEAR_1 = -62_135_596_800_000_000
_YEAR_10000 = 253_402_300_800_000_000

times = st.integers(_YEAR_1, _YEAR_10000 - 1)


@given(times)
def test_there_and_back(at: int) -> None:
    assert microseconds(timestamp(at)) == at


@given(times, times)
def test_texts_sort_as_times(one: int, other: int) -> None:
    assert (timestamp(one) < timestamp(other)) == (one < other)


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.5Z", 500_000),
        ("1970-01-01T00:00:00.123456789Z", 123_456),
        ("1970-01-01T02:00:01+02:00", 1_000_000),
        ("1969-12-31T23:59:59.999999Z", -1),
    ],
)
def test_what_is_read(text: str, at: int) -> None:
    assert microseconds(text) == at


@pytest.mark.parametrize("text", ["", "now", "1970-01-01T00:00:00", "1970-02-30T00:00:00Z"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(ValueError, match=r"time zone|isoformat|day is out of range"):
        microseconds(text)


@pytest.mark.parametrize("at", [_YEAR_1 - 1, _YEAR_10000, 10**30])
def test_what_no_calendar_has(at: int) -> None:
    with pytest.raises(OverflowError):
        timestamp(at)


def test_how_times_are_written() -> None:
    assert timestamp(-1) == "1969-12-31T23:59:59.999999Z"
    assert timestamp(_YEAR_1) == "0001-01-01T00:00:00.000000Z"
    assert millisecond_timestamp(1_700_000_000.25) == "2023-11-14T22:13:20.250Z"
