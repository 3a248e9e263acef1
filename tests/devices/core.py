"""The C core of the reference firmware, run on this machine with a clock of the test's own."""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import cbor2

from tests.devices.building import SENSORS
from tests.firmware_adapters.frames import accepted_payloads
from tests.patience import PATIENCE

NO_VALUE = -(2**31)


class Core:
    """A node, driven call by call; see tests/devices/c/node_host.c.

    As a context manager it has to end in order: whatever a sanitizer finds ends it otherwise.
    """

    def __init__(self, program: Path) -> None:
        self._process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )

    def start(self, board: int = 0, boot: int = 1, interval_ms: int = 1000) -> None:
        self._tell("s", "<III", board, boot, interval_ms)

    def time(self, now_ms: int) -> None:
        """Set the clock; it is kept modulo 2**32."""
        self._tell("t", "<I", now_ms % 2**32)

    def measured(self, values: Sequence[int]) -> None:
        self._tell("m", f"<{SENSORS}i", *values)

    def receive(self, data: bytes) -> None:
        self._tell("r", f"<I{len(data)}s", len(data), data)

    def is_map(self, payload: bytes) -> bool:
        """Whether the reader of commands takes bytes for one map with text as keys."""
        return self._ask("p", f"<I{len(payload)}s", len(payload), payload) == b"\1"

    def frame(self) -> bytes:
        """The frame that it sends next; empty if it has none."""
        return self._ask("f")

    def message(self) -> dict[str, Any] | None:
        """What the next frame says."""
        frame = self.frame()
        if not frame:
            return None
        (payload,) = accepted_payloads(frame)
        message: dict[str, Any] = cbor2.loads(payload)
        return message

    def due(self) -> tuple[bool, int]:
        """Whether readings are due, and the interval in milliseconds."""
        due, interval_ms = struct.unpack("<II", self._ask("d"))
        return bool(due), interval_ms

    def rewrite_settings(self, copies: bytes) -> bytes:
        """What the memory for settings, two copies, holds after a start."""
        return self._ask("c", f"<{len(copies)}s", copies)

    def _tell(self, request: str, form: str = "", *arguments: Any) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(request.encode() + struct.pack(form, *arguments))
            self._process.stdin.flush()
        except BrokenPipeError:
            self._fail()

    def _ask(self, request: str, form: str = "", *arguments: Any) -> bytes:
        self._tell(request, form, *arguments)
        assert self._process.stdout is not None
        head = self._process.stdout.read(2)
        if len(head) < 2:
            self._fail()
        return self._process.stdout.read(int.from_bytes(head, "little"))

    def _fail(self) -> None:
        _, said = self._process.communicate(timeout=PATIENCE)
        raise AssertionError(f"the core ended: {said.decode()}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        _, said = self._process.communicate(timeout=PATIENCE)
        assert self._process.returncode == 0, said.decode()
