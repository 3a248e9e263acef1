"""The benchmarks: that they work, and that targets are judged as said. No test looks at a time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from scripts.benchmarks.harness import Options, Row, Target, milliseconds, take_turns

CHECKOUT = Path(__file__).resolve().parent.parent


def run(folder: Path, *names: str) -> dict[str, Any]:
    """What the benchmarks with these names print, with little data and in one round."""
    arguments = [*names, "--quick", "--rounds", "1", "--json", "--folder", str(folder)]
    ran = subprocess.run(
        [sys.executable, "-m", "scripts.benchmarks", *arguments],
        cwd=CHECKOUT,
        stdout=subprocess.PIPE,  # what it complains of is shown with a failure
        check=True,
    )
    result: dict[str, Any] = json.loads(ran.stdout)
    assert sorted(result["benches"]) == sorted(names)
    return result


def test_ingest_runs_and_prints_one_json_object(tmp_path: Path) -> None:
    result = run(tmp_path, "ingest")
    first = result["benches"]["ingest"][0]
    assert len(first["ours"]["rounds"]) == len(first["peer"]["rounds"]) == 1
    assert first["met"] is (first["ratio"] >= 0.40)
    assert not list(tmp_path.iterdir())


def test_writes_runs(tmp_path: Path) -> None:
    packed, unpacked = run(tmp_path, "writes")["benches"]["writes"]
    assert packed["ours"]["median"] < unpacked["ours"]["median"] < packed["peer"]["median"]
    assert not list(tmp_path.iterdir())


def test_cbor_runs(tmp_path: Path) -> None:
    decoded, _, processor, lost, doubled, _ = run(tmp_path, "cbor")["benches"]["cbor"]
    assert decoded["ours"]["median"] < decoded["peer"]["median"]
    assert processor["ours"]["median"] > 0
    assert (lost["ours"]["max"], doubled["ours"]["max"]) == (0, 0)
    assert not list(tmp_path.iterdir())


def test_install_runs_where_no_package_can_be_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    rows = run(tmp_path, "install")["benches"]["install"]
    assert [row["unit"] for row in rows] == ["s", "s", "s"]
    assert rows[0]["what"].startswith("this checkout")
    assert not list(tmp_path.iterdir())


def test_conflicts_runs(tmp_path: Path) -> None:
    _, revisions = run(tmp_path, "conflicts")["benches"]["conflicts"]
    assert (revisions["ours"]["median"], revisions["peer"]["median"]) == (2, 1)
    assert revisions["met"] is True
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("names", "peers"),
    [
        (["bulk", "single"], True),
        (["find", "large", "series"], True),
        (["followers", "attachments"], False),
    ],
)
def test_the_http_benches_run(tmp_path: Path, names: list[str], peers: bool) -> None:
    for rows in run(tmp_path, *names)["benches"].values():
        assert any(row["target"] is not None for row in rows)
        assert any(row["peer"] is not None for row in rows) is peers
        for row in rows:
            assert len(row["ours"]["rounds"]) == 1
    assert not list(tmp_path.iterdir())


def test_mqtt_live_and_fleet_run(tmp_path: Path) -> None:
    names = ["mqtt", "live", "fleet"]
    benches = run(tmp_path, *names)["benches"]
    assert list(benches) == names
    carried = [row for row in benches["mqtt"] if "bytes" in row["what"]]
    assert [row["met"] for row in carried] == [True, True]  # whatever else this machine does
    assert {row["peer_name"] for row in benches["live"]} == {"PouchDB"}
    assert not list(tmp_path.iterdir())


def test_the_dashboard_runs(tmp_path: Path) -> None:
    size, *times, memory = run(tmp_path, "dashboard")["benches"]["dashboard"]
    assert size["met"] is True  # whatever else this machine does
    assert all(row["ours"]["median"] > 0 for row in times)
    assert memory["target"] is not None
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


async def test_peers_take_turns(tmp_path: Path) -> None:
    order: list[str] = []

    async def measure(side: str) -> int:
        order.append(side)
        return len(order)

    options = Options(tmp_path, rounds=3, quick=True, couchdb=None, note=lambda _: None)
    samples = await take_turns(options, ["ours", "peer"], measure)
    assert order == ["ours", "peer", "peer", "ours", "ours", "peer"]
    assert samples == [[1, 4, 5], [2, 3, 6]]


def test_peers_alternate_item_by_item() -> None:
    order: list[str] = []
    sides = [lambda item: order.append(f"ours {item}"), lambda item: order.append(f"peer {item}")]
    took = milliseconds(sides, [1, 2, 3])
    assert order == ["ours 1", "peer 1", "peer 2", "ours 2", "ours 3", "peer 3"]
    assert [len(times) for times in took] == [3, 3]


def test_a_target_is_a_ratio_or_a_limit() -> None:
    target = Target(ratio_at_least=2)
    assert Row("x", "1/s", [4], [2], target=target).met is True
    assert Row("x", "1/s", [3], [2], target=target).met is False
    assert Row("x", "1/s", [3], target=target).met is False
    below = Target(ratio_at_most=0.5)
    assert Row("x", "ms", [2], [4], target=below).met is True
    assert Row("x", "ms", [3], [4], target=below).met is False
    assert Row("x", "ms", [0], target=below).met is False
    most = Target(ratio_at_most=0.5)
    assert Row("x", "ms", [2], [4], target=most).met is True
    assert Row("x", "ms", [3], [4], target=most).met is False
    assert Row("x", "ms", [1], target=most).met is False
    limit = Target(at_most=64)
    assert Row("x", "MiB", [99, 64, 1], target=limit).met is True
    assert Row("x", "MiB", [99, 65, 1], target=limit).met is False
    assert Row("x", "MiB", [1]).met is None


def test_retention_runs_and_the_files_stay_within_the_budget(tmp_path: Path) -> None:
    size, _, written, payload, lacking = run(tmp_path, "retention")["benches"]["retention"]
    assert 50 < size["ours"]["max"] <= 100
    assert written["ours"]["max"] > payload["ours"]["max"] > 0
    assert lacking["ours"]["max"] == 0
    assert not list(tmp_path.iterdir())
