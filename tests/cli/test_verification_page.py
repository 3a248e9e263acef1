"""docs/verification.md: its example is a whole configuration file, and its line is that shown."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

from agent.cli.status import _verified
from agent.config_file import load
from tests.cli.helpers import in_process

PAGE = (Path(__file__).parents[2] / "docs" / "verification.md").read_text()


def block(language: str) -> str:
    [found] = re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)
    return str(found)


def test_the_example_is_accepted(tmp_path: Path) -> None:
    config = tmp_path / "example.toml"
    config.write_text(block("toml"))
    (tmp_path / "cloud.password").write_text("secret")
    done = in_process("config", "check", "--config", config)
    assert (done.status, done.stderr) == (0, "")
    assert load(config).remote[0].verify_interval == 7 * 86_400
    config.write_text(block("toml").replace("604_800", "0"))
    complaint = in_process("config", "check", "--config", config).complaint()
    assert "remote.verify_interval" in complaint
    assert "from 1 to 31536000" in complaint


def test_the_line_of_the_status_is_that_of_the_page() -> None:
    last = {
        "time": (datetime.now(UTC) - timedelta(hours=3)).isoformat(),
        "by": "ranges",
        "documents": 1_000_000,
        "different": 0,
        "ids": [],
        "error": None,
    }
    assert f"cloud: {_verified(last)}\n" == block("text")
    assert _verified({**last, "different": 2}).endswith("by ranges, 2 differ")
    assert _verified({**last, "error": "no\nroute"}).endswith("the same; no route")
    assert _verified({**last, "time": None}) == "not verified yet"
