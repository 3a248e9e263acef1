"""Adapters are found by name, and packages can publish their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from firmware_adapters import (
    ENTRY_POINT_GROUP,
    CborFrames,
    JsonLines,
    SettingsError,
    adapter_names,
    create,
)

PUBLISHED = """
from dataclasses import dataclass
from firmware_adapters import JsonLines

@dataclass
class TunedSettings:
    level: int

class Tuned(JsonLines):
    Settings = TunedSettings

    def __init__(self, settings):
        super().__init__()
        self.level = settings.level
"""

BUILT_IN = [
    "cbor-frames",
    "csv-lines",
    "dsmr",
    "json-lines",
    "key-value-lines",
    "mbus",
    "modbus-rtu",
    "nmea",
    "ve-direct",
]


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "published-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: published\nVersion: 1\n")
    (package / "entry_points.txt").write_text(
        f"[{ENTRY_POINT_GROUP}]\n"
        "theirs = firmware_adapters.json_lines:JsonLines\n"
        "cbor-frames = firmware_adapters.json_lines:JsonLines\n"
        "absent = no_such_module:Adapter\n"
        "nameless = firmware_adapters:NoSuchClass\n"
        "broken = broken_adapter:Any\n"
        "tuned = published_adapter:Tuned\n"
    )
    (tmp_path / "published_adapter.py").write_text(PUBLISHED)
    (tmp_path / "broken_adapter.py").write_text("1 / 0\n")
    monkeypatch.syspath_prepend(tmp_path)


def test_the_adapters_that_are_built_in() -> None:
    assert isinstance(create("cbor-frames"), CborFrames)
    assert isinstance(create("json-lines"), JsonLines)
    assert create("json-lines") is not create("json-lines")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=rf"'modbus'; known are: {', '.join(BUILT_IN)}"):
        create("modbus")


@pytest.mark.usefixtures("publish")
def test_a_package_publishes_an_adapter() -> None:
    assert isinstance(create("theirs"), JsonLines)
    assert adapter_names() == sorted([*BUILT_IN, "absent", "broken", "nameless", "theirs", "tuned"])


@pytest.mark.usefixtures("publish")
def test_a_published_adapter_may_have_settings_too() -> None:
    assert vars(create("tuned", {"level": 3}))["level"] == 3
    with pytest.raises(SettingsError, match=r"'tuned': Expected `int`, got `str` - at `\$.level`"):
        create("tuned", {"level": "high"})
    with pytest.raises(SettingsError, match="missing required field `level`"):
        create("tuned")


@pytest.mark.parametrize("name", ["json-lines", "cbor-frames", "ve-direct"])
def test_settings_for_an_adapter_without_any(name: str) -> None:
    assert create(name, {})
    with pytest.raises(SettingsError, match="takes none"):
        create(name, {"level": 1})


@pytest.mark.parametrize(
    ("name", "module", "needs", "extra"),
    [
        ("modbus-rtu", "modbus", "pymodbus.framer", "modbus"),
        ("mbus", "mbus", "meterbus", "mbus"),
        ("nmea", "nmea", "pynmeagps", "nmea"),
        ("dsmr", "dsmr", "dsmr_parser", "dsmr"),
    ],
)
def test_a_missing_decoder_is_one_line_with_the_command(
    name: str, module: str, needs: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, f"firmware_adapters.{module}", raising=False)
    monkeypatch.setitem(sys.modules, needs, None)
    with pytest.raises(ValueError, match=r"needs more packages") as raised:
        create(name, {})
    message = str(raised.value)
    assert message.endswith(f"pip install 'edge-sync-agent[{extra}]'")
    assert "\n" not in message


@pytest.mark.usefixtures("publish")
def test_a_package_cannot_replace_one_that_is_built_in() -> None:
    assert isinstance(create("cbor-frames"), CborFrames)


@pytest.mark.usefixtures("publish")
@pytest.mark.parametrize("name", ["absent", "nameless", "broken"])
def test_a_package_that_cannot_be_loaded(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' .* cannot be loaded"):
        create(name)


def test_works_without_the_agent_and_without_io() -> None:
    program = (
        "import sys, firmware_adapters\n"
        "for name in ('ve-direct', 'nmea'):\n"
        "    firmware_adapters.create(name)\n"
        "bad = {'agent', 'asyncio', 'serial', 'aiohttp', 'sqlite3'} & sys.modules.keys()\n"
        "sys.exit(' '.join(bad) or None)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
