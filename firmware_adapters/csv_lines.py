"""CSV lines: the same columns in each line, for loggers and sketches that print numbers."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from typing import Annotated, Any, NoReturn

from msgspec import Meta

from firmware_adapters.adapter import Event, Reading
from firmware_adapters.fields import MAX_READINGS
from firmware_adapters.lines import DamagedError, Lines, ascii_text, without_xor
from firmware_adapters.quantities import Checksum, Quantity
from firmware_adapters.settings import Settings

MAX_LINE = 1024
"""Longest line in bytes, without its line feed."""


class Column(Quantity):
    """`[[device.settings.column]]`: one column; without a name it is not recorded."""


class CsvSettings(Settings):
    """What a line holds, from left to right."""

    column: list[Column]
    delimiter: Annotated[
        str,
        Meta(
            pattern=r"^[^\s\"*0-9A-Za-z+.-]$|^[ \t]$",
            description="one character between two columns",
            examples=[";"],
        ),
    ] = ","
    decimal_comma: Annotated[
        bool, Meta(description="true: numbers are written as 21,5", examples=[True])
    ] = False
    checksum: Checksum = "none"

    def __post_init__(self) -> None:
        names = [column.name for column in self.column if column.name is not None]
        if not names:
            raise ValueError('no column has a name, for example name = "temperature"')
        if len(names) > MAX_READINGS:
            raise ValueError(f"{len(names)} columns have names, {MAX_READINGS} are allowed")
        if len(set(names)) < len(names):
            raise ValueError("two columns have the same name; each needs its own")
        if self.decimal_comma and self.delimiter == ",":
            raise ValueError('decimal_comma needs another delimiter, for example delimiter = ";"')


class CsvLines:
    """An `Adapter` for lines of values (RFC 4180, one record a line, ASCII).

    Without a check value a damaged line may pass: one that has the right number of columns, each
    of its type and in its range. One value that is not costs the whole line.
    """

    Settings = CsvSettings

    def __init__(self, settings: CsvSettings) -> None:
        self._settings = settings
        self._lines = Lines(MAX_LINE, self._line, checked=settings.checksum != "none")

    def receive(self, data: bytes) -> list[Reading | Event]:
        """Decode the lines that `data` completes; see `Adapter.receive`."""
        return self._lines.receive(data)

    def encode(self, command: Mapping[str, Any]) -> NoReturn:
        """Raises ValueError: the format has no commands."""
        raise ValueError("a device that sends CSV lines takes no commands")

    def reset(self) -> None:
        """Forget the unfinished line."""
        self._lines.reset()

    def _line(self, line: bytes) -> list[Reading | Event]:
        settings = self._settings
        if settings.checksum == "xor":
            line = without_xor(line)
        try:
            [cells] = csv.reader([ascii_text(line)], delimiter=settings.delimiter, strict=True)
        except csv.Error as error:
            raise DamagedError("malformed", f"not CSV: {error}") from error
        if len(cells) != len(settings.column):
            detail = f"{len(cells)} columns instead of {len(settings.column)}"
            raise DamagedError("malformed", detail)
        items: list[Reading | Event] = []
        for number, (cell, column) in enumerate(zip(cells, settings.column, strict=True), 1):
            text = cell.strip()
            if column.name is None:
                continue
            if not text:
                detail = f"sensor {column.name!r} has no value"
                items.append(Event("no-value", detail, sensors=(column.name,)))
                continue
            if settings.decimal_comma and column.type == "number":
                text = text.replace(",", ".", 1)
            value = column.read(text, f"column {number}")
            items.append(Reading(column.name, value, column.unit))
        return items
