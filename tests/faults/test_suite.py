"""scripts/faults: a short run with a seed whose plan has one of nearly everything."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from scripts.fault_suite.__main__ import shown
from scripts.fault_suite.plan import TRIED, plan
from scripts.fault_suite.power import cut_power
from scripts.fault_suite.run import BrokenPromiseError
from tests.agents import CHECKOUT

SEED = 183
MINUTES = 0.35


def test_a_seed_brings_the_same_faults_again() -> None:
    faults = plan(SEED, 60 * MINUTES)
    assert faults == plan(SEED, 60 * MINUTES)
    assert faults == plan(SEED, 600)[: len(faults)]
    assert faults != plan(SEED + 1, 60 * MINUTES)
    kinds = Counter(fault.kind for fault in faults)
    assert {"kill", "cut", "damage", "edit"} <= kinds.keys()


def test_each_kind_of_fault_is_counted_in_one_place() -> None:
    counted = [kind for kinds in TRIED.values() for kind in kinds]
    assert sorted(counted) == sorted({fault.kind for fault in plan(SEED, 3600)})


def test_an_error_without_words_is_told_all_the_same() -> None:
    with pytest.raises(ExceptionGroup) as told:
        raise ExceptionGroup("of a task group", [BrokenPromiseError("it is lost")])
    assert shown(told.value) == "it is lost"
    with pytest.raises(TimeoutError) as wordless:
        raise TimeoutError
    assert shown(wordless.value).startswith("TimeoutError in test_suite.py:")


def test_what_is_promised_holds(tmp_path: Path) -> None:
    options = ["--seed", str(SEED), "--minutes", str(MINUTES), "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "scripts.fault_suite", *options],
        cwd=CHECKOUT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=540,  # what it said is shown then
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result = msgspec.json.decode(done.stdout)
    assert sum(result["faults"].values()) > 10
    assert sum(result[name] for name in TRIED) == sum(result["faults"].values())
    assert result["frames_lost"] == result["acknowledged_writes_lost"] == 0
    assert result["readings_sent"] == result["readings_stored"] + result["dropped_by_devices"] > 100
    assert result["duplicated"] == 0
    assert result["converged"] is True


@pytest.mark.usefixtures("library")  # skips it without a compiler
def test_power_cuts_are_counted(tmp_path: Path) -> None:
    """Of the first scenario; the others are cut in test_power_cut.py."""
    result = cut_power(tmp_path, SEED, 3, print)
    assert result == {
        "seed": SEED,
        "power_cuts": 3,
        "while": {"writes": 3},
        "started_again": 0,
        "losses": 0,
    }
