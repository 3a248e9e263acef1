"""docs/flash.md: its example is a whole configuration file, and it names all boards."""

from __future__ import annotations

import re
from pathlib import Path

from agent.flash.boards import BOARDS
from tests.cli.helpers import in_process

PAGE = Path(__file__).parents[2] / "docs" / "flash.md"


def test_the_example_is_a_configuration(tmp_path: Path) -> None:
    (example,) = re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    config = tmp_path / "example.toml"
    config.write_text(example)
    done = in_process("config", "check", "--config", config)
    assert (done.status, done.stderr) == (0, "")


def test_all_boards_are_named() -> None:
    rows = re.findall(r"^\| (`.*?) \|", PAGE.read_text(), re.MULTILINE)
    assert {name for row in rows for name in re.findall(r"`(.*?)`", row)} == set(BOARDS)
