"""Whose turn it is: rhythm, time-outs, rests, and fairness."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_adapters import Event
from firmware_adapters.polling import LONGEST_REST, Question, Rota

A = Question("a", b"A", 1.0)
B = Question("b", b"B", 1.0)


def rota(*questions: Question) -> Rota:
    made = Rota(questions, timeout=0.5, pause=0.1)
    made.reset()
    return made


def test_one_question_at_a_time_with_pauses_in_between() -> None:
    line = rota(A, B)
    first = line.turn(10.0)
    assert (first.send, first.events, first.wake) == (b"A", [], 10.5)
    assert line.turn(10.2).send == b""
    line.answered()
    waiting = line.turn(10.3)
    assert (waiting.send, waiting.wake) == (b"", 10.3 + 0.1)
    assert line.turn(waiting.wake).send == b"B"
    line.answered()
    assert line.turn(10.5).wake == 10.5 + 0.1
    idle = line.turn(10.7)
    assert (idle.send, idle.wake) == (b"", 11.0)
    assert line.turn(11.0).send == b"A"


def test_the_rhythm_is_kept_and_turns_that_were_missed_are_left_out() -> None:
    line = rota(A)
    for asked, following in ((0.0, 1.0), (1.3, 2.0), (2.0, 3.0), (5.2, 6.2), (6.3, 7.2)):
        assert line.turn(asked).send == b"A"
        line.answered()
        line.turn(asked + 0.1)
        assert line.turn(asked + 0.25).wake == pytest.approx(following)


def test_silence_is_an_event_and_then_a_rest_that_grows() -> None:
    line = rota(A)
    now, asked = 0.0, []
    for _ in range(60):
        turn = line.turn(now)
        if turn.send:
            asked.append(now)
        assert [event.kind for event in turn.events] in ([], ["no-answer"])
        now = turn.wake
    rests = [later - earlier for earlier, later in pairwise(asked)]
    assert rests[:3] == [1.5, 2.5, 4.5]
    assert max(rests) == LONGEST_REST + 0.5
    line.answered()
    line.turn(now)
    assert line.turn(now + 0.1).wake < now + 1.1


def test_bytes_that_are_no_answer_are_told_and_bring_no_rest() -> None:
    line = rota(A)
    line.turn(0.0)
    heard = Event("bad-crc", "damaged", 7)
    assert line.turn(0.2, heard).events == []
    assert line.turn(0.5, heard).events == [heard]
    assert line.turn(0.6).wake == 1.0


def test_a_follow_up_comes_before_the_others() -> None:
    line = rota(A, B)
    line.turn(0.0)
    line.answered(b"more")
    line.turn(0.1)
    assert line.turn(0.2).send == b"more"
    assert line.current is A
    line.answered()
    line.turn(0.3)
    assert line.turn(0.4).send == b"B"


def test_an_answer_to_nothing_changes_nothing() -> None:
    line = rota(A)
    line.answered()
    assert line.turn(5.0).send == b"A"


def test_reset_asks_anew() -> None:
    line = rota(A, B)
    line.turn(0.0)
    line.reset()
    assert line.current is None
    assert line.turn(0.01).send == b"A"


@given(
    st.lists(st.sampled_from([0.5, 1.0, 3.0]), min_size=2, max_size=6),
    st.sets(st.integers(0, 5)),
    st.integers(0, 2**16),
)
def test_nobody_is_forgotten_and_the_silent_hold_up_nobody(
    intervals: list[float], silent: set[int], delays: int
) -> None:
    questions = [Question(str(n), b"%d" % n, every) for n, every in enumerate(intervals)]
    line = rota(*questions)
    now, asked, spent = 0.0, Counter[str](), 0.0
    while now < 200:
        turn = line.turn(now)
        assert turn.wake >= now
        now = turn.wake
        if turn.send:
            number = int(turn.send)
            asked[str(number)] += 1
            if number not in silent:
                now = turn.wake - 0.5 + (delays >> number & 1) * 0.01 + 0.005
                line.answered()
            else:
                spent += 0.5
    for number, every in enumerate(intervals):
        assert asked[str(number)] > 1
        if number not in silent:
            # Once due, it waits for one answer of each other one at most.
            assert asked[str(number)] > 0.9 * (200 - spent) / (every + 0.13 * len(intervals))
    # A silent one is asked 9 times in these 200 seconds, not 200 times.
    assert spent <= 0.5 * 9 * len(intervals)


def test_what_is_urgent_comes_first_and_once() -> None:
    """A question that is asked once, between two regular ones; it may be withdrawn."""
    regular, urgent, late = (Question(name, name.encode(), 1.0) for name in ("a", "b", "c"))
    line = rota(regular)
    assert line.turn(0.0).send == b"a"
    for question in (urgent, late, urgent):
        line.once(question)
    line.withdraw(late)
    assert (line.is_open(urgent), line.is_open(late)) == (True, False)
    assert line.turn(0.0).send == b""  # one question at a time
    line.answered()
    line.turn(0.0)
    assert line.turn(0.1).send == b"b"
    line.withdraw(urgent)  # too late
    assert line.is_open(urgent)
    line.answered()
    assert not line.is_open(urgent)
    line.turn(0.1)
    assert line.turn(0.2).send == b""
    assert line.turn(1.0).send == b"a"
    line.once(urgent)
    line.reset()
    assert line.turn(1.0).send == b"a"
