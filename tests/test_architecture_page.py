"""docs/architecture.md names every module, under its package, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "architecture.md"


def named() -> dict[str, list[str]]:
    """The modules in the tables of the section "Modules", by package."""
    section = PAGE.read_text().partition("\n## Modules\n")[2].partition("\n## ")[0]
    packages = re.split(r"^### `(.+)`$", section, flags=re.MULTILINE)[1:]
    return {
        package: re.findall(
            r"`(\w+)`", "\n".join(re.findall(r"^\| (`.+?) \|", table, re.MULTILINE))
        )
        for package, table in zip(packages[::2], packages[1::2], strict=True)
    }


def packages() -> list[str]:
    folders = [path.parent for path in ROOT.glob("agent/**/__init__.py")]
    return sorted(".".join(folder.relative_to(ROOT).parts) for folder in folders)


def test_every_package_has_a_table() -> None:
    assert sorted(named()) == [*packages(), "firmware_adapters"]


@pytest.mark.parametrize("package", [*packages(), "firmware_adapters"])
def test_every_module_is_named_once(package: str) -> None:
    files = (ROOT / package.replace(".", "/")).glob("*.py")
    modules = sorted(path.stem for path in files if not path.stem.startswith("__"))
    assert sorted(named()[package]) == modules
