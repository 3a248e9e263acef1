"""`edge-agent conflicts` against a running gateway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests import agents
from tests.agents import Finished
from tests.cli.helpers import in_process, request

POLICIES = """
[[conflict]]
name = "newest"
policy = "newest"
field = "at"
selector = { at = { "$gt" = 0 } }

[[conflict]]
name = "merge"
policy = "merge"
selector = { type = "t" }

[[conflict]]
name = "people"
policy = "manual"
"""


class Gateway:
    """A gateway without policies; `conflict` makes one in its database."""

    def __init__(self, url: str, config: Path) -> None:
        self.url = url
        self.config = config

    def conflict(self, id: str, *sides: dict[str, Any], base: dict[str, Any]) -> list[str]:
        """Edits of the same revision; returns their revisions, the winner first."""
        first = request("PUT", f"{self.url}/edge/{id}", base)["rev"]
        docs = []
        for letter, side in zip("cba", sides, strict=False):
            history = {"start": 2, "ids": [letter, first[2:]]}
            docs.append({**side, "_id": id, "_rev": f"2-{letter}", "_revisions": history})
        request("POST", f"{self.url}/edge/_bulk_docs", {"docs": docs, "new_edits": False})
        return [doc["_rev"] for doc in docs]

    def doc(self, id: str) -> Any:
        found = request("GET", f"{self.url}/edge/{id}?conflicts=true")
        assert "_conflicts" not in found
        return {name: value for name, value in found.items() if not name.startswith("_")}

    def run(self, *arguments: str, width: int = 120) -> Finished:
        config = ("--config", self.config)
        return in_process("conflicts", *arguments, *config, width=width)

    def json(self, *arguments: str) -> Any:
        done = self.run(*arguments, "--json")
        assert (done.status, done.stderr) == (0, ""), done
        return msgspec.json.decode(done.stdout)


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    with agents.gateway(agents.gateway_config(folder / "gateway.toml")) as process:
        url = process.wait_until_ready()
        port = int(url.rpartition(":")[2].strip("/"))
        config = agents.gateway_config(
            folder / "gateway.toml",
            POLICIES,
            port=port,
        )  # which the agent has not read: only test-policy looks at these
        yield Gateway(url.rstrip("/"), config)


@pytest.fixture(autouse=True)
def clean(gateway: Gateway) -> Iterator[None]:
    """No document of one test is another's."""
    yield
    changes = request("GET", f"{gateway.url}/edge/_changes?style=all_docs")["results"]
    leaves = {row["id"]: [change["rev"] for change in row["changes"]] for row in changes}
    request("POST", f"{gateway.url}/edge/_purge", leaves)


BASE = {"type": "t", "a": {"x": 1, "y": 1}, "z": 1}
WINNER = {"type": "t", "a": {"x": 2, "y": 1}, "z": 2}
OTHER = {"type": "t", "a": {"x": 1, "y": 2}, "z": 3}


def test_conflicts_are_listed_and_shown(gateway: Gateway) -> None:
    gateway.conflict("one", WINNER, OTHER, base=BASE)
    gateway.conflict("two", {"v": "\x1b[31mhostile[/]"}, {}, base={})
    listed = gateway.run("list").stdout
    assert "2 conflicts" in listed
    assert [line for line in listed.splitlines() if "one" in line and "waiting" in line]
    assert "1 of 2 conflicts" in gateway.run("list", "--limit", "1").stdout
    shown = gateway.run("show", "one").stdout
    lines = {tuple(cell.strip() for cell in line.split("│")[1:-1]) for line in shown.splitlines()}
    assert {
        ("*", "a.x", "1", "2", "1"),
        ("*", "a.y", "1", "1", "2"),
        ("!", "z", "1", "2", "3"),
        ("", "type", '"t"', '"t"', '"t"'),
    } <= lines
    assert "2-c" in shown
    assert "\x1b[31m" not in gateway.run("show", "two").stdout
    row = gateway.json("show", "one")
    [listed_row, _] = gateway.json("list")["rows"]
    assert listed_row.items() <= row.items()
    assert listed_row["fields"] == ["a.x", "a.y", "z"]
    assert "leaves" not in listed_row
    assert row["base"]["a"] == {"x": 1, "y": 1}


