"""docs/dashboard.md: its example is a whole configuration file."""

from __future__ import annotations

import re
from pathlib import Path

from agent.config_file import load_hub

PAGE = Path(__file__).parents[2] / "docs" / "dashboard.md"


def test_the_example_has_a_reader(tmp_path: Path) -> None:
    [example] = re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    path = tmp_path / "hub.toml"
    path.write_text(example)
    roles = {user.name: user.roles for user in load_hub(path).user}
    assert roles == {"anna": ["_admin"], "control-room": ["operators", "_reader"]}
