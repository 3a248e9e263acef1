"""Finds Node.js and the npm packages beside this file, which `scripts/test` installs."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

PEERS = Path(__file__).resolve().parent
PACKAGES = PEERS / "node_modules"


class NotInstalledError(RuntimeError):
    """Node.js or its packages are not here."""


def node_program() -> str:
    """The Node.js in the virtual environment if there is one, else the system's."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    program = shutil.which("node", path=path)
    if program is None or not PACKAGES.is_dir():
        raise NotInstalledError("Node.js or its packages are missing: run scripts/test once")
    return program
