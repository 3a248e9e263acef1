"""docs/doctor.md names every check."""

from __future__ import annotations

import re
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


def test_the_page_names_every_check() -> None:
    page = (CHECKOUT / "docs" / "doctor.md").read_text()
    table = [line.split("|")[1] for line in page.splitlines() if line.startswith("| `")]
    named = {name for cell in table for name in re.findall(r"`(\w+)`", cell)}
    code = "".join(file.read_text() for file in (CHECKOUT / "agent" / "doctor").glob("*.py"))
    made = {*re.findall(r'Finding\(\s*\*?\(?"(\w+)"', code)}
    assert {"port", "disk", "clock"} < made
    assert named == made | {"tls", "certificate"}  # whose name is an argument
