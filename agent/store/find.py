"""Running a planned query: pages of matching documents, in the order of the index.

A page ends after some documents, bytes or time, and the next one begins after its last document, by
a search in the index: neither the store, nor a thread, nor the memory is held.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from time import thread_time
from typing import Any, TypeAlias

import msgspec

from agent.documents.attachment import attachments_from_store
from agent.documents.collation import sort_key
from agent.documents.conditions import And, At, RegexTime
from agent.documents.fields import field_value, parse_field
from agent.documents.revision import Rev, Revision
from agent.documents.tree import RevTree
from agent.documents.wire import document_text
from agent.store.mango_index import LISTED, sqlite_indexes
from agent.store.planner import Plan, conjuncts
from agent.store.selector_sql import OPERATORS, Sql, condition, conjunction
from agent.store.stored import PAGE_BYTES, sound

_PAGE = 1000

_PAGE_SECONDS = 0.25
"""Of processor time. A page ends with the document that exceeds this; then it is others' turn."""

_COLUMNS = "id, gen, hash, body, attachments, CASE WHEN conflicts > 0 THEN tree END"

_Row: TypeAlias = tuple[str, int, str, str, str | None, bytes | None]

_BY_ID = "sqlite_autoindex_docs_1"
_BELOW_ALL = b"\x00"
"""Below every sort key: a comparison with it leaves out what has no key."""

_encode = msgspec.json.Encoder().encode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


class Position(msgspec.Struct, frozen=True):
    """The place of a document in an index: its sort keys, and its id."""

    keys: tuple[bytes, ...]
    id: str


class FindPage(msgspec.Struct, frozen=True):
    """The JSON texts of documents that match.

    `last` is the place of the last of them, `after` where the next page begins, None at the end of
    the index. `examined`: how many documents were read for it.
    """

    texts: list[str]
    last: Position | None
    after: Position | None
    examined: int


def find_page(
    db: sqlite3.Connection,
    plan: Plan,
    *,
    after: Position | None,
    limit: int,
    conflicts: bool = False,
    time: RegexTime | None = None,
) -> FindPage:
    """At most `limit` documents, from the place `after` on; with `conflicts` their `_conflicts`.

    Raises SelectorError when `$regex` takes too long on a document, or longer than `time`.
    """
    scan = _Scan.of(plan)
    exact, matches = scan.rest.exact, plan.selector.matches
    texts: list[str] = []
    last: str | None = None
    examined = size = 0
    end = thread_time() + _PAGE_SECONDS
    for where in scan.ranges(after):
        most = _PAGE - examined
        for row in scan.rows(db, where, min(most, limit - len(texts)) if exact else most):
            text = _text(row)
            examined += 1
            size += len(text)
            if exact or matches(_decode_object(text), time):
                last = text
                texts.append(_with_conflicts(row, text) if conflicts and row[5] else text)
            full = size > PAGE_BYTES or examined == _PAGE or len(texts) == limit
            if full or thread_time() > end:
                return FindPage(texts, _position(plan, last), _position(plan, text), examined)
    return FindPage(texts, _position(plan, last), None, examined)


def _position(plan: Plan, text: str | None) -> Position | None:
    """The place of a document; None for none."""
    if text is None:
        return None
    doc = _decode_object(text)
    keys = [sort_key(field_value(doc, parse_field(column))) for column in plan.index.sorted_by]
    return Position(tuple(keys), doc["_id"])


def _text(row: _Row) -> str:
    """`document_text`, by a shorter way for what nearly all documents are."""
    id, generation, digest, body, attachments, _ = row
    sound(body)
    if attachments is None and body.startswith('{"') and digest.isalnum():
        return f'{{"_id":{_encode(id).decode()},"_rev":"{generation}-{digest}",{body[1:]}'
    stored = attachments_from_store(attachments)
    revision = Revision(id, generation, (digest,), False, body, stored)
    return document_text(revision, revisions=False)


def _with_conflicts(row: _Row, text: str) -> str:
    """The text with `_conflicts`: the live leaves besides the winner."""
    _, generation, digest, _, _, blob = row
    assert blob is not None  # noqa: S101
    tree = RevTree.decode(blob)
    winner = Rev(generation, digest)
    live = [str(leaf) for leaf in tree.leaves() if leaf != winner and not tree.is_deleted(leaf)]
    return f'{text.rstrip()[:-1]},"_conflicts":{_encode(live).decode()}}}'


class _Column(msgspec.Struct, frozen=True):
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


class _Scan(msgspec.Struct, frozen=True):
    """A plan as SQL.

    `index` is the name of SQLite's, `keys` are its columns, `order` what documents are sorted by.
    """

    index: str
    keys: tuple[str, ...]
    constants: list[_Column]
    order: list[_Column]
    rest: Sql
    descending: bool

    @classmethod
    def of(cls, plan: Plan) -> _Scan:
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
        return cls(
            _BY_ID if keys is None else index.sqlite_name,
            keys or (),
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
        direction = " DESC" if self.descending else ""
        order = ", ".join(column.key + direction for column in self.order)
        rest = f"WHERE {where.text} ORDER BY {order} LIMIT ?"
        parameters = (*where.parameters, limit)
        try:
            return db.execute(
                f'SELECT {_COLUMNS} FROM docs INDEXED BY "{self.index}" {rest}',  # noqa: S608
                parameters,
            )
        except sqlite3.OperationalError:
            if self.index == _BY_ID or self.index in sqlite_indexes(db):
                raise
            # It has gone since the query was planned, or there are too many.
            return db.execute(f"SELECT {_COLUMNS} FROM docs {rest}", parameters)  # noqa: S608
