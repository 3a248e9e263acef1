"""Delays are spread over the whole range, and the range grows up to the cap."""

from __future__ import annotations

import random

import pytest

from agent.backoff import Backoff, permanent_backoff, transient_backoff


class Highest(random.Random):
    def uniform(self, a: float, b: float) -> float:
        assert a == 0
        return b


def test_the_range_doubles_up_to_the_cap() -> None:
    backoff = Backoff(0.5, 3, Highest())
    assert [backoff.next_delay() for _ in range(5)] == [0.5, 1, 2, 3, 3]
    backoff.reset()
    assert backoff.next_delay() == 0.5


def test_the_jitter_is_full() -> None:
    backoff = Backoff(1, 1, random.Random(1))
    delays = [backoff.next_delay() for _ in range(1000)]
    assert min(delays) < 0.01
    assert max(delays) > 0.99
    assert sum(delays) / 1000 == pytest.approx(0.5, abs=0.05)


def test_a_long_outage_does_not_overflow() -> None:
    backoff = Backoff(1, 300)
    assert all(0 <= backoff.next_delay() <= 300 for _ in range(5000))


@pytest.mark.parametrize(("base", "cap"), [(0, 1), (-1, 1), (2, 1)])
def test_ranges_that_make_no_sense(base: float, cap: float) -> None:
    with pytest.raises(ValueError, match="base must be"):
        Backoff(base, cap)


def waits(backoff: Backoff, count: int) -> list[float]:
    return [backoff.next_delay() for _ in range(count)]


def test_what_is_waited_for_after_either_kind_of_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.backoff.random.Random.uniform", lambda _, low, high: high)
    assert waits(transient_backoff(), 9) == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert waits(permanent_backoff(60), 4) == [60, 120, 240, 300]
    assert waits(permanent_backoff(60, base=5), 2) == [5, 10]


def test_a_cap_bounds_the_first_wait_and_a_high_one_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.backoff.random.Random.uniform", lambda _, low, high: high)
    assert waits(transient_backoff(0.1), 2) == [0.1, 0.1]
    assert waits(permanent_backoff(0.1), 2) == [0.1, 0.2]
    assert waits(permanent_backoff(600), 5) == [60, 120, 240, 480, 600]
