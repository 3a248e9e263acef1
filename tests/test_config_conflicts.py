"""`[[conflict]]` tables: mistakes are refused with the line, before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config_file import load
from agent.conflict_policies import ENTRY_POINT_GROUP, policies_for
from agent.documents.policies import Best, Keep, Newest, Python, Side, ThreeWay
from tests.agents import edge_agent
from tests.cli.helpers import in_process
from tests.packages import publish

HEAD = """\
[agent]
data = "data"
[[conflict]]
name = "first"
policy = "manual"
selector = { type = "form" }

"""


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package whose policies can be imported, or not."""
    code = "NUMBER = 5\ndef highest_bid(base, leaves, context):\n    return {}\n"
    policies = {
        "highest-bid": "shop:highest_bid",
        "absent": "shop:nothing",
        "number": "shop:NUMBER",
    }
    publish(tmp_path, "shop", code, policies)
    publish(tmp_path, "broken", "1 / 0\n", {"raises": "broken:anything"})
    monkeypatch.syspath_prepend(str(tmp_path))


def check(tmp_path: Path, table: str, head: str = HEAD) -> str:
    """What `config check` says of a second table."""
    path = tmp_path / "config.toml"
    path.write_text(f"{head}[[conflict]]\n{table}\n")
    message = in_process("config", "check", "--config", path).complaint()
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("table", "parts"),
    [
        ('name = "x"\npolicy = "best"', ["conflict.policy", "'winner', 'merge'", "line 10)"]),
        ('policy = "winner"', ["conflict.name", "missing", "line 8)"]),
        ('name = "x"', ["conflict.policy", "missing"]),
        ('name = "x"\npolicy = "merge"\nthen = "merge"', ["conflict.then", "'newest'", "line 11)"]),
        ('name = "x"\npolicy = "newest"', ["'x': newest needs field", "line 8)"]),
        ('name = "x"\npolicy = "merge"\nthen = "newest"', ["newest needs field"]),
        ('name = "x"\npolicy = "prefer-edge"', ["prefer-edge needs cloud", "origin"]),
        ('name = "x"\npolicy = "merge"\nthen = "prefer-cloud"', ["prefer-cloud needs cloud"]),
        ('name = "x"\npolicy = "prefer-edge"\ncloud = {}', ["prefer-edge needs cloud"]),
        ('name = "x"\npolicy = "python"', ["python needs entry_point"]),
        ('name = "x"\npolicy = "winner"\nfield = "a"', ["field is only for newest"]),
        ('name = "x"\npolicy = "newest"\nfield = "a"\nthen = "winner"', ["then is only for merge"]),
        ('name = "x"\npolicy = "winner"\nancestors = 3', ["ancestors is only for merge, python"]),
        ('name = "x"\npolicy = "merge"\ntolerance = 1', ["tolerance is only for newest"]),
        ('name = "x"\npolicy = "merge"\nneeds_base = false', ["needs_base is only for python"]),
        ('name = "x"\npolicy = "merge"\nfeild = "a"', ["unknown key", "did you mean field"]),
        ('name = "x"\npolicy = "merge"\nancestors = 0', ["conflict.ancestors", "line 11)"]),
        ('name = "first"\npolicy = "merge"', ["'first' is used twice", "line 9)"]),
        (
            'name = "x"\npolicy = "merge"\n[[conflict]]\nname = "y"\npolicy = "winner"',
            ["conflict 'y': is never used, as 'x' above it takes every conflict", "line 11)"],
        ),
        (
            'name = "x"\ndatabase = "edge"\npolicy = "merge"\nselector = { type = "form" }',
            ["'x': is never used, as 'first' above it takes the same documents", "line 8)"],
        ),
        (
            'name = "x"\npolicy = "merge"\nselector = { a = { "$bad" = 1 } }',
            ["conflict 'x': selector: ", "$bad", "line 11)"],
        ),
        (
            'name = "x"\npolicy = "prefer-cloud"\ncloud = { a = { "$bad" = 1 } }',
            ["conflict 'x': cloud: ", "line 11)"],
        ),
        ('name = "x"\npolicy = "newest"\nfield = "a..b"', ["conflict 'x': field: "]),
        (
            'name = "x"\npolicy = "python"\n\nentry_point = "nobodys"',
            ["no installed package", ENTRY_POINT_GROUP, "highest-bid", "line 12)"],
        ),
        ('name = "x"\npolicy = "python"\nentry_point = "raises"', ["cannot be loaded", "ZeroDiv"]),
        ('name = "x"\npolicy = "python"\nentry_point = "absent"', ["cannot be loaded", "Attr"]),
        ('name = "x"\npolicy = "python"\nentry_point = "number"', ["is not a function"]),
    ],
)  # fmt: skip
def test_mistakes_are_refused_with_the_line(
    published: None, tmp_path: Path, table: str, parts: list[str]
) -> None:
    message = check(tmp_path, table)
    for part in parts:
        assert part in message


def test_a_hubs_policies_say_for_which_database_they_are(tmp_path: Path) -> None:
    path = tmp_path / "hub.toml"
    path.write_text('[[conflict]]\nname = "x"\npolicy = "merge"\n')
    refused = edge_agent(
        "hub", "--data", tmp_path / "hub", "--config", path, "--listen", "127.0.0.1:0"
    )
    assert "say which one" in refused.complaint()
    assert not (tmp_path / "hub").exists()
    path.write_text(path.read_text() + 'database = "site"\nselector = { "$x" = 1 }\n')
    refused = edge_agent(
        "hub", "--data", tmp_path / "hub", "--config", path, "--listen", "127.0.0.1:0"
    )
    assert refused.complaint().endswith("(line 5)")


def test_an_agent_with_a_policy_that_cannot_be_does_not_start(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(HEAD + '[[conflict]]\nname = "x"\npolicy = "python"\nentry_point = "none"\n')
    message = edge_agent("run", "--config", path).complaint()
    assert message.startswith(f"{path}: conflict 'x': entry_point: ")
    assert message.endswith("none; install the package that publishes it (line 11)")


def test_good_tables_become_policies(published: None, tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        HEAD
        + """
[[conflict]]
name = "merge"
policy = "merge"
selector = { type = "t" }
then = "newest"
field = "at.t"
tolerance = 5
ancestors = 3

[conflict.keys]
"rooms.points" = "id"

[[conflict]]
name = "other"
database = "other"
policy = "winner"

[[conflict]]
name = "side"
policy = "prefer-edge"
selector = { type = "order" }
cloud = { origin = "cloud" }

[[conflict]]
name = "theirs"
policy = "python"
entry_point = "highest-bid"
needs_base = false

[conflict.settings]
margin = 5
"""
    )
    policies = policies_for(load(path).conflict, "edge")
    assert [(name, [each.name for each in found]) for name, found in policies.items()] == [
        ("edge", ["first", "merge", "side", "theirs"]),
        ("other", ["other"]),
    ]
    first, merge, side, theirs = policies["edge"]
    assert (first.rule, first.ancestors) == (None, 10)
    assert merge.rule == ThreeWay(Newest(("at", "t"), 5), {("rooms", "points"): "id"})
    assert merge.ancestors == 3
    assert isinstance(side.rule, Keep)
    assert isinstance(side.rule.choice, Side)
    assert isinstance(theirs.rule, Python)
    assert theirs.rule.context.settings == {"margin": 5}
    assert policies["other"][0].rule == Keep(Best())
