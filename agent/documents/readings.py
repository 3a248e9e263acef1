"""Documents of readings: one each, or those of a time window in columns. Pure.

Their ids are `device:sensor:time:sequence`; what is a reading is told by the body, though, since
any document may have such an id. docs/recording.md describes both forms.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Any, TypeAlias

import msgspec

from agent.documents.times import microseconds

Value: TypeAlias = int | float | bool | str | None

NOT_GOOD = 1
CLOCK_CORRECTED = 2
CLOCK_UNSET = 4
"""Flags of readings: the quality is not good, the time was corrected, or is not known for sure."""

_NAMES_IN_ID = re.compile(r"(.+):[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z:[^:]*")


# Anybody may write documents that look like readings: what no adapter tells is none.
_Integer: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
_Value: TypeAlias = _Integer | float | bool | str | None


class _Columns(msgspec.Struct):
    time: list[_Integer]
    value: list[_Value]


class _Single(msgspec.Struct, tag_field="type", tag="reading"):
    device: str
    sensor: str
    time: str
    value: _Value
    unit: str | None = None
    quality: Any = None
    clock: Any = None


class _Window(msgspec.Struct, tag_field="type", tag="readings"):
    device: str
    sensor: str
    time: str
    columns: _Columns
    unit: str | None = None
    quality: Any = None
    clock: Any = None


class _Values(msgspec.Struct):
    value: list[msgspec.Raw]


class _Packed(msgspec.Struct):
    columns: _Values


_decoder = msgspec.json.Decoder(_Single | _Window)
_decode_columns = msgspec.json.Decoder(_Packed).decode


class Readings(msgspec.Struct, frozen=True):
    """What one document tells. `times`, in microseconds since the epoch, rise; there are as many
    as `values`, and at least one."""

    device: str
    sensor: str
    unit: str | None
    quality: str | None
    flags: int
    times: Sequence[int]
    values: Sequence[Value]


def readings_of(body: str) -> Readings | None:
    """The readings in a document's body (JSON text), or in a part of one; None for any other.

    Those before 1970, or from `LATEST` on, are none either.
    """
    try:
        found = _decoder.decode(body)
        at = microseconds(found.time)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
    if isinstance(found, _Single):
        times, values = [at], [found.value]
    else:
        times = [at + offset for offset in found.columns.time]
        values = found.columns.value
        if not times or len(times) != len(values):
            return None
        if any(later < earlier for earlier, later in pairwise(times)):
            pairs = sorted(zip(times, values, strict=True), key=lambda pair: pair[0])
            times, values = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    if not 0 <= times[0] <= times[-1] < LATEST:
        return None
    quality = found.quality if isinstance(found.quality, str) else None
    flags = NOT_GOOD if quality not in (None, "good") else 0
    if found.clock is not None:
        flags |= CLOCK_CORRECTED if found.clock == "corrected" else CLOCK_UNSET
    return Readings(found.device, found.sensor, found.unit, quality, flags, times, values)


def readings_in(body: str) -> int:
    """How many readings a document's body has; cheaper than `readings_of`, and less strict."""
    if '"type":"reading"' in body:
        return 1
    if '"type":"readings"' not in body:
        return 0
    try:
        return len(_decode_columns(body).columns.value)
    except msgspec.DecodeError:  # somebody else's type of that name
        return 0


def named_in(id: str) -> str | None:
    """`device:sensor` of an id that looks like that of a reading; None for any other."""
    found = _NAMES_IN_ID.fullmatch(id)
    return found[1] if found else None


LATEST = microseconds("9999-01-01T00:00:00Z")
"""All times of readings are before this one."""
