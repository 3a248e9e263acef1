"""What is built: how large it is, and that a wheel has it, and nothing that it was made of."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

from agent.server.pages import BUILT

CHECKOUT = Path(__file__).parents[2]
MOST = 150 * 1024


def test_all_of_it_is_small() -> None:
    packed = list(BUILT.rglob("*.gz"))
    assert len(packed) == len([path for path in BUILT.rglob("*") if path.is_file()]) / 2
    assert 0 < sum(path.stat().st_size for path in packed) <= MOST


def test_it_names_no_other_host() -> None:
    """But for the names of XML's and SVG's vocabularies, which nobody asks anything."""
    for path in BUILT.rglob("*"):
        if path.is_file() and path.suffix != ".gz":
            text = path.read_text().replace("http://www.w3.org/", "")
            assert "http://" not in text, path
            assert "https://" not in text, path


def test_a_wheel_has_what_is_built_and_nothing_else_of_it(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True)
    [wheel] = tmp_path.iterdir()
    with zipfile.ZipFile(wheel) as files:
        names = [name for name in files.namelist() if name.startswith("agent/server/dashboard")]
    built = [str(path.relative_to(CHECKOUT)) for path in BUILT.rglob("*") if path.is_file()]
    assert sorted(names) == sorted(built)
