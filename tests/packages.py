"""Packages that publish conflict policies, as if they were installed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from agent.conflict_policies import ENTRY_POINT_GROUP

PAGE = Path(__file__).parents[1] / "docs" / "conflicts.md"


def example() -> str:
    """The policy `highest_bid` of docs/conflicts.md, in Python."""
    return PAGE.read_text().partition("```python\n")[2].partition("```")[0]


def publish(folder: Path, name: str, code: str, policies: Mapping[str, str]) -> None:
    """Put a package of one module, and its entry points, into a folder of packages."""
    info = folder / f"{name}-1.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
    lines = [f"{policy} = {place}" for policy, place in policies.items()]
    (info / "entry_points.txt").write_text("\n".join([f"[{ENTRY_POINT_GROUP}]", *lines, ""]))
    (folder / f"{name}.py").write_text(code)
