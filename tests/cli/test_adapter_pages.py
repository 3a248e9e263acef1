"""The pages on firmware adapters: there is one for each, and their examples are right."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from firmware_adapters import adapter_names
from tests.cli.helpers import in_process

FOLDER = Path(__file__).parents[2] / "docs" / "adapters"
PAGES = sorted(set(FOLDER.glob("*.md")) - {FOLDER / "README.md"})


def test_there_is_a_page_for_each_and_the_index_has_it() -> None:
    assert [page.stem for page in PAGES] == adapter_names()
    index = (FOLDER / "README.md").read_text()
    assert re.findall(r"^\| \[`(.*?)`\]\((.*?)\.md\)", index, re.MULTILINE) == sorted(
        ((name, name) for name in adapter_names()), key=lambda pair: index.index(f"[`{pair[0]}`]")
    )
    assert "docs/adapters/README.md" in (FOLDER.parents[1] / "README.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_examples(page: Path, tmp_path: Path) -> None:
    examples = re.findall(r"^```toml\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    assert examples
    for example in examples:
        config = tmp_path / "example.toml"
        config.write_text(example)
        assert tomllib.loads(example)["device"][0]["adapter"] == page.stem
        done = in_process("config", "check", "--config", config)
        assert (done.status, done.stderr) == (0, "")
