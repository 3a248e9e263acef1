"""Power cuts by the thousand: each scenario is recorded, cut at many moments, and then again."""

from __future__ import annotations

import asyncio
import itertools
import logging
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.faults.power import record
from tests.faults.power.field import RecordedField
from tests.faults.power.scenarios import SCENARIOS, Recorded

_OF_ONE_RECORDING = 60
"""Power cuts; threads and processes take turns otherwise in the next one."""

_STARTED = 4
"""How many of those of the field are followed by a start of both agents."""

_FIELD = "gateway and hub"


def cut_power(folder: Path, seed: int, count: int, say: Callable[[str], None]) -> dict[str, Any]:
    """So many power cuts; returns the result. Blocks.

    Raises LostError at the first loss; what was left is then in the folder.
    """
    logging.getLogger("agent").addHandler(logging.NullHandler())
    library = record.recorder(folder)
    done: Counter[str] = Counter()
    started = 0
    for name in itertools.cycle((*SCENARIOS, _FIELD)):
        cuts = min(_OF_ONE_RECORDING, count - done.total())
        if not cuts:
            break
        say(f"{name}: {cuts} power cuts")
        place = folder / name.replace(" ", "-")
        seed_of_it = seed + done[name]
        if name == _FIELD:
            restarts = min(_STARTED, cuts)
            asyncio.run(_cut_field(library, place, cuts, seed_of_it, restarts))
            started += restarts
        else:
            Recorded.of(name, library, place).cut(cuts, seed_of_it, place)
        shutil.rmtree(place)
        done[name] += cuts
    return {
        "seed": seed,
        "power_cuts": done.total(),
        "while": dict(sorted(done.items())),
        "started_again": started,
        "losses": 0,
    }


async def _cut_field(library: Path, folder: Path, count: int, seed: int, started: int) -> None:
    field = await RecordedField.of(library, folder)
    await field.cut(count, seed, folder, started=started)
