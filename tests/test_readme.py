"""README.md: its configuration works as it stands. And links lead somewhere, in all pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.helpers import in_process

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]

GATEWAY, *MORE = re.findall(r"^```toml\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    (tmp_path / "cloud.password").write_text("secret")
    return tmp_path / "gateway.toml"


def test_its_tables_are_those_of_a_gateway(config: Path) -> None:
    assert len(MORE) == 4
    config.write_text("\n".join([GATEWAY, *MORE]))
    said = in_process("config", "check", "--config", config).stdout
    assert said == (
        f"{config}: ok (devices: greenhouse; remotes: cloud; telemetry: site; "
        "conflicts: settings; hooks: alarms)\n"
    )


def test_the_mistake_is_explained_as_shown(config: Path) -> None:
    config.write_text(GATEWAY.replace("direction", "direktion"))
    complaint = in_process("config", "check", "--config", config).complaint()
    shown = re.search(r"^Error: gateway\.toml: (.*?)^```$", README, re.MULTILINE | re.DOTALL)
    assert shown is not None
    assert complaint == f"{config}: {' '.join(shown[1].split())}"


def anchors(page: Path) -> set[str]:
    """Of the headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", each).lower().replace(" ", "-") for each in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        path, _, anchor = link.partition("#")
        if "://" in path:
            continue
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
