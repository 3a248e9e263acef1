"""Decoders and encoders for what devices say on a wire. They do no I/O.

Any installed package can publish more adapters than those built in, in the entry point group
"edge_sync_agent.adapters": each names something that can be called and returns an `Adapter`. It
is called without arguments or, if it has an attribute `Settings`, a type that msgspec can make of
plain values, with one of those. An adapter whose devices have to be asked is a `PollingAdapter`,
one whose devices can be told settings a `SettableAdapter`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import msgspec

from firmware_adapters.adapter import (
    Adapter,
    Event,
    EventKind,
    Held,
    PollingAdapter,
    Reading,
    Report,
    SettableAdapter,
    Turn,
    Value,
)
from firmware_adapters.cbor_frames import CborFrames
from firmware_adapters.json_lines import JsonLines

__all__ = [
    "ENTRY_POINT_GROUP",
    "Adapter",
    "CborFrames",
    "Event",
    "EventKind",
    "Held",
    "JsonLines",
    "PollingAdapter",
    "Reading",
    "Report",
    "SettableAdapter",
    "SettingsError",
    "Turn",
    "Value",
    "adapter_names",
    "create",
]

ENTRY_POINT_GROUP = "edge_sync_agent.adapters"


class _BuiltIn(msgspec.Struct, frozen=True):
    """Where an adapter is, and which extra of the distribution brings the decoder it needs."""

    place: str
    extra: str | None = None


# Loaded when they are used: a decoder may take 20 MB of memory.
_BUILT_IN = {
    "cbor-frames": _BuiltIn("firmware_adapters.cbor_frames:CborFrames"),
    "csv-lines": _BuiltIn("firmware_adapters.csv_lines:CsvLines"),
    "dsmr": _BuiltIn("firmware_adapters.dsmr:Dsmr", "dsmr"),
    "json-lines": _BuiltIn("firmware_adapters.json_lines:JsonLines"),
    "key-value-lines": _BuiltIn("firmware_adapters.key_value_lines:KeyValueLines"),
    "mbus": _BuiltIn("firmware_adapters.mbus:Mbus", "mbus"),
    "modbus-rtu": _BuiltIn("firmware_adapters.modbus:Modbus", "modbus"),
    "nmea": _BuiltIn("firmware_adapters.nmea:Nmea", "nmea"),
    "ve-direct": _BuiltIn("firmware_adapters.ve_direct:VeDirect"),
}


class SettingsError(ValueError):
    """Settings that an adapter does not take: `reason` is msgspec's, `kind` the type they were to
    have, None for an adapter without settings."""

    def __init__(self, adapter: str, reason: str, kind: Any) -> None:
        super().__init__(f"settings of the firmware adapter {adapter!r}: {reason}")
        self.reason = reason
        self.kind = kind


def adapter_names() -> list[str]:
    """Return the names `create` accepts, sorted. Reads the installed packages' metadata."""
    return sorted(_BUILT_IN.keys() | _published().keys())


def create(name: str, settings: Mapping[str, Any] | None = None) -> Adapter:
    """Return a new adapter; each port needs its own.

    `settings` are plain values, as TOML has them. Built-in names cannot be replaced by a package.
    Reads the installed packages' metadata. Raises SettingsError, and ValueError for an unknown
    name and for an adapter that cannot be loaded.
    """
    factory = _factory(name)
    kind = getattr(factory, "Settings", None)
    if kind is None:
        if settings:
            raise SettingsError(name, "it takes none", None)
        return factory()
    try:
        checked = msgspec.convert(dict(settings or {}), kind)
    except msgspec.ValidationError as error:
        raise SettingsError(name, str(error), kind) from error
    return factory(checked)


def _factory(name: str) -> Callable[..., Adapter]:
    built_in = _BUILT_IN.get(name)
    if built_in is not None:
        entry_point = EntryPoint(name, built_in.place, ENTRY_POINT_GROUP)
    elif (found := _published().get(name)) is not None:
        entry_point = found
    else:
        known = ", ".join(adapter_names())
        raise ValueError(f"no firmware adapter is called {name!r}; known are: {known}")
    try:
        factory: Callable[..., Adapter] = entry_point.load()
    except Exception as error:  # whatever the code of others may raise
        if built_in is not None and built_in.extra is not None:
            raise ValueError(
                f"firmware adapter {name!r} needs more packages ({error}); install them with "
                f"pip install 'edge-sync-agent[{built_in.extra}]'"
            ) from error
        raise ValueError(
            f"firmware adapter {name!r} ({entry_point.value}) cannot be loaded: {error}"
        ) from error
    return factory


def _published() -> dict[str, EntryPoint]:
    return {found.name: found for found in entry_points(group=ENTRY_POINT_GROUP)}
