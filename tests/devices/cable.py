"""The line between a device's serial port and the port that an agent opens."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import tty
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from tests.patience import PATIENCE

_PIECE = 4096


class Board:
    """A device on a cable that can be unplugged while the device goes on.

    The device is a program whose standard input and output are its serial port; what it says on
    standard error is added to the file `log`. `port` is the path that an agent opens; it is there
    while the cable is plugged in. `noise` is what the cable does to bytes, in both directions. With
    `resets` opening the port presses the reset button of a simulated board, as on an Arduino.
    """

    def __init__(self, port: Path, log: Path, command: Sequence[str | Path]) -> None:
        self.port = port
        self.noise: Callable[[bytes], bytes] = bytes
        self.resets = False
        self._lock = threading.Lock()
        self._near = -1
        self._spoke = threading.Event()
        self._ended = threading.Event()
        with log.open("ab") as file:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=file, bufsize=0
            )
        self._carriers = [
            threading.Thread(target=self._carry_to_port),
            threading.Thread(target=self._carry_to_device),
        ]
        for carrier in self._carriers:
            carrier.start()

    def plug_in(self) -> None:
        """Make the port appear."""
        near, far = os.openpty()
        tty.setraw(far)
        os.set_blocking(near, False)
        self.port.unlink(missing_ok=True)
        self.port.symlink_to(os.ttyname(far))
        os.close(far)  # nobody has it open; it stays raw
        with self._lock:
            self._near = near

    def unplug(self) -> None:
        """Make the port vanish. The device notices nothing; what it says meanwhile is lost."""
        self.port.unlink(missing_ok=True)
        with self._lock:
            if self._near >= 0:
                os.close(self._near)
            self._near = -1

    def tell(self, data: bytes) -> None:
        """Have the device receive bytes, past the cable, once it has started."""
        assert self.process.stdin is not None
        assert self._spoke.wait(PATIENCE)
        self.process.stdin.write(data)

    def reset(self) -> None:
        """Press the reset button of a simulated board."""
        self.process.send_signal(signal.SIGUSR1)

    def end(self) -> None:
        """End the device, in order."""
        self.unplug()
        self._ended.set()
        self.process.terminate()
        self.process.wait(PATIENCE)
        for carrier in self._carriers:
            carrier.join()
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            stream.close()

    def _carry_to_port(self) -> None:
        assert self.process.stdout is not None
        while data := self.process.stdout.read(_PIECE):
            self._spoke.set()
            with self._lock:
                if self._near >= 0:
                    # When nobody reads it is lost, as on a real line.
                    with contextlib.suppress(BlockingIOError):
                        os.write(self._near, self.noise(data))

    def _carry_to_device(self) -> None:
        assert self.process.stdin is not None
        is_open = False
        while not self._ended.is_set():
            was_open, data = is_open, b""
            with self._lock:
                try:
                    data = os.read(self._near, _PIECE) if self._near >= 0 else b""
                    is_open = self._near >= 0
                except BlockingIOError:
                    is_open = True
                except OSError:  # nobody has the port open
                    is_open = False
            if is_open and not was_open and self.resets:
                self.reset()
            if data:
                try:
                    self.process.stdin.write(self.noise(data))
                except BrokenPipeError:
                    return
            else:
                self._ended.wait(0.002)

    def __enter__(self) -> Self:
        self.plug_in()
        return self

    def __exit__(self, *_: object) -> None:
        self.end()
