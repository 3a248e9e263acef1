"""Running a planned query: pages of matching documents, in the order of the index.

A page ends after some documents or some bytes, and the next one begins after its last document, by
a search in the index: neither the store nor the memory is held.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from agent.documents.conditions import And, At
from agent.documents.revision import Rev
from agent.documents.wire import document_text
from agent.store.mango_index import LISTED, sqlite_indexes
from agent.store.planner import Plan, conjuncts
from agent.store.reader import StoredDocument
from agent.store.selector_sql import OPERATORS, Sql, condition, conjunction

_PAGE = 500
_PAGE_BYTES = 1024 * 1024
_COLUMNS = "seq, id, gen, hash, deleted, conflicts, body, tree, attachments"
_BODY = 6
_ATTACHMENTS = 8
_WIDTH = 9
"""Places in a row; behind the columns come the sort keys."""

_Row: TypeAlias = tuple[Any, ...]

_BY_ID = "sqlite_autoindex_docs_1"
_BELOW_ALL = b"\x00"
"""Below every sort key: a comparison with it leaves out what has no key."""

_encode = msgspec.json.Encoder().encode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(frozen=True, slots=True)
class Position:
    """The place of a document in an index: its sort keys, and its id."""

    keys: tuple[bytes, ...]
    id: str


@dataclass(frozen=True, slots=True)
class FindPage:
    """Rows of documents that match; `documents` and `texts` are two ways to see them.

    `after` is where the next page begins, None at the end of the index. `examined`: how many
    documents were read for it.
    """

    rows: list[_Row]
    after: Position | None
    examined: int

    @property
    def last(self) -> Position | None:
        """The place of the last document."""
        return _position(self.rows[-1]) if self.rows else None

    def documents(self) -> list[StoredDocument]:
        return [_stored(row) for row in self.rows]

    def texts(self) -> list[str]:
        """The JSON texts of the whole documents."""
        return [_text(row) for row in self.rows]


def find_page(
    db: sqlite3.Connection, plan: Plan, *, after: Position | None, limit: int
) -> FindPage:
    """At most `limit` documents, from the place `after` on."""
    scan = _Scan.of(db, plan)
    exact, matches = scan.rest.exact, plan.selector.matches
    found: list[_Row] = []
    examined = size = 0
    for where in scan.ranges(after):
        most = min(limit - len(found), _PAGE - examined) if exact else _PAGE - examined
        for row in scan.rows(db, where, most):
            examined += 1
            size += len(row[_BODY])
            if exact or matches(as_json(_stored(row))):
                found.append(row)
            if len(found) == limit or examined == _PAGE or size > _PAGE_BYTES:
                return FindPage(found, _position(row), examined)
    return FindPage(found, None, examined)


def _position(row: _Row) -> Position:
    return Position(row[_WIDTH:], row[1])


def _stored(row: _Row) -> StoredDocument:
    seq, id, generation, digest, deleted, conflicts, body, tree, attachments = row[:_WIDTH]
    rev = Rev(generation, digest)
    return StoredDocument(seq, id, rev, deleted != 0, conflicts, body, tree, attachments)


def _text(row: _Row) -> str:
    """`document_text`, by a shorter way where there is nothing but a body."""
    if row[_ATTACHMENTS] is not None:
        return document_text(_stored(row).revision(), revisions=False)
    head = f'{{"_id":{_json(row[1])},"_rev":{_json(f"{row[2]}-{row[3]}")}'
    members = row[_BODY].lstrip()[1:].lstrip()
    return head + members if members.startswith("}") else f"{head},{members}"


def _json(value: str) -> str:
    return _encode(value).decode()


def as_json(document: StoredDocument) -> dict[str, Any]:
    """A document as selectors see it."""
    if document.encoded_attachments is not None:
        text = document_text(document.revision(), revisions=False)
        return _decode_object(text)
    head: dict[str, Any] = {"_id": document.id, "_rev": str(document.rev)}
    if document.deleted:
        head["_deleted"] = True
    return head | _decode_object(document.body)


@dataclass(frozen=True, slots=True)
class _Column:
    """A column of the index: its SQL, and the comparisons `(operator, parameter)` with it."""

    key: str
    bounds: list[tuple[str, Any]]

    @property
    def constant(self) -> bool:
        return any(operator == "=" for operator, _ in self.bounds)

    def conditions(self, *, without: str = "") -> list[Sql]:
        """The comparisons, without those that begin with `without`."""
        return [
            Sql(f"{self.key} {operator} ?", (value,))
            for operator, value in self.bounds
            if not (without and operator.startswith(without))
        ]


@dataclass(frozen=True, slots=True)
class _Scan:
    """A plan as SQL. `keys` are the index's columns, `order` what its documents are sorted by."""

    source: str
    keys: list[str]
    constants: list[_Column]
    order: list[_Column]
    rest: Sql
    descending: bool

    @classmethod
    def of(cls, db: sqlite3.Connection, plan: Plan) -> _Scan:
        index = plan.index
        keys = None if index.special else index.keys()
        by_id = _Column("id", [])
        columns = []
        used: set[int] = set()
        for number, key in enumerate(keys or ()):
            # Ids compare by code points in selectors, but are sorted like all strings.
            own_order = index.columns[number] != "_id" and number < len(plan.ranges)
            ranges = plan.ranges[number] if own_order else ()
            bounds = [(OPERATORS[each.operator], each.key) for each in ranges]
            used.update(map(id, ranges))
            columns.append(_Column(key, bounds or [(">=", _BELOW_ALL)]))
        if index.special and plan.ranges:
            ranges = tuple(each for each in plan.ranges[0] if isinstance(each.argument, str))
            by_id.bounds.extend((OPERATORS[each.operator], each.argument) for each in ranges)
            used.update(map(id, ranges))
        rest = [
            node
            for node in conjuncts(plan.selector.root)
            if not (isinstance(node, At) and id(node.condition) in used)
        ]
        source = "docs"
        if keys is None:
            source += f" INDEXED BY {_BY_ID}"
        elif index.sqlite_name in sqlite_indexes(db):
            source += f' INDEXED BY "{index.sqlite_name}"'
        return cls(
            source,
            keys or [],
            [column for column in columns if column.constant],
            [column for column in columns if not column.constant] + [by_id],
            condition(And(tuple(rest)) if rest else None),
            plan.descending,
        )

    def ranges(self, after: Position | None) -> Iterator[Sql]:
        """The conditions of the ranges that come after a place, nearest first.

        Each is one search in the index: it begins where the last page ended.
        """
        common = [Sql(LISTED), self.rest]
        for column in self.constants:
            common += column.conditions()
        if after is None:
            yield conjunction(
                [*common, *(part for column in self.order for part in column.conditions())]
            )
            return
        place = dict(zip(self.keys, after.keys, strict=True)) | {"id": after.id}
        beyond = "<" if self.descending else ">"
        for depth in reversed(range(len(self.order))):
            parts = common.copy()
            for number, column in enumerate(self.order):
                value = place[column.key]
                if number < depth:
                    parts.append(Sql(f"{column.key} = ?", (value,)))
                elif number == depth:
                    # With a second bound on the same side SQLite might search for that one.
                    parts.append(Sql(f"{column.key} {beyond} ?", (value,)))
                    parts += column.conditions(without=beyond)
                else:
                    parts += column.conditions()
            yield conjunction(parts)

    def rows(self, db: sqlite3.Connection, where: Sql, limit: int) -> Iterator[_Row]:
        """Rows of `docs`, each followed by its sort keys."""
        direction = " DESC" if self.descending else ""
        order = ", ".join(column.key + direction for column in self.order)
        columns = ", ".join([_COLUMNS, *self.keys])
        return db.execute(
            f"SELECT {columns} FROM {self.source} "  # noqa: S608
            f"WHERE {where.text} ORDER BY {order} LIMIT ?",
            (*where.parameters, limit),
        )
