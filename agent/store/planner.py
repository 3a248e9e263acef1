"""Which index serves a query: CouchDB's choice.

Source: CouchDB documentation, "API Reference > Databases > /{db}/_find > Selecting Index"; the
rules are those of CouchDB 3.5's planner.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from agent.documents.conditions import And, At, Compare, Exists, Node, Or
from agent.documents.selector import Selector
from agent.store.mango_index import MangoIndex

NO_INDEX = "No matching index found, create an index to optimize query time."
_RANGES = ("$lt", "$lte", "$eq", "$gte", "$gt")


class PlanError(ValueError):
    """No index serves the query (HTTP 400): `error` is CouchDB's word, the message its reason."""

    def __init__(self, error: str, reason: str) -> None:
        super().__init__(reason)
        self.error = error


class Plan(msgspec.Struct, frozen=True):
    """`ranges` are the comparisons on the index's first columns, column by column.

    `selector` has the index's partial filter in it. `candidates` are the indexes that were not
    chosen, each with why.
    """

    index: MangoIndex
    selector: Selector
    descending: bool
    ranges: tuple[tuple[Compare, ...], ...]
    warnings: tuple[str, ...]
    candidates: tuple[tuple[MangoIndex, bool, str], ...] = ()


def plan(
    indexes: Sequence[MangoIndex],
    selector: Selector,
    *,
    sort: Sequence[tuple[str, str]] = (),
    use_index: Sequence[str] = (),
    allow_fallback: bool = True,
) -> Plan:
    """Choose an index. `use_index` is a design document, and possibly a name. Raises PlanError."""
    comparisons = _comparisons(selector.root)
    wanted = sort_fields = [field for field, _ in sort]
    named = [index for index in indexes if use_index and _is_named(index, use_index)]
    considered: list[MangoIndex] = []
    rejected: list[tuple[MangoIndex, bool, str]] = []
    for index in indexes:
        if index.partial_filter is not None and index not in named:
            rejected.append((index, False, "is_partial"))
            continue
        reason = _unusable(index, selector.root, comparisons, wanted)
        if reason is None:
            considered.append(index)
        else:
            rejected.append((index, False, reason))
    chosen = [index for index in considered if index in named]
    if use_index and not allow_fallback and not chosen:
        raise PlanError("invalid_index", _not_used(use_index))
    if not considered:
        raise PlanError(
            "no_usable_index", "No index exists for this sort, try indexing by the sort fields."
        )
    pool = chosen or considered
    rejected += [(index, True, "excluded_by_user") for index in considered if index not in pool]
    best = [index for index in pool if not index.special]
    rejected += [(index, True, "unfavored_type") for index in pool if best and index.special]
    best = sorted(best or pool, key=lambda index: _badness(index, comparisons))
    for index in best[1:]:
        rejected.append((index, True, _why_not(index, best[0], comparisons)))
    index = best[0]
    warnings = [_not_used(use_index)] if use_index and index not in named else []
    if index.special:
        warnings.append(NO_INDEX)
    ranges = [tuple(comparisons[column]) for column in _prefix(index, comparisons)]
    whole = selector if index.partial_filter is None else selector.both(index.partial_filter)
    descending = bool(sort_fields) and sort[0][1] == "desc"
    return Plan(index, whole, descending, tuple(ranges), tuple(warnings), tuple(rejected))


def indexable_fields(selector: Selector) -> list[str]:
    """The fields whose values the selector bounds in a way that an index can serve."""
    return sorted(_comparisons(selector.root))


def fields_of(node: Node | None) -> set[str]:
    """All fields that a selector names."""
    match node:
        case And() | Or():
            return set().union(*map(fields_of, node.parts))
        case At():
            return {node.name}
    return set()


def _comparisons(root: Node | None) -> dict[str, list[Compare]]:
    found: dict[str, list[Compare]] = {}
    for node in conjuncts(root):
        if (
            isinstance(node, At)
            and not node.negated
            and isinstance(node.condition, Compare)
            and node.condition.operator in _RANGES
        ):
            found.setdefault(node.name, []).append(node.condition)
    return found


def conjuncts(root: Node | None) -> Iterable[Node]:
    """The conditions of which all must hold."""
    if isinstance(root, And):
        for part in root.parts:
            yield from conjuncts(part)
    elif root is not None:
        yield root


def _unusable(
    index: MangoIndex,
    root: Node | None,
    comparisons: dict[str, list[Compare]],
    sort: Sequence[str],
) -> str | None:
    """Why an index cannot serve; None when it can."""
    if index.special:
        if not sort or ("_id" in comparisons and list(sort) == ["_id"]):
            return None
        return "sort_order_mismatch"
    required = set(index.columns) - set(sort) - {"_id", "_rev"}
    if root is None or not required <= _required(root):
        return "field_mismatch"
    columns = list(index.columns)
    while sort and columns and columns[0] != sort[0]:
        if not any(one.operator == "$eq" for one in comparisons.get(columns[0], ())):
            return "sort_order_mismatch"
        columns.pop(0)
    return None if columns[: len(sort)] == list(sort) else "sort_order_mismatch"


def _required(node: Node) -> set[str]:
    """Fields that every matching document has."""
    match node:
        case And():
            return set().union(*map(_required, node.parts))
        case Or() if node.parts:
            return set.intersection(*map(_required, node.parts))
        case At():
            if isinstance(node.condition, Exists) and not node.condition.expected:
                return set()
            return {node.name}
    return set()


def _prefix(index: MangoIndex, comparisons: dict[str, list[Compare]]) -> list[str]:
    """The first columns of an index that the selector bounds."""
    prefix = []
    for column in index.columns:
        if column not in comparisons:
            break
        prefix.append(column)
    return prefix


def _badness(index: MangoIndex, comparisons: dict[str, list[Compare]]) -> tuple[Any, ...]:
    lacking = len(comparisons) - len(_prefix(index, comparisons))
    return lacking, len(index.columns), index.ddoc or "", index.name


def _why_not(index: MangoIndex, best: MangoIndex, comparisons: dict[str, list[Compare]]) -> str:
    if _badness(index, comparisons)[0] > _badness(best, comparisons)[0]:
        return "less_overlap"
    if len(index.columns) > len(best.columns):
        return "too_many_fields"
    return "alphabetically_comes_after"


def _is_named(index: MangoIndex, use_index: Sequence[str]) -> bool:
    ddoc = "_design/" + use_index[0].removeprefix("_design/")
    return index.ddoc == ddoc and (len(use_index) == 1 or index.name == use_index[1])


def _not_used(use_index: Sequence[str]) -> str:
    ddoc = "_design/" + use_index[0].removeprefix("_design/")
    if len(use_index) == 1:
        return f"{ddoc} was not used because it does not contain a valid index for this query."
    return f"{ddoc}, {use_index[1]} was not used because it is not a valid index for this query."
