"""`edge-agent replicate --selector`, `--doc-id`, and what `config check` says of selectors."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from agent.cli.main import main
from agent.documents.revision import first_revision
from agent.store.store import Store


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A store with three documents."""
    path = tmp_path / "source.sqlite"

    async def fill() -> None:
        store = await Store.open(path)
        docs = {"a": "reading", "b": "config", "c": "reading"}
        await store.graft([first_revision(id, {"type": kind}) for id, kind in docs.items()])
        await store.close()

    asyncio.run(fill())
    return path


def replicate(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["replicate", *map(str, arguments), "--json"])


@pytest.mark.parametrize(
    ("options", "written"),
    [
        ((), 3),
        (("--selector", '{"type": "reading"}'), 2),
        (("--doc-id", "b", "--doc-id", "none"), 1),
        (("--selector", "{}"), 3),
    ],
)
def test_selections(source: Path, tmp_path: Path, options: tuple[str, ...], written: int) -> None:
    result = replicate(source, tmp_path / "target.sqlite", "--create-target", *options)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["docs_written"] == written


@pytest.mark.parametrize(
    "options",
    [
        ("--selector", "type"),
        ("--selector", "[]"),
        ("--selector", '{"a": {"$no": 1}}'),
        ("--selector", "{}", "--doc-id", "a"),
    ],
)
def test_selections_that_are_none(source: Path, tmp_path: Path, options: tuple[str, ...]) -> None:
    result = replicate(source, tmp_path / "target.sqlite", "--create-target", *options)
    assert result.exit_code == 2
    assert "--selector" in result.stderr
    assert "Traceback" not in result.output


def test_config_check_reads_selectors(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text(
        "[agent]\ndata = 'd'\n[[remote]]\nname = 'cloud'\nurl = 'http://h/db'\n"
        "push_selector = { a = { '$no' = 1 } }\n"
    )
    result = CliRunner().invoke(main, ["config", "check", "--config", str(config)])
    assert result.exit_code == 1
    said = result.output + (str(result.exception) if result.exception else "")
    assert "push_selector" in said
    assert "$no" in said
