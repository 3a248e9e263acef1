"""Runs a real Mosquitto, on a free port, with whatever configuration a test needs."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

from tests.patience import PATIENCE
from tests.rig.network import find_free_port

PROGRAM = shutil.which("mosquitto", path=os.environ["PATH"] + ":/usr/sbin")


class Mosquitto:
    """A broker that keeps its port over restarts. Without persistence: a restart forgets all.

    `listener` are lines of its configuration that belong to the listener, `more` other lines.
    """

    def __init__(
        self, folder: Path, *, listener: str = "", more: str = "", anonymous: bool = True
    ) -> None:
        self.folder = folder
        self.scheme = "mqtt"
        self.port = find_free_port()
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._config = folder / "mosquitto.conf"
        if "websockets" in listener:
            # Mosquitto 2.0 does not start with such listeners alone.
            more += f"\nlistener {find_free_port()} 127.0.0.1"
        self._config.write_text(
            f"listener {self.port} 127.0.0.1\n{listener}\n"
            f"allow_anonymous {'true' if anonymous else 'false'}\n"
            # Or else small packets wait for the acknowledgement of earlier ones.
            f"set_tcp_nodelay true\nuser root\n{more}\n"
        )

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}"

    @property
    def log(self) -> str:
        return (self.folder / "mosquitto.log").read_text(errors="replace")

    def start_now(self) -> None:
        """Returns once it accepts connections. Blocks."""
        assert PROGRAM is not None, "mosquitto is missing; scripts/test installs it"
        with (self.folder / "mosquitto.log").open("ab") as log:
            self._process = subprocess.Popen(
                [PROGRAM, "-c", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise RuntimeError(f"mosquitto ended while starting:\n{self.log}")
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise TimeoutError(f"mosquitto did not answer:\n{self.log}")

    def send(self, number: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def end_now(self, number: signal.Signals = signal.SIGTERM) -> None:
        """End it, and wait until it has. No effect if it does not run."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(number)
            self._process.wait()
            self._process = None

    async def start(self) -> None:
        await asyncio.to_thread(self.start_now)

    async def stop(self) -> None:
        await asyncio.to_thread(self.end_now)

    async def kill(self) -> None:
        await asyncio.to_thread(self.end_now, signal.SIGKILL)

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.kill()
