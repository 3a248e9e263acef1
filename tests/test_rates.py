"""Rates and passages, with a clock of the test's own."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.rates import Passages, Rates


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_rate_is_that_of_the_last_minute() -> None:
    clock, counters = Clock(), {"a": 5.0}
    rates = Rates(lambda: counters, clock)
    assert rates.now() == {"a": 0}
    for _ in range(100):
        clock.now += 5
        counters["a"] += 10
        rates.sample()
    assert rates.now() == {"a": pytest.approx(2)}
    clock.now += 5
    counters["a"] += 130
    assert rates.now() == {"a": pytest.approx(250 / 65)}
    for _ in range(13):
        clock.now += 5
        rates.sample()
    assert rates.now() == {"a": 0}


def test_a_counter_that_comes_later_counts_from_zero() -> None:
    clock = Clock()
    counters = {"a": 5.0}
    rates = Rates(lambda: counters, clock)
    clock.now += 10
    counters["b"] = 20
    assert rates.now() == {"a": 0, "b": 2}


async def test_samples_are_taken_until_it_is_cancelled() -> None:
    rates = Rates(lambda: {"a": 1})
    sampled = asyncio.Event()
    task = asyncio.create_task(rates.run(sampled.set))
    await sampled.wait()
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()


def test_when_a_number_was_passed() -> None:
    clock = Clock()
    passages = Passages(clock)
    assert passages.since(0) is None
    passages.note(10)  # at the start; it may have been so for long
    assert passages.since(5) is None
    clock.now = 2000
    passages.note(10)
    passages.note(20)
    clock.now = 3000
    passages.note(30)
    assert passages.since(10) == passages.since(19) == 2000
    assert passages.since(20) == passages.since(29) == 3000
    assert passages.since(30) is None


@given(st.lists(st.integers(1, 50), min_size=1, max_size=2000), st.integers(0, 2000))
def test_old_passages_are_known_less_exactly(steps: list[int], ago: int) -> None:
    clock = Clock()
    passages = Passages(clock)
    number = 0
    known = []
    for step in steps:
        passages.note(number)
        known.append((number, clock.now))
        number += step
        clock.now += 5
    number, at = known[-1 - min(ago, len(known) - 1)]
    passed = passages.since(number - 1)
    assert len(passages._numbers) <= 256
    if passed is None:
        assert number <= known[0][0]
    else:
        assert at <= passed
        # Not off by more than a part of the age, besides the samples' distance.
        assert passed - at <= 0.6 * (clock.now - at) + 5
