"""Checks shared by the adapters: what a device may say, and what may be said to it.

Everything here is given untrusted values that a decoder has produced.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec
from msgspec.structs import replace

from firmware_adapters.adapter import Event, EventKind, Held, Reading, Report, Value

MAX_READINGS = 64
MAX_NAME = 64
MAX_UNIT = 32
MAX_LOG = 512
MAX_SETTINGS = 64
MAX_REASON = 128
MAX_DEPTH = 4

MAX_NUMBER = 2**32 - 1
"""The greatest number of a command."""

_MAX_SEQUENCE = 2**32 - 1
_MAX_AGE_MS = 2**32 - 1  # 49 days
_MAX_EXACT = 2**53 - 1  # the largest integer every JSON reader keeps exact
_MAX_INT64 = 2**63 - 1

_RFC3339_UTC = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?)(?:Z|\+00:00)", re.ASCII)


class Header(msgspec.Struct, frozen=True):
    """What the readings of one frame share; see `Reading` for the fields."""

    sequence: int | None = None
    boot: int | str | None = None
    time: str | None = None
    uptime_ms: int | None = None
    age_ms: int | None = None
    held: Held | None = None


class MalformedError(ValueError):
    """A frame arrived whole but does not say what its format asks for; the text says why.

    `header` is what could be read of it all the same.
    """

    def __init__(self, reason: str, header: Header | None = None) -> None:
        super().__init__(reason)
        self.header = header or Header()


def read_header(
    *,
    sequence: object,
    boot: object,
    uptime_ms: object,
    time: object,
    age_ms: object = None,
    oldest: object = None,
    dropped: object = None,
) -> tuple[Header, list[Reading | Event]]:
    """Check what the readings of one frame share; each part may be None.

    `sequence`: an unsigned 32-bit integer. `boot`: 0 to 2**53-1, or 1 to 64 printable
    characters. `uptime_ms`: 0 to 2**53-1. `time`: RFC 3339 text in UTC. A device whose clock
    is not set still measures, so a bad time is only left out; the list then says so.
    `age_ms`: an unsigned 32-bit integer.
    `oldest` and `dropped`: unsigned 32-bit integers, see `Held`; without a sequence number and
    a boot id of at most 64 bytes they mean nothing. Raises MalformedError for anything else.
    """
    number = _unsigned(sequence, "sequence number", _MAX_SEQUENCE)
    run = _boot(boot)
    header = Header(
        sequence=number,
        boot=run,
        uptime_ms=_unsigned(uptime_ms, "uptime", _MAX_EXACT),
        age_ms=_unsigned(age_ms, "age", _MAX_AGE_MS),
        held=None if number is None or not _can_be_named(run) else _held(oldest, dropped),
    )
    if time is None:
        return header, []
    try:
        return replace(header, time=_utc_time(time)), []
    except MalformedError as error:
        return header, [event(header, "malformed", str(error))]


def read_report(
    header: Header, answers: object, settings: object, refused: object
) -> Report | None:
    """Check what a device says of its settings, all of them; each part may be None.

    `answers`: an unsigned 32-bit integer. `settings`: a map from name to value, None for a setting
    without one. `refused`: a map from name to the reason. Without one of these two there is no
    report. Raises MalformedError for anything else.
    """
    try:
        number = _unsigned(answers, "number of the command", MAX_NUMBER)
        if settings is None and refused is None:
            return None
        values = _settings(settings, "settings")
        reasons = _settings(refused, "refused settings")
        return Report(
            {name: _scalar(value) for name, value in values.items() if value is not None},
            {name: _reason(reason) for name, reason in reasons.items()},
            number,
            complete=settings is not None,
        )
    except MalformedError as error:
        raise MalformedError(str(error), header) from None


def set_command(number: int, settings: Mapping[str, Value]) -> dict[str, Any]:
    """The command that tells a device settings, and asks for a report; see docs/firmware.md."""
    return {"n": number, "set": dict(settings)}


def frame_items(
    header: Header,
    values: object,
    units: object = None,
    log: object = None,
    report: Report | None = None,
) -> list[Reading | Event]:
    """Turn one good frame's contents into readings, and events for what it says beside them.

    `values` maps sensor to value; `units` is a map from sensor to unit, or None; `log` is
    text, or None. One unusable value costs only itself: the others are kept. A frame without
    any value, text or `report` is a heartbeat. Raises MalformedError when the frame is unusable.
    """
    if not isinstance(values, Mapping):
        raise MalformedError("the readings are not a map", header)
    if units is None:
        units = {}
    if not isinstance(units, Mapping):
        raise MalformedError("the units are not a map", header)
    if len(values) > MAX_READINGS:
        raise MalformedError(
            f"{len(values)} values in one frame, {MAX_READINGS} are allowed", header
        )
    items: list[Reading | Event] = []
    if log is not None:
        items.append(_log(header, log))
    if report is not None:
        items.append(settings_event(header, report))
    for name, value in values.items():
        try:
            items.append(_reading(header, name, value, units.get(name)))
        except MalformedError as error:
            told = event(header, "malformed", f"sensor {name[:MAX_NAME]!r}: {error}")
            items.append(replace(told, sensors=(name,) if _is_name(name, MAX_NAME) else ()))
    return items or [event(header, "heartbeat", "a frame without readings")]


def event(header: Header, kind: EventKind, detail: str, size: int = 0) -> Event:
    """Make an event that stems from a good frame; see `Event` for the fields."""
    return Event(kind, detail, size, header.sequence, header.boot, header.held)


def settings_event(header: Header, report: Report) -> Event:
    """Make the event that carries a report."""
    told = [f"{name}={value}" for name, value in report.settings.items()]
    told += [f"{name} refused: {reason}" for name, reason in report.refused.items()]
    detail = _shown(", ".join(told) or "no settings", MAX_LOG)
    return replace(event(header, "settings", detail), report=report)


def malformed(error: MalformedError, size: int) -> Event:
    """Make the event for an unusable frame of `size` bytes; its number is used up all the same."""
    return event(error.header, "malformed", str(error), size)


def plain(value: Any, depth: int = MAX_DEPTH) -> Any:
    """Copy a JSON-like value, and refuse anything a small device could not be sent.

    Allowed: text, finite floats, 64-bit integers, booleans, None, and lists and maps (text
    keys) of those, nested at most `depth` deep. Raises ValueError.
    """
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise ValueError("a command's names must be text")
        _no_deeper(depth)
        return {_text(key): plain(member, depth - 1) for key, member in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes | bytearray):
        _no_deeper(depth)
        return [plain(member, depth - 1) for member in value]
    return None if value is None else _scalar(value)


def _no_deeper(depth: int) -> None:
    if depth == 0:
        raise ValueError(f"a command may be nested {MAX_DEPTH} deep")


def _boot(value: object) -> int | str | None:
    if isinstance(value, str):
        if not _is_name(value, MAX_NAME):
            raise MalformedError("the boot id is not 1 to 64 printable characters")
        return value
    return _unsigned(value, "boot id", _MAX_EXACT)


def _can_be_named(boot: int | str | None) -> bool:
    """Whether there is a boot id, short enough for an acknowledgement to name it."""
    return len(boot.encode()) <= MAX_NAME if isinstance(boot, str) else boot is not None


def _held(oldest: object, dropped: object) -> Held | None:
    first = _unsigned(oldest, "oldest number held", _MAX_SEQUENCE)
    if first is None:
        return None
    return Held(first, _unsigned(dropped, "number of dropped frames", _MAX_SEQUENCE) or 0)


def _utc_time(value: object) -> str:
    match = _RFC3339_UTC.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise MalformedError("the time is not RFC 3339 in UTC")
    try:
        datetime.fromisoformat(match[1][:19])
    except ValueError as error:
        raise MalformedError("the time names no moment of the calendar") from error
    return match[1] + "Z"


def _reading(header: Header, name: str, value: object, unit: object) -> Reading | Event:
    if not _is_name(name, MAX_NAME):
        raise MalformedError("the name is not 1 to 64 printable characters")
    if value is None:
        told = event(header, "no-value", f"sensor {name!r} has no value")
        return replace(told, sensors=(name,))
    if unit is not None and not (isinstance(unit, str) and _is_name(unit, MAX_UNIT)):
        raise MalformedError("the unit is not 1 to 32 printable characters")
    return Reading(
        sensor=name,
        value=_scalar(value),
        unit=unit,
        time=header.time,
        sequence=header.sequence,
        boot=header.boot,
        uptime_ms=header.uptime_ms,
        age_ms=header.age_ms,
        held=header.held,
    )


def _log(header: Header, text: object) -> Event:
    if not isinstance(text, str):
        raise MalformedError("the log message is not text", header)
    return event(header, "log", _shown(text, MAX_LOG))


def _settings(told: object, what: str) -> Mapping[str, object]:
    """The map of names that `told` has to be; empty for None."""
    if told is None:
        return {}
    if not isinstance(told, Mapping):
        raise MalformedError(f"the {what} are not a map")
    if len(told) > MAX_SETTINGS or not all(_is_name(name, MAX_NAME) for name in told):
        raise MalformedError(
            f"the {what} are not at most {MAX_SETTINGS}, with names of 1 to {MAX_NAME} characters"
        )
    return told


def _reason(reason: object) -> str:
    if not isinstance(reason, str):
        raise MalformedError("the reason of a refusal is not text")
    return _shown(reason, MAX_REASON) or "refused"


def _shown(text: str, longest: int) -> str:
    """Such text ends up in logs and on terminals: no control characters get through."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:longest])


def _scalar(value: object) -> Value:
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if not -_MAX_INT64 - 1 <= value <= _MAX_INT64:
            raise MalformedError("an integer beyond 64 bits")
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise MalformedError("a number that is not finite")
        return value
    if isinstance(value, str):
        return _text(value)
    raise MalformedError(f"{type(value).__name__} is not a number, text or true/false")


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can spell half of a surrogate pair
        raise MalformedError("text that is not Unicode") from error
    return value


def _unsigned(value: object, what: str, maximum: int) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= maximum:
        raise MalformedError(f"the {what} is not an integer from 0 to {maximum}")
    return value


def _is_name(text: str, longest: int) -> bool:
    return 1 <= len(text) <= longest and text.isprintable()
