"""docs/shadow.md: its configuration is right, and so is what it says of the document."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec

from agent.config_file import load
from agent.sensors.device_document import setting_rows
from tests.cli.helpers import in_process

PAGE = (Path(__file__).parents[2] / "docs" / "shadow.md").read_text()


def test_the_example_is_a_whole_configuration(tmp_path: Path) -> None:
    [example] = re.findall(r"^```toml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    config = tmp_path / "example.toml"
    config.write_text(example)
    done = in_process("config", "check", "--config", config)
    assert (done.status, done.stderr) == (0, "")
    assert [device.commands for device in load(config).device] == [True, False, True]
    config.write_text(example.replace("commands = false", 'commands = "no"'))
    done = in_process("config", "check", "--config", config)
    assert "device.commands (in [[device]] number 2)" in done.complaint()


def test_the_document_is_one() -> None:
    [example] = re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    states = {
        name: row["state"] for name, row in setting_rows(msgspec.json.decode(example)).items()
    }
    assert states == {"interval_ms": "confirmed", "mode": "pending", "setpoint": "refused"}
