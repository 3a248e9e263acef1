"""What all benchmarks share: their options, and the rows that they return."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

_SideT = TypeVar("_SideT")
_SampleT = TypeVar("_SampleT")
_ItemT = TypeVar("_ItemT")


class BenchError(Exception):
    """Something could not be measured."""


@dataclass(frozen=True, slots=True)
class Options:
    """`folder` is empty and on the disk to measure; `note` shows a line of progress.

    `couchdb` is the URL of a server, with credentials if it wants some.
    """

    folder: Path
    rounds: int
    quick: bool
    couchdb: str | None
    note: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Target:
    """What a row has to reach: a ratio to the peer, or a figure that is not exceeded."""

    ratio_at_least: float | None = None
    ratio_at_most: float | None = None
    at_most: float | None = None

    def __str__(self) -> str:
        if self.ratio_at_least is not None:
            return f"ratio ≥ {self.ratio_at_least:g}"
        if self.ratio_at_most is not None:
            return f"ratio ≤ {self.ratio_at_most:g}"
        return f"≤ {self.at_most:g}"


@dataclass(frozen=True, slots=True)
class Row:
    """One figure, round by round: this agent's, and the peer's of the same rounds.

    The ratio is this agent's figure divided by the peer's, the median over the rounds: what
    slows the machine down for a while slows both sides of a round.
    """

    what: str
    unit: str
    ours: Sequence[float]
    peer: Sequence[float] = ()
    peer_name: str = ""
    target: Target | None = None

    @property
    def ratio(self) -> float | None:
        if not self.peer:
            return None
        return statistics.median(
            our / their for our, their in zip(self.ours, self.peer, strict=True)
        )

    @property
    def met(self) -> bool | None:
        """Whether the target is met; None where there is none."""
        if self.target is None:
            return None
        if self.target.ratio_at_least is not None:
            return self.ratio is not None and self.ratio >= self.target.ratio_at_least
        if self.target.ratio_at_most is not None:
            return self.ratio is not None and self.ratio <= self.target.ratio_at_most
        return self.target.at_most is None or statistics.median(self.ours) <= self.target.at_most

    def as_json(self) -> dict[str, Any]:
        return {
            "what": self.what,
            "unit": self.unit,
            "ours": _spread(self.ours),
            "peer": _spread(self.peer) if self.peer else None,
            "peer_name": self.peer_name or None,
            "ratio": self.ratio,
            "target": None if self.target is None else str(self.target),
            "met": self.met,
        }


async def take_turns(
    options: Options, sides: Sequence[_SideT], measure: Callable[[_SideT], Awaitable[_SampleT]]
) -> list[list[_SampleT]]:
    """Measure each side in each round, another one first each time; the samples of each side."""
    samples: list[list[_SampleT]] = [[] for _ in sides]
    for number in range(options.rounds):
        options.note(f"round {number + 1} of {options.rounds}")
        places = range(len(sides))
        first = number % len(sides)
        for place in [*places[first:], *places[:first]]:
            samples[place].append(await measure(sides[place]))
    return samples


def milliseconds(
    sides: Sequence[Callable[[_ItemT], object]], items: Sequence[_ItemT]
) -> list[list[float]]:
    """What each side takes for each item. Blocking.

    Several sides take turns item by item: where a side's round is short, the machine's other work
    would else hit one side only.
    """
    took: list[list[float]] = [[] for _ in sides]
    places = range(len(sides))
    for number, item in enumerate(items):
        first = number % len(sides)
        for place in [*places[first:], *places[:first]]:
            started = time.perf_counter()
            sides[place](item)
            took[place].append((time.perf_counter() - started) * 1000)
    return took


def _spread(values: Sequence[float]) -> dict[str, Any]:
    return {
        "min": min(values),
        "median": statistics.median(values),
        "max": max(values),
        "rounds": list(values),
    }


def shown(values: Sequence[float]) -> str:
    """The median, and the least and the greatest in brackets."""
    if not values:
        return "-"
    return (
        f"{_number(statistics.median(values))} ({_number(min(values))} to {_number(max(values))})"
    )


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"
