"""`edge-agent verify`, between stores and a hub."""

from __future__ import annotations

from pathlib import Path

from agent.documents.revision import first_revision
from tests.agents import edge_agent, hub
from tests.cli.helpers import documents, make_store


def test_equal(tmp_path: Path) -> None:
    one = make_store(tmp_path / "a.sqlite", documents(500))
    two = make_store(tmp_path / "b.sqlite", documents(500))
    result = edge_agent("verify", one, two)
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout.startswith("500 documents compared by ranges, all are the same, in ")


def test_different_then_repaired_over_http(tmp_path: Path) -> None:
    one = make_store(tmp_path / "a.sqlite", documents(30))
    make_store(tmp_path / "hub/edge.sqlite", documents(28))
    with hub(tmp_path / "hub") as server:
        url = f"{server.wait_until_ready()}/edge"
        result = edge_agent("verify", one, url, "--settle", 0)
        assert result.status == 1
        assert (
            result.stderr
            == "Error: the databases differ in 2 documents; --repair brings both sides together\n"
        )
        lines = result.stdout.splitlines()
        assert [line.split(" lacks ")[0] for line in lines[:2]] == [
            f"doc:28: {url}",
            f"doc:29: {url}",
        ]
        told = edge_agent("verify", one, url, "--settle", 0, "--json")
        answer = told.json()
        assert (told.status, told.stderr) == (1, "")
        assert (answer["ok"], answer["by"], answer["different"]) == (False, "ranges", 2)
        assert [item["id"] for item in answer["differences"]] == ["doc:28", "doc:29"]
        assert all(item["missing_in_source"] == [] for item in answer["differences"])
        mended = edge_agent("verify", one, url, "--settle", 0, "--repair", "--json")
        assert (mended.status, mended.json()["repaired_revisions"]) == (0, 2)
        assert edge_agent("verify", one, url).status == 0


def test_what_a_side_does_not_take_is_told(tmp_path: Path) -> None:
    large = first_revision("doc:1 large", {"text": "x" * 9_000_000})
    one = make_store(tmp_path / "a.sqlite", [*documents(30), large])
    make_store(tmp_path / "hub/edge.sqlite")
    with hub(tmp_path / "hub") as server:
        url = f"{server.wait_until_ready()}/edge"
        told = edge_agent("verify", one, url, "--settle", 0, "--repair")
        assert told.status == 1
        assert "1 revision not taken, for the reasons above" in told.stderr
        assert f"doc:1 large {large.rev}: {url} says too_large: " in told.stdout
        assert "30 revisions copied" in told.stdout
        answer = edge_agent("verify", one, url, "--settle", 0, "--repair", "--json").json()
        assert (answer["ok"], answer["different"], answer["repaired_revisions"]) == (False, 1, 0)
        assert [item["id"] for item in answer["refused"]] == ["doc:1 large"]


def test_no_store_there(tmp_path: Path) -> None:
    one = make_store(tmp_path / "a.sqlite")
    complaint = edge_agent("verify", one, tmp_path / "nothing.sqlite").complaint()
    assert str(tmp_path / "nothing.sqlite") in complaint
