"""Three-way merge of JSON values, field by field.

What only one side changed, relative to the common ancestor, is taken from it. Objects are merged
member by member, however deep. Arrays are whole, unless `keys` names the member by which the
elements of one are told apart. What both changed, and not to the same, is a clash: an edit against
the removal of the same field, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec

from agent.documents.fields import Absent

Path: TypeAlias = tuple[str, ...]
_Elements: TypeAlias = dict[str | int, dict[str, Any]]

_DEEPEST = 100
"""Objects within objects beyond this are whole: Python's stack is bounded."""

_ABSENT = Absent.NOT_FOUND


class Merge(msgspec.Struct):
    """A merge of two bodies. `merge` may be called once; then `clashes` has the fields of clashes.

    `keys`: for the path of an array the member that identifies its elements, which have to be
    objects whose values of it are different strings or integers; otherwise the array is whole. A
    path leads through arrays without saying which element: `rooms.sensors`.
    """

    keys: Mapping[Path, str] = msgspec.field(default_factory=dict)
    prefer: int = 0
    """Which side's value is taken at a clash, 0 or 1."""
    clashes: list[Path] = msgspec.field(default_factory=list)

    def merge(
        self, base: Mapping[str, Any], mine: Mapping[str, Any], theirs: Mapping[str, Any]
    ) -> dict[str, Any]:
        """The members of `mine` come first, in their order. Nothing that is given is changed."""
        return self._objects(base, mine, theirs, ())

    def _value(self, base: Any, mine: Any, theirs: Any, path: Path) -> Any:
        if same(mine, theirs) or same(base, theirs):
            return mine
        if same(base, mine):
            return theirs
        if isinstance(mine, dict) and isinstance(theirs, dict) and len(path) < _DEEPEST:
            return self._objects(base if isinstance(base, dict) else {}, mine, theirs, path)
        if isinstance(mine, list) and isinstance(theirs, list) and path in self.keys:
            key = self.keys[path]
            before, one, other = (_by(key, side) for side in (base, mine, theirs))
            if before is not None and one is not None and other is not None:
                return self._arrays(before, one, other, path)
        self.clashes.append(path)
        return (mine, theirs)[self.prefer]

    def _objects(
        self,
        base: Mapping[str, Any],
        mine: Mapping[str, Any],
        theirs: Mapping[str, Any],
        path: Path,
    ) -> dict[str, Any]:
        merged = {}
        for name in dict.fromkeys([*mine, *theirs]):
            before, one, other = (side.get(name, _ABSENT) for side in (base, mine, theirs))
            value = self._value(before, one, other, (*path, name))
            if value is not _ABSENT:
                merged[name] = value
        return merged

    def _arrays(
        self, base: _Elements, mine: _Elements, theirs: _Elements, path: Path
    ) -> list[dict[str, Any]]:
        """In the order of `mine`, unless only `theirs` has changed it; additions stand behind."""
        kept = {name: None for name in base if name in mine and name in theirs}
        moved = [name for name in mine if name in kept] != list(kept)
        merged = []
        for name in dict.fromkeys([*(mine if moved else theirs), *mine, *theirs]):
            before, one, other = (side.get(name, _ABSENT) for side in (base, mine, theirs))
            value = self._value(before, one, other, path)
            if value is not _ABSENT:
                merged.append(value)
        return merged


def same(one: Any, other: Any) -> bool:
    """Whether two JSON values are equal: numbers by their value, 1.0 is 1; but true is not 1.

    Some clients write 1 where they have read 1.0.
    """
    if one is other:
        return True
    if one != other:
        return False
    pairs = [(one, other)]
    while pairs:
        left, right = pairs.pop()
        if isinstance(left, bool) is not isinstance(right, bool):
            return False
        if isinstance(left, dict):
            pairs += [(value, right[name]) for name, value in left.items()]
        elif isinstance(left, list):
            pairs += zip(left, right, strict=True)
    return True


def _by(key: str, value: Any) -> _Elements | None:
    """The elements of an array by their identity; None where they have none."""
    if not isinstance(value, list):
        return {}  # no array before: both sides have made one
    found: _Elements = {}
    for element in value:
        identity = element.get(key) if isinstance(element, dict) else None
        if not isinstance(identity, str | int) or isinstance(identity, bool) or identity in found:
            return None
        found[identity] = element
    return found
