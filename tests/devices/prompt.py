"""A board with MicroPython on it: its prompt is on its serial port, its files are in a folder.

`python -m tests.devices.prompt FOLDER` is that board; its serial port is its standard input and
output. Like a board it runs `main.py`, if there is one, and then shows its prompt; Ctrl-D there
begins anew.
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import subprocess
import sys
import termios
import tty
from pathlib import Path

from tests.devices.micropython import micropython

_PIECE = 4096


def serve(folder: Path) -> None:
    """Run MicroPython's Unix port until standard input ends. It wants a terminal of its own.

    That terminal controls it: when this process has ended, however that happened, it is hung up,
    and MicroPython ends as well. Its prompt would go on asking a terminal that is gone.
    """
    outside, inside = os.openpty()
    tty.setraw(inside)
    while True:
        main = ["main.py"] if (folder / "main.py").exists() else []
        with subprocess.Popen(
            [micropython(), "-i", *main],
            cwd=folder,
            stdin=inside,
            stdout=inside,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_be_controlled_by_standard_input,
        ) as process:
            while process.poll() is None:
                if not _carry(outside):
                    process.kill()
                    return


def _be_controlled_by_standard_input() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # which nohup, for one, has ignored
    fcntl.ioctl(sys.stdin.fileno(), termios.TIOCSCTTY, 0)


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
