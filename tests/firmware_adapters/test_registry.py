"""Adapters are found by name, and packages can publish their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from firmware_adapters import ENTRY_POINT_GROUP, CborFrames, JsonLines, adapter_names, create


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
    )
    monkeypatch.syspath_prepend(tmp_path)


def test_the_adapters_that_are_built_in() -> None:
    assert isinstance(create("cbor-frames"), CborFrames)
    assert isinstance(create("json-lines"), JsonLines)
    assert create("json-lines") is not create("json-lines")


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'modbus'; known are: cbor-frames, json-lines"):
        create("modbus")


@pytest.mark.usefixtures("publish")
def test_a_package_publishes_an_adapter() -> None:
    assert isinstance(create("theirs"), JsonLines)
    assert adapter_names() == ["absent", "cbor-frames", "json-lines", "nameless", "theirs"]


@pytest.mark.usefixtures("publish")
def test_a_package_cannot_replace_one_that_is_built_in() -> None:
    assert isinstance(create("cbor-frames"), CborFrames)


@pytest.mark.usefixtures("publish")
@pytest.mark.parametrize("name", ["absent", "nameless"])
def test_a_package_that_cannot_be_loaded(name: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}' .* cannot be loaded"):
        create(name)


def test_works_without_the_agent_and_without_io() -> None:
    program = (
        "import sys, firmware_adapters\n"
        "bad = {'agent', 'asyncio', 'serial', 'aiohttp', 'sqlite3'} & sys.modules.keys()\n"
        "sys.exit(' '.join(bad) or None)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
