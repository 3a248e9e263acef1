"""A board and a gateway that records it, and what the gateway has stored."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar
from urllib.request import urlopen

import msgspec

from tests import agents
from tests.agents import AgentProcess
from tests.patience import PATIENCE, when_true


class Device(Protocol):
    @property
    def port(self) -> Path: ...


DeviceT = TypeVar("DeviceT", bound=Device)


class Site(Generic[DeviceT]):
    """A board, and the gateway that it is plugged into."""

    def __init__(self, folder: Path, board: DeviceT) -> None:
        self.board = board
        self._config = agents.gateway_config(
            folder / "gateway.toml",
            agents.table("device", name="node", port=str(board.port), adapter="cbor-frames"),
        )
        self._store = folder / "gateway" / "edge.sqlite"
        self._gateway: AgentProcess | None = None
        self._url = ""

    def start(self) -> None:
        self._gateway = agents.gateway(self._config)
        self._url = self._gateway.wait_until_ready()

    def kill(self) -> None:
        """kill -9. No effect if it does not run."""
        if self._gateway is not None:
            self._gateway.kill()

    def stop(self) -> None:
        assert self._gateway is not None
        finished = self._gateway.stop()
        assert finished.status == 0, finished.stderr
        assert "Traceback" not in finished.stderr

    def device(self) -> Any:
        """What the agent says of the device."""
        with urlopen(f"{self._url}/_status", timeout=PATIENCE) as answer:
            return msgspec.json.decode(answer.read())["devices"][0]

    def readings(self) -> list[dict[str, Any]]:
        if not self._store.exists():
            return []
        with contextlib.closing(sqlite3.connect(f"file:{self._store}?mode=ro", uri=True)) as db:
            sql = "SELECT body FROM docs WHERE body ->> 'type' = 'reading' ORDER BY seq"
            return [msgspec.json.decode(body) for (body,) in db.execute(sql)]

    def wait_for(self, frames: int) -> None:
        """Until so many more frames are stored than now, and none is missing up to the last."""
        before = len(self._frames())

        def arrived() -> bool:
            found = self._frames()
            return len(found) >= before + frames and found == set(range(max(found) + 1))

        when_true(arrived, f"{frames} frames more")

    def at_rest(self) -> Any:
        """What the agent says of the device when nothing more arrives from it."""
        before = self.device()
        while True:
            time.sleep(1.5)
            device = self.device()
            if device["bytes_received"] == before["bytes_received"]:
                return device
            before = device

    def _frames(self) -> set[int]:
        return {reading["sequence"] for reading in self.readings()}
