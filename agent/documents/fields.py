"""Field names of Mango: `a.b`, `a\\.b` (a dot in a name), `a.0` (an element of an array).

Source: CouchDB documentation, "API Reference > Databases > /{db}/_find > Subfields".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

_DOT = re.compile(r"(?<!\\)\.")
_INDEX = re.compile(r"[+-]?\d{1,9}\Z", re.ASCII)


class Absent(Enum):
    """Why a field has no value."""

    NOT_FOUND = 0
    """An object on the way does not have the member."""

    BAD_PATH = 1
    """On the way there is something that has no members, or an array without that element."""


def parse_field(name: str) -> tuple[str, ...]:
    """The members that lead to a field. Raises ValueError when one of them is empty."""
    parts = _DOT.split(name) if "\\" in name else name.split(".")
    if "" in parts:
        raise ValueError(f"Invalid field name: {name}")
    return tuple(part.replace("\\", "") for part in parts)


def array_index(part: str) -> int | None:
    """The element of an array that a member's name can mean as well, if it is a number."""
    if not _INDEX.match(part):
        return None
    index = int(part)
    return index if index >= 0 else None


def field_value(value: Any, path: Sequence[str]) -> Any:
    """What a field holds, or why it has no value (`Absent`)."""
    for part in path:
        if isinstance(value, Mapping):
            if part not in value:
                return Absent.NOT_FOUND
            value = value[part]
        elif isinstance(value, list):
            index = array_index(part)
            if index is None or index >= len(value):
                return Absent.BAD_PATH
            value = value[index]
        else:
            return Absent.BAD_PATH
    return value


def project(doc: Mapping[str, Any], paths: Sequence[Sequence[str]]) -> dict[str, Any]:
    """A new object with only these fields of `doc`; members on the way become objects."""
    result: dict[str, Any] = {}
    for path in paths:
        value = field_value(doc, path)
        if isinstance(value, Absent):
            continue
        target = result
        for part in path[:-1]:
            inner = target.get(part)
            # A copy: what was taken over whole before belongs to the document.
            target[part] = inner = dict(inner) if isinstance(inner, dict) else {}
            target = inner
        target[path[-1]] = value
    return result
