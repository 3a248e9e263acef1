"""`[[device.sensor]]`: what it accepts, and how it explains what it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config_file import load
from agent.errors import ConfigError

HEAD = """
[agent]
data = "data"

[[device]]
name = "d"
port = "/dev/ttyUSB0"
adapter = "json-lines"

[[device.sensor]]
name = "t*"
"""
ALARM = "[[device.sensor.alarm]]\nname = 'high'\n"


def test_everything_at_once(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_text(
        HEAD
        + "unit = 'Cel'\nscale = 2\nvalid = [0, 1]\nchange = 0\nchange_percent = 1.5\nevery = 60\n"
        + ALARM
        + "above = 3\nhysteresis = 1\ndelay = 5\n"
        + "[[device.sensor]]\nname = 'x'\ntable = [[0, 1], [1.5, 0]]\n"
    )
    first, second = load(path).device[0].sensor
    assert (first.unit, first.scale, first.valid, first.every) == ("Cel", 2, (0, 1), 60)
    assert (first.alarm[0].above, first.alarm[0].delay) == (3, 5)
    assert second.table == [(0, 1), (1.5, 0)]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("skale = 2", ["device.sensor.skale", "did you mean scale"]),
        ("scale = 'x'", ["device.sensor.scale", "= 'x'", "scale = 21.5"]),
        ("scale = inf", ["device.sensor.scale", "= inf", "-1e15 to 1e15"]),
        ("offset = nan", ["device.sensor.offset", "= nan", "-1e15 to 1e15"]),
        ("table = [[0, nan], [1, 2]]", ["device.sensor.table", "[[0,-40],[1023,125]]"]),
        ("table = [[0, 1]]", ["sensor 't*'", "table needs two or more pairs"]),
        ("table = [[1, 1], [0, 2]]", ["sensor 't*'", "higher than"]),
        ("table = [[0, 1], [0, 2]]", ["sensor 't*'", "higher than"]),
        ("table = [[0, 1, 2]]", ["device.sensor.table", "[[0,-40],[1023,125]]"]),
        ("table = [[0, 1], [1, 2]]\nscale = 2", ["sensor 't*'", "table excludes scale"]),
        ("valid = [2, 1]", ["sensor 't*'", "the lowest good value comes first"]),
        ("valid = 3", ["device.sensor.valid", "= 3", "valid = [-40,125]"]),
        ("every = 60", ["sensor 't*'", "every needs change or change_percent"]),
        ("change = -1", ["device.sensor.change", "= -1", "from 0"]),
        ("change = 1\nevery = 0", ["device.sensor.every", "= 0", "seconds above 0"]),
        ("unit = ''", ["device.sensor.unit", "= ''", "at most 16"]),
        (ALARM, ["alarm 'high'", "either above or below"]),
        (ALARM + "above = 1\nbelow = 2", ["alarm 'high'", "either above or below"]),
        (
            ALARM + "above = 1\nhysteresis = -1",
            ["device.sensor.alarm.hysteresis", "[[device.sensor.alarm]] number 1", "= -1"],
        ),
        (ALARM + "above = 1\n" + ALARM + "below = 0", ["sensor 't*'", "'high' is there twice"]),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, text: str, parts: list[str]) -> None:
    path = tmp_path / "config.toml"
    path.write_text(HEAD + text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    for part in [str(path), "[[device]] number 1", *parts]:
        assert part in message
