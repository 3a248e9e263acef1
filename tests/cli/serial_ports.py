"""What pyserial lists, where a test says so: it lists no pseudo-terminals."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import pytest


@dataclass(order=True)
class Listed:
    """What pyserial says of a port."""

    device: str
    product: str | None = None
    vid: int | None = None
    pid: int | None = None
    serial_number: str | None = None
    location: str | None = None


def listing(monkeypatch: pytest.MonkeyPatch) -> Callable[[Iterable[Listed]], None]:
    """A function that says what is listed from then on."""

    def say(found: Iterable[Listed]) -> None:
        monkeypatch.setattr("agent.sensors.ports.list_ports.comports", lambda: list(found))

    return say
