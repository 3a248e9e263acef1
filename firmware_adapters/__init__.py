"""Decoders and encoders for what devices say on a wire. They do no I/O.

Two adapters are built in, "cbor-frames" and "json-lines". Any installed package can publish
more in the entry point group "edge_sync_agent.adapters": each names something that can be
called without arguments and returns an `Adapter`.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

from firmware_adapters.adapter import Adapter, Event, EventKind, Reading, Value
from firmware_adapters.cbor_frames import CborFrames
from firmware_adapters.json_lines import JsonLines

__all__ = [
    "ENTRY_POINT_GROUP",
    "Adapter",
    "CborFrames",
    "Event",
    "EventKind",
    "JsonLines",
    "Reading",
    "Value",
    "adapter_names",
    "create",
]

ENTRY_POINT_GROUP = "edge_sync_agent.adapters"

_BUILT_IN: dict[str, Callable[[], Adapter]] = {
    "cbor-frames": CborFrames,
    "json-lines": JsonLines,
}


def adapter_names() -> list[str]:
    """Return the names `create` accepts, sorted. Reads the installed packages' metadata."""
    return sorted(_BUILT_IN.keys() | _published().keys())


def create(name: str) -> Adapter:
    """Return a new adapter; each device needs its own.

    Built-in names cannot be replaced by a package. Reads the installed packages' metadata.
    Raises ValueError for an unknown name, and for one whose package cannot be loaded.
    """
    if name in _BUILT_IN:
        return _BUILT_IN[name]()
    entry_point = _published().get(name)
    if entry_point is None:
        known = ", ".join(adapter_names())
        raise ValueError(f"no firmware adapter is called {name!r}; known are: {known}")
    try:
        factory: Callable[[], Adapter] = entry_point.load()
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"firmware adapter {name!r} ({entry_point.value}) cannot be loaded: {error}"
        ) from error
    return factory()


def _published() -> dict[str, EntryPoint]:
    return {found.name: found for found in entry_points(group=ENTRY_POINT_GROUP)}
