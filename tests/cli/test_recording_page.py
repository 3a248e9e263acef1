"""docs/recording.md: its examples are whole configuration files."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from agent.config_file import load
from agent.config_sensors import AlarmConfig, SensorConfig
from tests.cli.helpers import in_process

PAGE = Path(__file__).parents[2] / "docs" / "recording.md"


def test_the_examples_show_every_key(tmp_path: Path) -> None:
    shown: set[str] = set()
    for example in re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL):
        config = tmp_path / "example.toml"
        config.write_text(example)
        done = in_process("config", "check", "--config", config)
        assert (done.status, done.stderr) == (0, "")
        for sensor in load(config).device[0].sensor:
            for table in (sensor, *sensor.alarm):
                shown |= {
                    field.name
                    for field in msgspec.structs.fields(table)
                    if getattr(table, field.name) != field.default
                }
    expected = {
        f.name for kind in (SensorConfig, AlarmConfig) for f in msgspec.structs.fields(kind)
    }
    assert shown == expected
