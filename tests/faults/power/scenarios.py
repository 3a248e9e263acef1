"""The scenarios by name: `python -m tests.faults.power.scenarios NAME FOLDER` does a one's work.

A third argument is for `PRAGMA synchronous`, which is FULL: with less, losses have to be found.
"""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from agent.errors import EdgeAgentError
from agent.store import opening
from agent.store.connection import open_writer
from tests.agents import CHECKOUT
from tests.faults.power import remembered, small_files, stores
from tests.faults.power.disk import Disk, cuts, lay_out
from tests.faults.power.record import Event, Marks, environment, read


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is there before, what is done, and what has to be there after a power cut."""

    work: Callable[[Path, Marks], Awaitable[None]]
    check: Callable[[Path, list[Any]], Awaitable[None]] = stores.check
    prepare: Callable[[Path], Awaitable[None]] = stores.nothing


SCENARIOS: dict[str, Scenario] = {
    "writes": Scenario(stores.write),
    "attachments": Scenario(stores.attach),
    "compaction": Scenario(stores.compact),
    "retention": Scenario(stores.retain),
    **{
        f"migration from schema {version}": Scenario(
            stores.migrate, prepare=partial(stores.older, version=version)
        )
        for version in range(1, 5)
    },
    "salvage": Scenario(
        stores.salvage,
        partial(stores.check, damage=(stores.MALFORMED, stores.MARKED)),
        stores.damaged,
    ),
    "a store that is gone": Scenario(stores.write, stores.check_gone, stores.gone),
    "deletion": Scenario(stores.delete, stores.check_deleted),
    "what is remembered": Scenario(remembered.remember, remembered.check_remembered),
    "configuration": Scenario(small_files.configure, small_files.check_configured),
    "update": Scenario(small_files.update, small_files.check_updated, small_files.installed),
}


class LostError(AssertionError):
    """Something is not there, or not right, after a power cut."""


class Recorded:
    """A scenario that was recorded once; any number of power cuts can be made of it."""

    def __init__(self, name: str, disk: Disk, events: list[Event]) -> None:
        self.events = events
        self._name = name
        self._disk = disk

    @classmethod
    def of(cls, name: str, library: Path, folder: Path, *, synchronous: str = "FULL") -> Recorded:
        """Record it, in a folder that is made for it. Blocks.

        In the end what was recorded has to be what is there, so that nothing was missed.
        """
        place = folder / "recorded"
        place.mkdir(parents=True)
        asyncio.run(SCENARIOS[name].prepare(place))
        disk = Disk(place)
        log = folder / "log"
        subprocess.run(
            [sys.executable, "-m", __name__, name, place, synchronous],
            cwd=CHECKOUT,
            env={**os.environ, **environment(library, place, log)},
            check=True,
        )
        events = read(log)
        replayed = copy.deepcopy(disk)
        for event in events:
            replayed.follow(event)
        assert replayed.now() == Disk(place).now(), "something was not recorded"
        return cls(name, disk, events)

    def cut(self, count: int, seed: int, folder: Path) -> None:
        """Cut the power so many times, and look at what is left. Blocks.

        Raises LostError at the first loss; what was left is then in the folder.
        """
        disk = copy.deepcopy(self._disk)
        for cut in cuts(disk, self.events, random.Random(f"{self._name} {seed}"), count):
            place = folder / "left"
            lay_out(cut.left, place)
            try:
                asyncio.run(SCENARIOS[self._name].check(place, cut.marks))
            except (AssertionError, EdgeAgentError, sqlite3.Error) as error:
                raise LostError(
                    f"{self._name}, seed {seed}, cut after event {cut.moment} of "
                    f"{len(self.events)}: {error}"
                ) from error
            shutil.rmtree(place)


def _work(name: str, folder: Path, synchronous: str) -> None:
    logging.getLogger("agent").addHandler(logging.NullHandler())
    stores.hurry()

    def sabotaged(path: Path, *, create: bool) -> sqlite3.Connection:
        connection = open_writer(path, create=create)
        connection.execute(f"PRAGMA synchronous = {synchronous}")
        return connection

    if synchronous != "FULL":
        opening.open_writer = sabotaged  # type: ignore[assignment]
    asyncio.run(SCENARIOS[name].work(folder, Marks.of_this_process()))


if __name__ == "__main__":
    _work(sys.argv[1], Path(sys.argv[2]), sys.argv[3])
