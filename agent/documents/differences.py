"""What differs between versions of a document: field by field, and what became of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from agent.documents.fields import Absent
from agent.documents.merge import Path, same
from agent.documents.revision import Rev
from agent.documents.tree import RevTree

_DEEPEST = 20


class Change(msgspec.Struct, frozen=True):
    """What became of a live leaf that somebody has seen.

    `leaf`: the best of the leaves that it went on to; None where it was forgotten or purged.
    `deleted`: that is a tombstone.
    """

    seen: Rev
    leaf: Rev | None
    deleted: bool = False


def changes_since(tree: RevTree, seen: Iterable[Rev]) -> list[Change]:
    """Of leaves that were live, those that are not any more."""
    best: dict[Rev, Rev] = {}
    for leaf in tree.leaves():
        step: Rev | None = leaf
        while step is not None and step not in best:
            best[step] = leaf
            step = tree.parent(step)
    found = []
    for rev in dict.fromkeys(seen):
        leaf_of = best.get(rev)
        if leaf_of is None:
            found.append(Change(rev, None))
        elif leaf_of != rev or tree.is_deleted(rev):
            found.append(Change(rev, leaf_of, tree.is_deleted(leaf_of)))
    return found


def changed_fields(*bodies: Mapping[str, Any]) -> list[Path]:
    """The fields in which these bodies differ."""
    return _fields(bodies, differing=True)


def fields_of(bodies: Sequence[Mapping[str, Any]]) -> list[Path]:
    """All fields of these bodies, down to what is no object anywhere, in their order."""
    return _fields(bodies, differing=False)


def _fields(bodies: Sequence[Mapping[str, Any]], *, differing: bool) -> list[Path]:
    found: dict[Path, None] = {}

    def add(values: Sequence[Any], path: Path) -> None:
        if differing and all(same(values[0], value) for value in values[1:]):
            return
        present = [value for value in values if value is not Absent.NOT_FOUND]
        if path and (
            len(path) > _DEEPEST or not all(isinstance(value, dict) and value for value in present)
        ):
            found[path] = None
            return
        for name in dict.fromkeys(name for value in present for name in value):
            add([value_at(value, (name,)) for value in values], (*path, name))

    add(list(bodies), ())
    return list(found)


def value_at(body: Any, path: Path) -> Any:
    """A field's value, `Absent.NOT_FOUND` where there is none."""
    for name in path:
        if not isinstance(body, Mapping) or name not in body:
            return Absent.NOT_FOUND
        body = body[name]
    return body


def dotted(path: Path) -> str:
    """A field's name, as `parse_field` reads it."""
    return ".".join(part.replace(".", "\\.") for part in path)
