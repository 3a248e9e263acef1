"""Mango indexes: what design documents define, and the SQLite indexes that serve them.

An index is defined as in CouchDB, by a design document with `"language": "query"`, so it replicates
and every client sees it. The writer keeps SQLite's indexes in step with what is defined, in the
transaction that writes the design document, wherever that came from.

A SQLite index has the sort key (`agent.documents.collation`) of each field and then the id, which
is the order of CouchDB's answers. It leaves out tombstones and design documents. Indexes on the
same fields share one, whose name is made of the fields. A partial index has no SQLite index of its
own kind: its `partial_filter_selector` is evaluated with the selector of the query.

Other programs can read a store with such an index, but not write to `docs`: they lack `couch_key`.

Source: CouchDB documentation, "API Reference > Databases > /{db}/_index".
"""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

import msgspec

from agent.documents.fields import parse_field
from agent.documents.selector import Selector, SelectorError, parse_selector
from agent.store.selector_sql import field_sql

PREFIX = "_design/"
LANGUAGE = "query"
_AFTER_PREFIX = "_design0"
_SQLITE_PREFIX = "find_"
_MOST_INDEXES = 64
"""SQLite indexes per store: every one of them makes every write slower."""

MOST_FIELDS = 100
"""Fields of an index; SQLite allows 2000 columns."""

LISTED = "deleted = 0 AND id NOT GLOB '_design/*'"
"""Which rows of `docs` the indexes have; a query must say it too, to be allowed to use one."""

_encode = msgspec.json.Encoder(order="sorted").encode


class MangoIndex(msgspec.Struct, frozen=True):
    """An index of type `json`, or without `ddoc` the special one, all documents by id."""

    ddoc: str | None
    name: str
    fields: tuple[tuple[str, str], ...]
    partial_filter: Selector | None = None
    partial_filter_json: Any = None

    @property
    def special(self) -> bool:
        return self.ddoc is None

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.fields)

    @property
    def sorted_by(self) -> tuple[str, ...]:
        """The columns by whose sort keys, and then by id, documents are found in order."""
        return () if self.special or self.keys() is None else self.columns

    @property
    def sqlite_name(self) -> str:
        return _sqlite_name(self.columns)

    def keys(self) -> tuple[str, ...] | None:
        """The SQL of the fields' sort keys; None where a field is not in the stored JSON."""
        return _keys(self.columns)

    def to_json(self) -> dict[str, Any]:
        """As `_index` and `_explain` show it."""
        definition: dict[str, Any] = {"fields": [{name: order} for name, order in self.fields]}
        if self.partial_filter is not None:
            definition["partial_filter_selector"] = self.partial_filter_json
        shown: dict[str, Any] = {
            "ddoc": self.ddoc,
            "name": self.name,
            "type": "special" if self.special else "json",
        }
        if not self.special:
            shown["partitioned"] = False
        return {**shown, "def": definition}


ALL_DOCS = MangoIndex(None, "_all_docs", (("_id", "asc"),))


def defined_by(ddoc: str, body: Mapping[str, Any]) -> Iterator[MangoIndex]:
    """The indexes that a design document defines; views that are none are passed over."""
    views = body.get("views")
    if body.get("language") != LANGUAGE or not isinstance(views, Mapping):
        return
    for name, view in views.items():
        definition = view.get("map") if isinstance(view, Mapping) else None
        if not isinstance(definition, Mapping):
            continue
        fields = _fields(definition.get("fields"))
        partial = definition.get("partial_filter_selector") or definition.get("selector")
        try:
            selector = parse_selector(partial) if partial else None
        except SelectorError:
            continue
        if fields:
            yield MangoIndex(ddoc, name, fields, selector, partial if selector else None)


def all_indexes(db: sqlite3.Connection) -> list[MangoIndex]:
    """The special index and all that are defined, in CouchDB's order."""
    rows = db.execute(
        "SELECT id, body FROM docs WHERE id >= ? AND id < ? AND NOT deleted ORDER BY id",
        (PREFIX, _AFTER_PREFIX),
    )
    found = [ALL_DOCS]
    for id, body in rows:
        if LANGUAGE in body:
            found += sorted(defined_by(id, msgspec.json.decode(body)), key=lambda each: each.name)
    return found


def synchronise(db: sqlite3.Connection) -> list[MangoIndex]:
    """Create and drop SQLite indexes until they are those that are defined; these are returned."""
    wanted: dict[str, tuple[str, ...]] = {}
    indexes = all_indexes(db)
    for index in indexes:
        keys = None if index.special else index.keys()
        if keys is not None and len(wanted) < _MOST_INDEXES:
            wanted.setdefault(index.sqlite_name, keys)
    there = sqlite_indexes(db)
    for name in there - wanted.keys():
        db.execute(f'DROP INDEX "{name}"')
    for name in wanted.keys() - there:
        columns = ", ".join([*wanted[name], "id"])
        db.execute("PRAGMA temp_store = FILE")  # the keys of all documents are sorted
        try:
            db.execute(f'CREATE INDEX "{name}" ON docs ({columns}) WHERE {LISTED}')
        finally:
            db.execute("PRAGMA temp_store = MEMORY")
    return indexes


def sqlite_indexes(db: sqlite3.Connection) -> set[str]:
    """The names of the SQLite indexes that serve Mango indexes."""
    rows = db.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'index' AND name GLOB ?",
        (_SQLITE_PREFIX + "*",),
    )
    return {name for (name,) in rows}


@lru_cache(_MOST_INDEXES)
def _sqlite_name(columns: tuple[str, ...]) -> str:
    return _SQLITE_PREFIX + hashlib.blake2b(_encode(columns), digest_size=8).hexdigest()


@lru_cache(_MOST_INDEXES)
def _keys(columns: tuple[str, ...]) -> tuple[str, ...] | None:
    keys = []
    for column in columns:
        field = field_sql(parse_field(column))
        if field is None:
            return None
        keys.append(field.key)
    return tuple(keys)


def _fields(given: Any) -> tuple[tuple[str, str], ...]:
    """The fields with their directions; empty where that is no definition, or one of too many."""
    members: list[tuple[Any, Any]] = []
    if isinstance(given, Mapping):
        members = list(given.items())
    elif isinstance(given, Sequence) and not isinstance(given, str):
        for each in given:
            if isinstance(each, str):
                members.append((each, "asc"))
            elif isinstance(each, Mapping) and len(each) == 1:
                members += each.items()
            else:
                return ()
    try:
        for name, order in members:
            if not isinstance(name, str) or order not in ("asc", "desc"):
                return ()
            parse_field(name)
    except ValueError:
        return ()
    return tuple(members) if len(members) <= MOST_FIELDS else ()