def test_of_many_fields_those_are_shown_that_differ(gateway: Gateway) -> None:
    base = {f"f{number:02}": number for number in range(51)}
    gateway.conflict("one", {**base, "f07": 0}, {**base, "f08": 0}, base=base)
    shown = gateway.run("show", "one").stdout
    assert [name for name in base if name in shown] == ["f07", "f08"]
    assert "the same on all sides, and not shown: 49 fields" in shown
    assert " f07, f08 " in gateway.run("list").stdout


def test_nothing_is_cut_off_on_a_narrow_terminal(gateway: Gateway) -> None:
    """What differs may stand at the end of a long value, and `--choose` wants revisions."""
    sides = [{"v": ["long" * 20, letter]} for letter in "QWX"]
    gateway.conflict("one", sides[0], sides[1], base=sides[2])
    shown = gateway.run("show", "one", width=80).stdout
    assert max(map(len, shown.splitlines())) <= 80
    assert "…" not in shown
    columns = zip(*(line.split("│") for line in shown.splitlines() if "│" in line), strict=True)
    values = ["".join(map(str.strip, column)) for column in columns]
    told = [msgspec.json.encode(each["v"]).decode() for each in (sides[2], sides[0], sides[1])]
    assert values[3:6] == told
    gateway.conflict("Q" * 90, {"v": 1}, {"v": 2}, base={})
    assert gateway.run("list", width=80).stdout.count("Q") == 90


def test_colours_are_for_terminals(gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway.conflict("one", WINNER, OTHER, base=BASE)
    assert "\x1b[" not in gateway.run("show", "one").stdout
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    assert "\x1b[1;31mz" in gateway.run("show", "one").stdout


def test_a_revision_is_chosen(gateway: Gateway) -> None:
    gateway.conflict("one", WINNER, OTHER, base=BASE)
    assert "2-x" in gateway.run("resolve", "one", "--choose", "2-x").complaint()
    done = gateway.json("resolve", "one", "--choose", "2-b")
    assert (done["ok"], done["id"]) == (True, "one")
    assert gateway.doc("one") == OTHER
    assert "not in conflict" in gateway.run("show", "one").complaint()


def test_fields_are_chosen_and_set(gateway: Gateway) -> None:
    gateway.conflict("one", WINNER, OTHER, base=BASE)
    refused = gateway.run("resolve", "one", "--set", "new.v=[1]").complaint()
    assert "disagree on z" in refused
    done = gateway.run("resolve", "one", "--field", "z=2-b", "--set", "new.v=[1]")
    assert (done.status, done.stderr) == (0, "")
    assert gateway.doc("one") == {"type": "t", "a": {"x": 2, "y": 2}, "z": 3, "new": {"v": [1]}}


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--field", "z"], "FIELD="),
        (["--field", "z=9-x"], "none of the revisions"),
        (["--field", "z=2-"], "more than one of the revisions"),
        (["--field", "a..b=2-b"], "Invalid field name"),
        (["--field", "z=2-b", "--field", "zz=2-b"], "none of the revisions has a field zz"),
        (["--field", "z=2-b", "--set", "type.x=1"], "is no object"),
        (["--field", "z=2-b", "--set", "_id=1"], "CouchDB's"),
        (["--set", "z={"], "no JSON"),
    ],
)
def test_mistakes_write_nothing(gateway: Gateway, arguments: list[str], part: str) -> None:
    gateway.conflict("one", WINNER, OTHER, base=BASE)
    assert part in gateway.run("resolve", "one", *arguments).complaint()
    assert gateway.json("list")["total"] == 1


