"""A device on a pseudo-terminal that, like a real one, is understood at its own baud rate only."""

from __future__ import annotations

import contextlib
import os
import pty
import termios
import threading
import tty
from collections.abc import Callable
from typing import Self

_EVERY = 0.02


class Uart:
    """Says something every 20 ms; nobody but who opens `path` has it open.

    `said` makes the bytes from a number that counts up. At another rate than `baud` each of them
    arrives as another one. What is sent to it, at any rate, is in `heard`.
    """

    def __init__(self, said: Callable[[int], bytes], baud: int = 115200) -> None:
        self.heard = bytearray()
        self._said = said
        self._speed = getattr(termios, f"B{baud}")
        self._device, line = pty.openpty()
        tty.setraw(line)
        self.path = os.ttyname(line)
        os.close(line)
        os.set_blocking(self._device, False)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        number = 0
        while not self._end.wait(_EVERY):
            number += 1
            data = self._said(number)
            if termios.tcgetattr(self._device)[4] != self._speed:
                data = bytes(byte * 7 % 256 ^ 0x91 for byte in data)
            with contextlib.suppress(BlockingIOError):  # nobody reads: it is lost
                os.write(self._device, data)
            with contextlib.suppress(OSError):  # nobody has the port open
                self.heard += os.read(self._device, 4096)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        os.close(self._device)


def json_line(number: int) -> bytes:
    return b'{"seq": %d, "temperature": %d, "units": {"temperature": "C"}}\n' % (number, number)
