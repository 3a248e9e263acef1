"""The demo keeps its promise, in the form in which scripts read it."""

from __future__ import annotations

import subprocess
import sys

import msgspec
import pytest

from tests.agents import CHECKOUT
from tests.patience import PATIENCE


@pytest.mark.parametrize("options", [(), ("--mqtt",)])
def test_the_demo(options: tuple[str, ...]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.demo_story", "--once", "--json", *options],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    result = msgspec.json.decode(line)
    sent = result["sent"]
    assert sent > 0
    assert result == {
        "sent": sent,
        "stored": sent,
        "replicated": sent,
        "missing": 0,
        "duplicated": 0,
        "conflicts": 1,
        "converged": True,
    }
