"""Sequence numbers: gaps, repeats, late frames, restarts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.sensors.sequence import SequenceState


def accepted(state: SequenceState, *numbers: int, boot: int | None = 1) -> list[int]:
    return [number for number in numbers if state.accept(boot, number, {"t": number})]


def test_in_order_nothing_is_missing() -> None:
    state = SequenceState()
    assert accepted(state, 5, 6, 7) == [5, 6, 7]
    assert (state.gaps, state.lost, state.repeated, state.restarts) == (0, 0, 0, 0)


def test_a_gap_is_counted_and_late_frames_fill_it() -> None:
    state = SequenceState()
    assert accepted(state, 0, 1, 5, 3, 3, 2, 4, 6) == [0, 1, 5, 3, 2, 4, 6]
    assert (state.gaps, state.lost, state.repeated) == (1, 0, 1)
    assert state.missing == []


def test_a_repeat_is_not_accepted() -> None:
    state = SequenceState()
    assert accepted(state, 1, 2, 2, 1, 3) == [1, 2, 3]
    assert state.repeated == 1 + 1


def test_a_new_boot_starts_anew() -> None:
    state = SequenceState()
    accepted(state, 7, 8, boot=1)
    assert accepted(state, 0, 1, boot=2) == [0, 1]
    assert (state.gaps, state.lost, state.restarts) == (0, 0, 1)


def test_without_a_boot_id_nothing_that_might_be_new_is_dropped() -> None:
    state = SequenceState()
    assert state.accept(None, 10, {"t": 1.0}) == {"t"}
    assert state.accept(None, 10, {"t": 1.0}) == set()
    assert state.accept(None, 10, {"t": 2.0}) == {"t"}
    assert state.accept(None, 3, {"t": 2.0}) == {"t"}
    assert (state.repeated, state.restarts, state.gaps) == (1, 2, 0)


def test_a_frame_may_come_in_parts() -> None:
    state = SequenceState()
    assert state.accept(1, 4, {"t": 1}) == {"t"}
    assert state.accept(1, 4, {"h": 2}) == {"h"}
    assert state.accept(1, 4, {"t": 1, "p": 3}) == {"p"}
    assert state.repeated == 1


def test_numbers_wrap() -> None:
    state = SequenceState()
    top = 2**32 - 1
    assert accepted(state, top - 1, top, 0, 3, 1, 2) == [top - 1, top, 0, 3, 1, 2]
    assert (state.gaps, state.lost) == (1, 0)


def test_what_is_kept_of_many_gaps_is_bounded() -> None:
    state = SequenceState()
    accepted(state, *range(0, 2000, 2))
    assert state.lost == 999
    assert len(state.missing) == 64


@given(st.lists(st.integers(0, 40), min_size=1, max_size=120))
def test_each_frame_of_a_boot_is_accepted_once(numbers: list[int]) -> None:
    """Frames lost, repeated and out of order: what came is accepted once, the rest is missing."""
    state = SequenceState()
    taken = accepted(state, *numbers)
    assert len(taken) == len(set(taken))
    first = numbers[0]
    assert set(taken) == set(numbers)
    # Frames from before the first one heard were never known to be missing.
    assert state.lost == len(set(range(first, max(taken) + 1)) - set(taken))
