"""The benchmarks: that they work, and that targets are judged as said. No test looks at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from scripts.benchmarks.harness import Row, Target

CHECKOUT = Path(__file__).resolve().parent.parent


def test_ingest_runs_and_prints_one_json_object(tmp_path: Path) -> None:
    arguments = ["ingest", "--quick", "--rounds", "1", "--json", "--folder", str(tmp_path)]
    ran = subprocess.run(
        [sys.executable, "-m", "scripts.benchmarks", *arguments],
        cwd=CHECKOUT,
        capture_output=True,
        check=True,
    )
    result = json.loads(ran.stdout)
    assert list(result["benches"]) == ["ingest"]
    first = result["benches"]["ingest"][0]
    assert len(first["ours"]["rounds"]) == len(first["peer"]["rounds"]) == 1
    assert first["met"] is (first["ratio"] >= 0.40)
    assert not list(tmp_path.iterdir())


def test_an_unknown_name_is_refused() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "scripts.benchmarks", "nothing"], cwd=CHECKOUT, capture_output=True
    )
    assert ran.returncode == 2
    assert b"nothing" in ran.stderr


def test_the_ratio_is_that_of_the_rounds_not_of_the_medians() -> None:
    row = Row("x", "1/s", [10, 20, 90], [10, 40, 30])
    assert row.ratio == 1
    assert Row("x", "1/s", [10]).ratio is None


def test_a_target_is_a_ratio_or_a_limit() -> None:
    target = Target(ratio_at_least=2)
    assert Row("x", "1/s", [4], [2], target=target).met is True
    assert Row("x", "1/s", [3], [2], target=target).met is False
    assert Row("x", "1/s", [3], target=target).met is False
    limit = Target(at_most=64)
    assert Row("x", "MiB", [99, 64, 1], target=limit).met is True
    assert Row("x", "MiB", [99, 65, 1], target=limit).met is False
    assert Row("x", "MiB", [1]).met is None
