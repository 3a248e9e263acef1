"""What every adapter must stand, whatever arrives."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

from firmware_adapters import Adapter, Event, Reading
from tests.firmware_adapters.damage import pieces


def kept(something: object) -> int:
    """How many bytes of the stream an object and its parts hold on to."""
    if isinstance(something, bytearray):
        return len(something)
    if type(something).__module__.startswith("firmware_adapters."):
        return sum(map(kept, getattr(something, "__dict__", {}).values()))
    return 0


def survive(
    make: Callable[[], Adapter], stream: bytes, data: st.DataObject, longest: int
) -> list[Reading | Event]:
    """Give an adapter a stream in pieces; returns what it made of it.

    The pieces must make no difference, events must fit on a line, and no more than `longest`
    bytes, the longest frame, may be held on to.
    """
    adapter = make()
    items: list[Reading | Event] = []
    for piece in pieces(data, stream):
        items += adapter.receive(piece)
        assert kept(adapter) <= longest
    assert items == make().receive(stream)
    assert all(item.detail.isprintable() for item in items if isinstance(item, Event))
    return items


def readings(items: list[Reading | Event]) -> list[Reading]:
    return [item for item in items if isinstance(item, Reading)]


def kinds(items: list[Reading | Event]) -> list[str]:
    return [item.kind for item in items if isinstance(item, Event)]
