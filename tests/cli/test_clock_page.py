"""docs/clock.md: its examples are whole configuration files."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from agent.config_clock import ClockConfig
from agent.config_file import load
from tests.cli.helpers import in_process

PAGE = Path(__file__).parents[2] / "docs" / "clock.md"


def test_the_examples_show_every_key(tmp_path: Path) -> None:
    shown: set[str] = set()
    devices = []
    for example in re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        config = tmp_path / "example.toml"
        config.write_text(example)
        done = in_process("config", "check", "--config", config)
        assert (done.status, done.stderr) == (0, "")
        shown |= set(re.findall(r"^(\w+) = ", example.partition("[clock]")[2], re.MULTILINE))
        devices += load(config).device
    assert {field.name for field in msgspec.structs.fields(ClockConfig)} <= shown
    assert [device.clock for device in devices] == [True]
