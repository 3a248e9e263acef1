"""docs/slow-links.md: its example is a whole configuration file, and its lines are those shown."""

from __future__ import annotations

import re
from pathlib import Path

from agent.cli.status import _lanes, _link
from agent.config_file import load
from tests.cli.helpers import in_process

PAGE = Path(__file__).parents[2] / "docs" / "slow-links.md"


def block(language: str) -> str:
    [found] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(), re.M | re.S)
    return str(found)


def test_the_example_is_accepted(tmp_path: Path) -> None:
    config = tmp_path / "example.toml"
    config.write_text(block("toml"))
    (tmp_path / "broker.password").write_text("secret")
    done = in_process("config", "check", "--config", config)
    assert (done.status, done.stderr) == (0, "")
    assert load(config).remote[0].bytes_per_day == 5_000_000


def test_too_small_a_budget_is_refused_with_what_is_allowed(tmp_path: Path) -> None:
    config = tmp_path / "example.toml"
    config.write_text(block("toml").replace("5_000_000", "5_000"))
    (tmp_path / "broker.password").write_text("secret")
    complaint = in_process("config", "check", "--config", config).complaint()
    assert " = 5000 is not allowed" in complaint
    assert "from 100000, for example" in complaint


def test_the_lines_of_the_status_are_those_of_the_page() -> None:
    lane = {"pending": 0, "waits_for_budget": False}
    push = {
        "lanes": {
            "urgent": lane,
            "news": {**lane, "pending": 2},
            "backlog": {"pending": 18200, "waits_for_budget": True},
        }
    }
    remote = {
        "name": "cloud",
        "bytes_sent": 3_001_204,
        "bytes_received": 48_310,
        "bytes_per_reading": 31.2,
        "bytes_per_document": 1870.0,
        "budget": {
            "bytes_per_day": 5_000_000,
            "used": 3_049_514,
            "until": "2026-03-02T00:00:00.000Z",
        },
    }
    assert [_link(remote), f"cloud push: {_lanes(push)}"] == block("text").splitlines()
    assert _lanes({"lanes": dict.fromkeys(push["lanes"], lane)}) == ""
    assert _link({**remote, "bytes_per_reading": None, "budget": None}).endswith(
        "1,870 for each document"
    )
