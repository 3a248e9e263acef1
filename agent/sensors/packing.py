"""Fast sensors: one document for the readings of a time window, with columns. Pure.

A window is open until a reading of another one comes. Until then what is in it is durable as parts,
one for each batch, in a table of the store; its document replaces them, in one transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from agent.documents.revision import Revision, canonical, first_revision
from agent.documents.times import microseconds, timestamp
from agent.sensors.moments import Mark
from firmware_adapters.adapter import Value

_MOST_ROWS = 1000
"""Readings of one window: its document stays below 100 KiB, and is quick to unpack in SQL."""

_MOST_WINDOWS = 1000
"""Open windows of one device; noise on a line without checksums may look like ever new sensors."""

_MODULUS = 2**32  # of sequence numbers


class Shared(NamedTuple):
    """What all readings of a window have in common, and which columns there are."""

    device: str
    sensor: str
    unit: str | None
    quality: str | None
    boot: int | str | None
    columns: tuple[str, ...]
    unset: tuple[str, int] | None = None
    """Where the times are provisional: the machine's boot, and what was added to moments of its
    monotonic clock, in microseconds."""


class Row(NamedTuple):
    """One reading of a window; `at` in microseconds since the epoch."""

    at: int
    value: Value
    sequence: int | None = None
    uptime_ms: int | None = None
    raw: Value | None = None


class Columns(Struct, omit_defaults=True):
    """`time` (in microseconds), `sequence` and `uptime_ms` count from the body's."""

    time: list[int]
    value: list[Value]
    sequence: list[int] = []
    uptime_ms: list[int] = []
    raw: list[Value] = []


class Body(Struct, tag_field="type", tag="readings", omit_defaults=True):
    """The document of a window. The numbers are those of the reading that opened it."""

    device: str
    sensor: str
    time: str
    columns: Columns
    unit: str | None = None
    quality: str | None = None
    boot: int | str | None = None
    sequence: int | None = None
    uptime_ms: int | None = None
    clock: str | None = None
    boot_id: str | None = None
    monotonic: float | None = None


class Window(msgspec.Struct, frozen=True):
    """An open window. `id` is that of the document that it becomes; the first row is the one that
    opened it; the first `stored` of them are durable as parts."""

    id: str
    shared: Shared
    rows: tuple[Row, ...]
    stored: int = 0

    def body(self, rows: Iterable[Row]) -> dict[str, Any]:
        """The document's body, with these of the window's rows."""
        device, sensor, unit, quality, boot, _, unset = self.shared
        first = self.rows[0]
        columns = Columns([], [])
        for row in rows:
            columns.time.append(row.at - first.at)
            columns.value.append(row.value)
            if row.sequence is not None and first.sequence is not None:
                columns.sequence.append((row.sequence - first.sequence) % _MODULUS)
            if row.uptime_ms is not None and first.uptime_ms is not None:
                columns.uptime_ms.append(row.uptime_ms - first.uptime_ms)
            if row.raw is not None:
                columns.raw.append(row.raw)
        at = timestamp(first.at)
        numbers = (first.sequence, first.uptime_ms)
        body = Body(device, sensor, at, columns, unit, quality, boot, *numbers)
        built: dict[str, Any] = msgspec.to_builtins(body)
        if unset is not None:
            boot_id, offset = unset
            built |= Mark(boot_id, first.at - offset).members()
        return built

    def document(self) -> Revision:
        """What the window becomes; its rows in the order of their times."""
        return first_revision(self.id, self.body(sorted(self.rows, key=lambda row: row.at)))


def shared(
    device: str,
    sensor: str,
    unit: str | None,
    quality: str | None,
    boot: int | str | None,
    row: Row,
    unset: tuple[str, int] | None = None,
) -> Shared:
    """What a row has in common with the others of its window."""
    there = tuple(name for name in Row._fields if getattr(row, name) is not None)
    return Shared(device, sensor, unit, quality, boot, there, unset)


def rows_of(body: Body) -> list[Row]:
    """The readings in a window's document, or in a part of one."""
    base = microseconds(body.time)
    columns = body.columns
    nothing = [None] * len(columns.time)
    return [
        Row(
            base + at,
            value,
            None if sequence is None else ((body.sequence or 0) + sequence) % _MODULUS,
            None if uptime is None else (body.uptime_ms or 0) + uptime,
            raw,
        )
        for at, value, sequence, uptime, raw in zip(
            columns.time,
            columns.value,
            columns.sequence or nothing,
            columns.uptime_ms or nothing,
            columns.raw or nothing,
            strict=True,
        )
    ]


def _unset(body: Body) -> tuple[str, int] | None:
    if body.boot_id is None or body.monotonic is None:
        return None
    return body.boot_id, microseconds(body.time) - round(1000 * body.monotonic)


def restored(parts: Iterable[tuple[str, str]]) -> dict[str, Window]:
    """The open windows by sensor, from their parts: ids of windows and bodies, in their order.

    Raises msgspec.DecodeError.
    """
    windows: dict[str, Window] = {}
    for id, text in parts:
        body = msgspec.json.decode(text, type=Body)
        rows = rows_of(body)
        found = windows.get(body.sensor)
        if found is None:
            names = (body.device, body.sensor, body.unit, body.quality, body.boot)
            found = Window(id, shared(*names, rows[0], _unset(body)), ())
        rows_now = (*found.rows, *rows)
        windows[body.sensor] = replace(found, rows=rows_now, stored=len(rows_now))
    return windows


class Packer:
    """The windows of a device during one batch. `open` is what will be open after it, `documents`
    are those of the windows that were closed, `closed` the ids of those that left parts."""

    def __init__(self, windows: Mapping[str, Window]) -> None:
        self.open = dict(windows)
        self.documents: list[Revision] = []
        self.marked = 0
        """How many of these have times that are not known to be right."""
        self.closed: list[str] = []

    def take(self, id: str, common: Shared, row: Row, length: int, *, late: bool) -> bool:
        """Put a reading, whose own document would have this `id`, into its window.

        Windows are `length` microseconds long, beginning at whole multiples of that. One that
        comes late opens none; False when the reading has to be stored by itself.
        """
        sensor = common.sensor
        window = self.open.get(sensor)
        if window is not None and (
            window.shared == common
            and window.rows[0].at // length == row.at // length
            and len(window.rows) < _MOST_ROWS
        ):
            self.open[sensor] = replace(window, rows=(*window.rows, row))
            return True
        if late or (window is None and len(self.open) >= _MOST_WINDOWS):
            return False
        self.close(sensor)
        self.open[sensor] = Window(id, common, (row,))
        return True

    def close(self, sensor: str) -> None:
        """Make a document of a sensor's window, if one is open."""
        window = self.open.pop(sensor, None)
        if window is not None:
            self.documents.append(window.document())
            self.marked += window.shared.unset is not None
            if window.stored:
                self.closed.append(window.id)

    def parts(self) -> list[tuple[str, str]]:
        """The windows' ids and bodies of what came into open windows; it counts as stored."""
        made = []
        for sensor, window in self.open.items():
            if window.stored < len(window.rows):
                body = window.body(window.rows[window.stored :])
                made.append((window.id, canonical(body).decode()))
                self.open[sensor] = replace(window, stored=len(window.rows))
        return made
