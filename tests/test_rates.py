"""Rates and passages, with a clock of the test's own."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.rates import Passages, Rates, Uptime


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


def test_a_clock_that_is_set_moves_the_start_and_not_the_uptime() -> None:
    clock, boot = Clock(), Clock()
    uptime = Uptime(clock, boot)
    boot.now += 60
    clock.now += 60.4  # it runs a little wrong
    assert (uptime.seconds, uptime.started) == (60, 1000)
    clock.now += 1.7e9
    assert uptime.seconds == 60
    assert uptime.started == clock.now - 60
    boot.now += 1
    clock.now += 0.9
    assert (uptime.seconds, uptime.started) == (61, pytest.approx(clock.now - 60.9))


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
    assert passages.age(0) is None
    passages.note(10)  # at the start; it may have been so for long
    assert passages.age(5) is None
    clock.now = 2000
    passages.note(10)
    passages.note(20)
    clock.now = 3000
    passages.note(30)
    clock.now = 3500
    assert passages.age(10) == passages.age(19) == 1500
    assert passages.age(20) == passages.age(29) == 500
    assert passages.age(30) is None


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
    told, age = passages.age(number - 1), clock.now - at
    assert len(passages._numbers) <= 256
    if told is None:
        assert number <= known[0][0]
    else:
        assert told <= age
        # Not off by more than a part of the age, besides the samples' distance.
        assert age - told <= 0.6 * age + 5
