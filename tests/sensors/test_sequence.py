"""Sequence numbers: gaps, repeats, late frames, restarts."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.sensors.sequence import SequenceState
from firmware_adapters.adapter import Held


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


def held(state: SequenceState, oldest: int, *numbers: int, boot: int = 1) -> list[int]:
    """As `accepted`, from a device that holds all from `oldest` on."""
    return [n for n in numbers if state.accept(boot, n, {"t": n}, Held(oldest))]


def test_who_does_not_ask_for_it_is_not_acknowledged() -> None:
    state = SequenceState()
    accepted(state, 0, 1, 2)
    assert state.confirmed() is None


def test_all_up_to_the_first_hole_is_confirmed() -> None:
    state = SequenceState()
    assert state.confirmed() is None
    held(state, 0, 0, 1, 2)
    assert state.confirmed() == (2, None)
    held(state, 0, 5, 9)
    assert state.confirmed() == (2, (3, 4))
    held(state, 3, 4)
    assert state.confirmed() == (2, (3, 3))
    held(state, 3, 3)
    assert state.confirmed() == (5, (6, 8))
    held(state, 6, 8, 7, 6)
    assert state.confirmed() == (9, None)


def test_what_the_device_holds_from_before_it_was_heard_is_asked_for() -> None:
    state = SequenceState()
    assert held(state, 37, 40) == [40]
    assert state.confirmed() == (36, (37, 39))
    assert held(state, 37, 37, 38, 39) == [37, 38, 39]
    assert state.confirmed() == (40, None)
    assert (state.lost, state.repeated) == (0, 0)


def test_what_the_device_has_given_up_is_not_waited_for() -> None:
    state = SequenceState()
    held(state, 0, 0, 1)
    state.accept(1, 9, {"t": 9}, Held(5, dropped=3))
    assert state.confirmed() == (4, (5, 8))
    held(state, 5, 5, 6, 7, 8)
    assert state.confirmed() == (9, None)
    assert (state.lost, state.dropped) == (3, 3)
    state.accept(2, 4, {"t": 4}, Held(2, dropped=2))
    assert state.dropped == 5


def test_numbers_of_held_frames_wrap() -> None:
    state = SequenceState()
    top = 2**32 - 1
    held(state, top - 1, top - 1, 1)
    assert state.confirmed() == (top - 1, (top, 0))
    held(state, top, 0)
    assert state.confirmed() == (top - 1, (top, top))
    held(state, top, top)
    assert state.confirmed() == (1, None)


def test_a_boot_goes_on_after_another_without_doubling_anything() -> None:
    """Noise that looks like a frame, or two devices that take turns on a port."""
    state = SequenceState()
    held(state, 0, 0, 1, 3)
    assert held(state, 0, 7, boot=999) == [7]
    assert held(state, 1, 1, 2, 3, 4) == [2, 4]
    assert held(state, 0, 7, 8, boot=999) == [8]
    assert state.confirmed() == (2**32 - 1, (0, 6))
    assert (state.restarts, state.lost) == (1, 0)


def test_no_hole_of_a_device_that_fills_them_is_forgotten() -> None:
    """With many holes, frames beyond count as not having come, until the first are filled."""
    state = SequenceState()
    everything = range(400)
    taken = held(state, 0, *everything[::2])
    assert len(taken) == 65
    assert state.confirmed() == (0, (1, 1))
    for _ in everything:
        number, hole = state.confirmed() or (0, None)
        if hole is None:
            break
        # It sends what is asked for, and then what it sent in the meantime.
        taken += held(state, (number + 1) % 2**32, *range(hole[0], hole[1] + 1), *everything)
    assert sorted(taken) == list(everything)
    assert len(set(taken)) == len(taken)


def test_no_range_from_before_it_was_heard_is_forgotten() -> None:
    state = SequenceState()
    taken = held(state, 0, 1000, *range(998, 0, -2))
    assert len(taken) == 64
    for number in range(1000):
        taken += held(state, number, number)
    assert sorted(taken) == list(range(1001))
    assert state.confirmed() == (1000, None)


@given(st.data())
def test_held_frames_are_accepted_once_in_any_order(data: st.DataObject) -> None:
    """A device that holds its frames and sends what is asked for, on a wire that loses some."""
    state = SequenceState()
    taken: list[int] = []
    oldest = 0
    newest = data.draw(st.integers(0, 200))
    for _ in range(40):
        number = data.draw(st.integers(oldest, newest), label="sent")
        taken += held(state, oldest, number)
        confirmed = state.confirmed()
        assert confirmed is not None
        assert set(range(confirmed[0] + 1 if confirmed[0] != 2**32 - 1 else 0)) <= set(taken)
        if data.draw(st.booleans(), label="acknowledgement arrives"):
            oldest = min((confirmed[0] + 1) % 2**32, newest)
    for number in range(oldest, newest + 1):
        taken += held(state, oldest, number)
    assert sorted(taken) == list(range(newest + 1))
    assert state.confirmed() == (newest, None)
