"""Power cuts at random moments of what the agent does: nothing that was acknowledged is lost.

A few here; `scripts/faults --power-cuts` makes thousands of them. FAULTS_SEED sets another seed.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.faults.power.field import RecordedField
from tests.faults.power.scenarios import LostError, Recorded

SEED = int(os.environ.get("FAULTS_SEED", "20260801"))

CUTS = 10
QUICK = (
    "writes",
    "compaction",
    "retention",
    "migration from schema 1",
    "salvage",
    "deletion",
    "what is remembered",
    "configuration",
    "update",
)


@pytest.mark.parametrize("name", QUICK)
def test_nothing_that_was_acknowledged_is_lost(name: str, library: Path, tmp_path: Path) -> None:
    Recorded.of(name, library, tmp_path).cut(CUTS, SEED, tmp_path)


async def test_a_gateway_and_a_hub_go_on_after_a_power_cut(library: Path, tmp_path: Path) -> None:
    field = await RecordedField.of(library, tmp_path)
    await field.cut(CUTS, SEED, tmp_path, started=2)


def test_a_store_that_does_not_wait_for_the_disk_is_found_out(
    library: Path, tmp_path: Path
) -> None:
    """SQLite's NORMAL syncs the WAL when it is written into the file, not with each commit."""
    recorded = Recorded.of("writes", library, tmp_path, synchronous="NORMAL")
    with pytest.raises(LostError, match=r"acknowledged|used twice"):
        recorded.cut(CUTS, SEED, tmp_path)
