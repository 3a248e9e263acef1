"""Ranges of documents: where they begin, and what their digests tell apart."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.documents.ranges import (
    COARSEST,
    EVERYTHING,
    FINEST,
    Builder,
    Leaves,
    Range,
    Span,
    coarser,
    different,
    height,
    joined,
    level_for,
    within,
)


def finest(documents: Mapping[str, tuple[str, ...]]) -> list[Range]:
    builder = Builder("")
    for id in sorted(documents):
        builder.add(Leaves(id, documents[id]))
    builder.finish()
    return builder.ranges


def database(count: int) -> dict[str, tuple[str, ...]]:
    return {f"doc-{number:06}": (f"1-{number:032x}",) for number in range(count)}


def found(here: list[Range], there: list[Range], level: int) -> tuple[list[Span], int]:
    """The finest spans that differ, and how many ranges were compared to find them."""
    spans, compared = [EVERYTHING], 0
    for step in range(level, FINEST - 1, -1):
        finer: list[Span] = []
        for span in spans:
            ours, theirs = coarser(within(here, span), step), coarser(within(there, span), step)
            compared += len(ours) + len(theirs)
            finer += different(ours, theirs, span)
        spans = finer
    return spans, compared


def test_a_range_has_256_documents_and_a_coarser_one_16_ranges() -> None:
    ranges = finest(database(200_000))
    assert sum(item.documents for item in ranges) == 200_000
    assert 150 < 200_000 / len(ranges) < 400
    above = coarser(ranges, FINEST + 1)
    assert sum(item.documents for item in above) == 200_000
    assert 8 < len(ranges) / len(above) < 32


def test_the_level_for_a_number_of_documents_has_few_ranges() -> None:
    assert level_for(0) == level_for(4000) == FINEST
    for count in (100_000, 1_000_000, 5_000_000):
        # Of 256 documents each, 16 times as many on each level.
        assert count / 256 / 16 ** (level_for(count) - FINEST) < 16
    assert level_for(2**62) == COARSEST


def test_few_differences_among_many_are_found_with_few_questions() -> None:
    ours = database(100_000)
    theirs = dict(ours)
    changed = random.Random(5).sample(sorted(ours), 10)
    for id in changed[:4]:
        theirs[id] = ("2-b",)
    for id in changed[4:7]:
        del theirs[id]
    for id in changed[7:]:
        del ours[id]
    here, there = finest(ours), finest(theirs)
    spans, compared = found(here, there, level_for(len(ours)))
    assert compared < 2000
    assert len(spans) <= 10
    told = set()
    for start, end in spans:

        def part(side: Mapping[str, tuple[str, ...]], a: str, b: str | None) -> list[Leaves]:
            return [Leaves(*item) for item in sorted(side.items()) if a <= item[0] < (b or "~")]

        told |= {id for id, *_ in joined(part(ours, start, end), part(theirs, start, end))}
    assert told == set(changed)


ids = st.text("abcé\U0001f600", min_size=1, max_size=3) | st.integers(0, 3000).map("d{}".format)
revs = st.lists(st.sampled_from(["1-a", "1-b", "2-a"]), min_size=1, max_size=2, unique=True).map(
    lambda found: tuple(sorted(found))
)


@given(st.dictionaries(ids, revs, max_size=40), st.dictionaries(ids, revs, max_size=10))
def test_what_differs_is_in_the_spans_that_are_told(
    common: dict[str, tuple[str, ...]], changes: dict[str, tuple[str, ...]]
) -> None:
    ours = {**database(1500), **common}
    theirs = {**ours, **changes}
    here, there = finest(ours), finest(theirs)
    for level in (FINEST, FINEST + 1, COARSEST):
        spans, _ = found(here, there, level)
        really = {id for id in theirs if theirs[id] != ours.get(id)}
        assert all(any(a <= id and (b is None or id < b) for a, b in spans) for id in really)
        assert bool(spans) == bool(really)


@given(st.dictionaries(ids, revs, max_size=60))
def test_a_part_that_is_read_anew_has_the_ranges_that_it_had(
    common: dict[str, tuple[str, ...]],
) -> None:
    """Which is how a store keeps them up to date."""
    documents = {**database(800), **common}
    ranges = finest(documents)
    for place, item in enumerate(ranges):
        end = ranges[place + 1].start if place + 1 < len(ranges) else None
        builder = Builder(item.start)
        for id in sorted(documents):
            if item.start <= id and (end is None or id < end):
                builder.add(Leaves(id, documents[id]))
        builder.finish()
        assert builder.ranges == [item]


@pytest.mark.parametrize(
    ("here", "there"),
    [
        ([("a", ("1-a",))], [("a", ("1-a", "2-b"))]),
        ([("a", ("1-a",)), ("b", ("1-b",))], [("a", ("1-a", "1-b"))]),
        ([("a", ("1-a",))], [("b", ("1-a",))]),
    ],
)
def test_digests_tell_apart(
    here: list[tuple[str, tuple[str, ...]]], there: list[tuple[str, tuple[str, ...]]]
) -> None:
    assert finest(dict(here))[0].digest != finest(dict(there))[0].digest


def test_where_ranges_begin_never_changes() -> None:
    """Agents of different versions compare themselves, and stores keep what they have made."""
    begins = [number for number in range(5000) if height(f"d{number}")]
    assert begins == BEGINS


BEGINS = [
    3, 227, 538, 924, 1063, 1361, 1904, 2257, 2296, 2552, 2694, 2988, 3109, 3281, 3626, 4119,
    4566, 4653,
]  # fmt: skip
