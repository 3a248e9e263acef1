"""An emulated BBC micro:bit with MicroPython on it. Its prompt is on its serial port."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Self

import pytest

from tests.devices.building import need

_MICROPYTHON = Path("/usr/share/firmware-microbit-micropython/firmware.hex")


class Microbit:
    """QEMU's; `port` is the path of the serial port. Its files are lost at the end.

    Skips the test where QEMU or MicroPython is missing.
    """

    def __init__(self, port: Path) -> None:
        need("qemu-system-arm", "qemu-system-arm")
        if not _MICROPYTHON.exists():
            pytest.skip(f"{_MICROPYTHON} is missing (Debian: firmware-microbit-micropython)")
        self.port = port
        machine = ["-M", "microbit", "-device", f"loader,file={_MICROPYTHON}"]
        streams = ["-nographic", "-monitor", "none", "-serial", "pty"]
        self._process = subprocess.Popen(
            ["qemu-system-arm", *machine, *streams],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __enter__(self) -> Self:
        assert self._process.stdout is not None
        # char device redirected to /dev/pts/7 (label serial0)
        said = self._process.stdout.readline()
        path = next((word for word in said.split() if word.startswith("/dev/")), None)
        assert path is not None, said
        self.port.symlink_to(path)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()
