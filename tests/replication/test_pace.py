"""When checkpoints are written, by a clock that only the test moves."""

from __future__ import annotations

import contextlib

import pytest

from agent.errors import ConnectError
from agent.replication.pace import Pace
from tests.rig.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("agent.replication.pace.time", made)
    return made


def waits(clock: Clock, pace: Pace, count: int, *, taking: float = 0.0) -> list[float]:
    """The seconds before each of the next checkpoints, which take so long themselves."""
    waited = []
    for _ in range(count):
        waited.append(pace.due())
        clock.now += waited[-1]
        with pace.writing():
            clock.now += taking
    return waited


def test_the_first_ones_come_soon_in_every_run(clock: Clock) -> None:
    pace = Pace(5.0)
    for _ in range(2):
        pace.begin()
        assert waits(clock, pace, 6) == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


def test_none_is_later_than_the_interval(clock: Clock) -> None:
    pace = Pace(0.2)
    pace.begin()
    assert waits(clock, pace, 2) == pytest.approx([0.2, 0.2])


def test_what_takes_long_leaves_nine_tenths_of_the_time(clock: Clock) -> None:
    pace = Pace(10.0)
    pace.begin()
    assert waits(clock, pace, 3, taking=4.0) == [0.5, 36.0, 36.0]
    # But for a line that was dead meanwhile.
    assert waits(clock, pace, 2, taking=3600.0) == [36.0, 600.0]


def test_one_that_fails_is_due_again_after_the_interval(clock: Clock) -> None:
    pace = Pace(10.0)
    pace.begin()
    clock.now += 0.5
    with contextlib.suppress(ConnectError), pace.writing():
        clock.now += 0.25
        raise ConnectError("gone")
    assert pace.due() == 0.75


def test_it_is_due_until_it_is_written(clock: Clock) -> None:
    pace = Pace(10.0)
    pace.begin()
    clock.now += 60.0
    assert pace.due() == 0
    with pace.writing():
        pass
    assert pace.due() == 1.0
