"""A board with MicroPython on it: its prompt is on its serial port, its files are in a folder.

`python -m tests.devices.prompt FOLDER` is that board; its serial port is its standard input and
output. Like a board it runs `main.py`, if there is one, and then shows its prompt; Ctrl-D there
begins anew.
"""

from __future__ import annotations

import os
import select
import subprocess
import sys
import tty
from pathlib import Path

from tests.devices.micropython import micropython

_PIECE = 4096


def serve(folder: Path) -> None:
    """Run MicroPython's Unix port until standard input ends. It wants a terminal of its own."""
    inside, outside = os.openpty()
    tty.setraw(outside)
    while True:
        main = ["main.py"] if (folder / "main.py").exists() else []
        with subprocess.Popen(
            [micropython(), "-i", *main],
            cwd=folder,
            stdin=inside,
            stdout=inside,
            stderr=subprocess.DEVNULL,
        ) as process:
            while process.poll() is None:
                if not _carry(outside):
                    process.kill()
                    return


def _carry(outside: int) -> bool:
    """Carry what has come; False at the end of standard input."""
    pairs = {outside: sys.stdout.fileno(), sys.stdin.fileno(): outside}
    for source in select.select(list(pairs), [], [], 0.05)[0]:
        data = os.read(source, _PIECE)
        if not data:
            return False
        os.write(pairs[source], data)
    return True


if __name__ == "__main__":
    serve(Path(sys.argv[1]))