def test_one_way_at_a_time(gateway: Gateway) -> None:
    for ways in ([], ["--choose", "2-b", "--delete"], ["--edit", "--set", "a=1"]):
        done = gateway.run("resolve", "one", *ways)
        assert done.status == 2
        assert "give one of" in done.stderr


def editor(folder: Path, script: str) -> str:
    """A program that changes the file it is given, as $EDITOR."""
    path = folder / "editor"
    path.write_text(f"#!/bin/sh\nset -e\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_an_editor_has_what_could_be_merged(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gateway.conflict("one", WINNER, OTHER, base=BASE)
    seen = tmp_path / "seen"
    script = f"""cp "$1" {seen}; sed -i 's/"z": 2/"z": 9/' "$1"; touch -d '2030-01-01' "$1" """
    monkeypatch.setenv("EDITOR", editor(tmp_path, script))
    done = gateway.run("resolve", "one", "--edit")
    assert (done.status, done.stderr) == (0, "")
    assert gateway.doc("one") == {"type": "t", "a": {"x": 2, "y": 2}, "z": 9}
    assert seen.read_text().startswith("# one: ")
    assert "disagree on z:\n#   2-c: 2\n#   2-b: 3\n" in seen.read_text()


@pytest.mark.parametrize(
    ("script", "part"),
    [("true", "saved nothing"), ("echo '[1]' > $1", "JSON object"), ("echo '{' > $1", "no JSON")],
)
def test_an_editor_that_is_left_writes_nothing(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, part: str
) -> None:
    gateway.conflict("one", WINNER, OTHER, base=BASE)
    later = "" if script == "true" else "; touch -d '2030-01-01' $1"
    monkeypatch.setenv("EDITOR", editor(tmp_path, script + later))
    assert part in gateway.run("resolve", "one", "--edit").complaint()
    assert gateway.json("list")["total"] == 1


def test_a_text_with_separators_of_lines_can_be_edited(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "one\u2028# other\u2028last\x85end"
    gateway.conflict("one", {"v": text, "a": 1}, {"v": text, "b": 1}, base={"v": text})
    monkeypatch.setenv("EDITOR", editor(tmp_path, "touch -d '2030-01-01' $1"))
    done = gateway.run("resolve", "one", "--edit")
    assert (done.status, done.stderr) == (0, "")
    assert gateway.doc("one") == {"v": text, "a": 1, "b": 1}


def test_revisions_are_not_obeyed_by_the_terminal(gateway: Gateway) -> None:
    """A hash is whatever another side says."""
    hostile = "2-\x1b[31m"
    gateway.conflict("one", {"v": 1}, {"v": 2}, base={})
    name = {"data": "", "content_type": "text/plain"}
    docs = [{"_id": "one", "_rev": hostile, "v": 3, "_attachments": {"a": name}}]
    request("POST", f"{gateway.url}/edge/_bulk_docs", {"docs": docs, "new_edits": False})
    assert hostile in gateway.json("show", "one")["revs"]
    shown = gateway.run("show", "one").stdout
    assert "attachments a" in shown
    told = [shown, gateway.run("resolve", "one", "--choose", "9").complaint()]
    assert not [text for text in told if "\x1b" in text]


def test_what_is_too_much_to_merge_is_not_taken_for_merged(gateway: Gateway) -> None:
    gateway.conflict("one", {"v": 1}, base={})
    docs = [{"_id": "one", "_rev": f"2-x{number}", "v": number} for number in range(40)]
    request("POST", f"{gateway.url}/edge/_bulk_docs", {"docs": docs, "new_edits": False})
    refused = gateway.run("resolve", "one", "--set", "w=1").complaint()
    assert "41 revisions" in refused
    assert gateway.json("list")["total"] == 1
    kept = gateway.run("resolve", "one", "--choose", "2-x9")
    assert (kept.status, gateway.doc("one")) == (0, {"v": 9})


def test_an_overtaken_resolution_is_refused_with_what_has_changed(
    gateway: Gateway, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody else edits the document while it is in the editor."""
    [winner, _] = gateway.conflict("one", WINNER, OTHER, base=BASE)
    edit = f"""curl -s -X PUT '{gateway.url}/edge/one?rev={winner}' -d '{{"type": "t"}}'"""
    monkeypatch.setenv("EDITOR", editor(tmp_path, f"{edit}; touch -d '2030-01-01' $1"))
    refused = gateway.run("resolve", "one", "--edit").complaint()
    assert "changed meanwhile" in refused
    assert f"{winner} became 3-" in refused
    assert "z: 2 → none" in refused
    assert gateway.json("list")["total"] == 1


def test_policies_are_tried_without_writing(gateway: Gateway) -> None:
    gateway.conflict("clash", WINNER, OTHER, base=BASE)
    gateway.conflict("free", {**BASE, "z": 2}, {**BASE, "a": 5}, base=BASE)
    gateway.conflict("later", {"at": 2e9 * 1000}, {"at": 5}, base={})
    gateway.conflict("three", {"type": "t", "a": 1}, {"type": "t", "b": 1}, {"type": "t", "c": 1},
                     base={"type": "t"})  # fmt: skip
    gateway.conflict("untyped", {"v": 1}, {"v": 2}, base={})
    before = request("GET", f"{gateway.url}/edge")["update_seq"]
    tested = gateway.json("test-policy")
    assert (tested["resolved"], tested["undecided"], tested["failed"]) == (2, 3, 0)
    found = {row["id"]: (row["policy"], row["outcome"], row["doc"]) for row in tested["rows"]}
    assert found == {
        "clash": ("merge", "undecided", None),
        "free": ("merge", "resolved", {"type": "t", "z": 2, "a": 5}),
        "later": ("newest", "undecided", None),
        "three": ("merge", "resolved", {"type": "t", "a": 1, "b": 1, "c": 1}),
        "untyped": ("people", "undecided", None),
    }
    assert [row["id"] for row in gateway.json("test-policy", "newest")["rows"]] == ["later"]
    shown = gateway.run("test-policy", "merge").stdout
    assert "clash  merge undecided: both sides have changed z" in shown
    assert "→ 5" in shown
    tried = gateway.json("test-policy", "--table", '{"policy": "merge", "then": "winner"}')
    assert tried["resolved"] == 5
    assert request("GET", f"{gateway.url}/edge")["update_seq"] == before


def test_a_result_that_could_not_be_written_is_a_failure(gateway: Gateway) -> None:
    part = "x" * 5_000_000
    gateway.conflict("one", {"a": part}, {"b": part}, base={})
    [row] = gateway.json("test-policy", "--table", '{"policy": "merge"}')["rows"]
    assert (row["outcome"], row["doc"]) == ("failed", None)
    assert "has more than 8000000 bytes" in row["reason"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["nobody"], "no policy for edge is called 'nobody': newest, merge, people"),
        (["--table", '{"policy": "best"}'], "'winner', 'merge'"),
        (["--table", '{"policy": "newest"}'], "newest needs field"),
        (["--table", "{"], "--table is no JSON"),
        (["--table", "[]"], "a JSON object"),
    ],
)
def test_policies_that_cannot_be_tried(gateway: Gateway, arguments: list[str], part: str) -> None:
    assert part in gateway.run("test-policy", *arguments).complaint()


def test_a_hub_has_to_be_told_which_database(hub_url: str) -> None:
    done = in_process("conflicts", "list", "--url", hub_url)
    assert "--database" in done.complaint()
    request("PUT", f"{hub_url.rstrip('/')}/site")
    done = in_process("conflicts", "list", "--url", hub_url, "--database", "site")
    assert done.stdout == "0 conflicts\n"
    done = in_process("conflicts", "list", "--url", hub_url, "--database", "nowhere", "--json")
    assert msgspec.json.decode(done.stdout)["ok"] is False
