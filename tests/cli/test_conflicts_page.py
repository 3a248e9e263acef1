"""docs/conflicts.md: its example is a whole configuration file that shows every key."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from agent.config_conflicts import ConflictConfig
from agent.config_file import load
from tests.cli.helpers import in_process
from tests.packages import PAGE, example, publish


def test_the_example_shows_every_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(tmp_path, "auction_page", example(), {"highest-bid": "auction_page:highest_bid"})
    monkeypatch.syspath_prepend(str(tmp_path))
    [text] = re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    config = tmp_path / "example.toml"
    config.write_text(text)
    done = in_process("config", "check", "--config", config)
    assert (done.status, done.stderr) == (0, "")
    keys = "|".join(field.name for field in msgspec.structs.fields(ConflictConfig))
    shown = set(re.findall(rf"^({keys}) =", text, re.MULTILINE))
    shown |= set(re.findall(rf"^\[conflict\.({keys})\]", text, re.MULTILINE))
    assert shown == set(keys.split("|"))
    policies = [entry.policy for entry in load(config).conflict]
    assert policies == ["merge", "prefer-cloud", "python", "manual"]


def test_every_policy_is_explained() -> None:
    listed = re.findall(r"^\| `([a-z-]+)` \|", PAGE.read_text(), re.MULTILINE)
    [annotation] = [f.type for f in msgspec.structs.fields(ConflictConfig) if f.name == "policy"]
    assert {*listed} - {"policy"} == set(annotation.__origin__.__args__)
