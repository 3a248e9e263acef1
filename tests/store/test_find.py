"""Queries: SQL and the evaluator agree, indexes change nothing but the order, pages join up."""

from __future__ import annotations

import asyncio
import sqlite3
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.documents.collation import sort_key
from agent.documents.fields import Absent, field_value, parse_field
from agent.documents.revision import first_revision
from agent.documents.selector import parse_selector
from agent.store.connection import open_reader, open_writer
from agent.store.find import find_page
from agent.store.mango_index import all_indexes
from agent.store.planner import Plan, PlanError, plan
from agent.store.store import Store
from agent.store.transaction import Transaction
from tests.documents.json_values import documents, selectors
from tests.store.helpers import opened, put, revision, rows

FIND_INDEXES = "SELECT name FROM sqlite_schema WHERE name LIKE 'find!_%' ESCAPE '!'"
INDEXES = [["a"], ["b", "a"], ["a.b"], ["a.0"], ['x"y'], ["_id"], ["c", "_rev"]]


def design(*fields: str, **more: Any) -> dict[str, Any]:
    definition = {"fields": dict.fromkeys(fields, "asc"), **more}
    return {"language": "query", "views": {"v": {"map": definition, "reduce": "_count"}}}


@pytest.fixture(scope="module")
def db() -> Iterator[sqlite3.Connection]:
    """A writing connection to a store with indexes."""
    with tempfile.TemporaryDirectory() as folder:
        connection = open_writer(Path(folder) / "db.sqlite", create=True)
        write(connection, {f"_design/{n}": design(*each) for n, each in enumerate(INDEXES)})
        yield connection
        connection.close()


def write(db: sqlite3.Connection, docs: dict[str, dict[str, Any]]) -> None:
    db.execute("BEGIN IMMEDIATE")
    transaction = Transaction(db)
    transaction.graft([first_revision(id, body) for id, body in docs.items()])
    transaction.finish()
    db.execute("COMMIT")


def found(db: sqlite3.Connection, chosen: Plan, *, page: int = 1000) -> list[dict[str, Any]]:
    docs: list[dict[str, Any]] = []
    after = None
    while True:
        part = find_page(db, chosen, after=after, limit=page)
        docs += map(msgspec.json.decode, part.texts)
        after = part.after
        if after is None:
            return docs


async def found_in(path: Path, chosen: Plan, *, page: int = 1000) -> list[dict[str, Any]]:
    def read() -> list[dict[str, Any]]:
        reader = open_reader(path)
        try:
            return found(reader, chosen, page=page)
        finally:
            reader.close()

    return await asyncio.to_thread(read)


def order(doc: dict[str, Any], columns: Sequence[str]) -> list[Any]:
    keys = [sort_key(field_value(doc, parse_field(column))) for column in columns]
    return [*keys, doc["_id"]]


@settings(max_examples=250, deadline=None)
@given(
    st.lists(documents, max_size=8),
    selectors,
    st.sampled_from([None, *range(len(INDEXES))]),
    st.sampled_from([[], ["a"], ["b", "a"], ["_id"]]),
    st.sampled_from(["asc", "desc"]),
    st.sampled_from([1, 2, 1000]),
)
def test_sql_finds_what_the_evaluator_matches_in_the_order_of_the_index(
    db: sqlite3.Connection,
    bodies: list[dict[str, Any]],
    given_selector: dict[str, Any],
    use_index: int | None,
    sort: list[str],
    direction: str,
    page: int,
) -> None:
    selector = parse_selector(given_selector)
    db.execute("DELETE FROM docs WHERE id NOT GLOB '_design/*'")
    write(db, {f"d{number}": body for number, body in enumerate(bodies)})
    every = [
        {"_id": id, "_rev": f"{generation}-{digest}", **msgspec.json.decode(body)}
        for id, generation, digest, body in db.execute(
            "SELECT id, gen, hash, body FROM docs WHERE id NOT GLOB '_design/*'"
        )
    ]
    try:
        chosen = plan(
            all_indexes(db),
            selector,
            sort=[(field, direction) for field in sort],
            use_index=[] if use_index is None else [str(use_index)],
        )
    except PlanError:
        return
    columns = chosen.index.columns
    expected = [
        doc
        for doc in every
        if selector.matches(doc)
        and not any(isinstance(field_value(doc, parse_field(column)), Absent) for column in columns)
    ]
    if not chosen.index.special and not sort:
        # An index is chosen only if it has all the documents that the selector can match.
        assert len(expected) == sum(selector.matches(doc) for doc in every)
    if chosen.index.special:
        expected.sort(key=lambda doc: doc["_id"], reverse=chosen.descending)
    else:
        expected.sort(key=lambda doc: order(doc, columns), reverse=chosen.descending)
    assert found(db, chosen, page=page) == expected


def test_an_index_is_used_by_sqlite(db: sqlite3.Connection) -> None:
    statements: list[str] = []
    chosen = plan(all_indexes(db), parse_selector({"a": {"$gt": 1}}))
    db.set_trace_callback(statements.append)
    found(db, chosen)
    db.set_trace_callback(None)
    [query] = [text for text in statements if "INDEXED BY" in text]
    [(*_, detail)] = db.execute("EXPLAIN QUERY PLAN " + query).fetchall()
    assert detail.startswith("SEARCH docs USING INDEX find_")


async def test_a_query_does_without_an_index_that_has_gone(store: Store, path: Path) -> None:
    await put(store, "_design/one", **design("a"))
    for number in range(5):
        await put(store, f"d{number}", a=-number)
    chosen = plan(store.indexes, parse_selector({"a": {"$lt": 0}}))
    before = await found_in(path, chosen, page=2)
    [name] = rows(path, FIND_INDEXES)
    rows(path, f"DROP INDEX {name}")
    assert await found_in(path, chosen, page=2) == before
    assert [doc["a"] for doc in before] == [-4, -3, -2, -1]


async def test_indexes_come_and_go_with_their_design_documents(store: Store, path: Path) -> None:
    first = await put(store, "_design/one", **design("a"))
    await put(store, "_design/two", **design("a"))
    await put(store, "_design/broken", language="query", views={"v": {"map": {"fields": 3}}})
    await put(store, "_design/js", views={"v": {"map": {"fields": {"b": "asc"}}}})
    assert [index.ddoc for index in store.indexes] == [None, "_design/one", "_design/two"]
    [shared] = rows(path, FIND_INDEXES)
    await put(store, "_design/one", first, _deleted=True)
    assert rows(path, FIND_INDEXES) == [shared]
    # By replication, the tombstone of the other one.
    document = await store.get("_design/two")
    assert document is not None
    await store.graft([revision("_design/two", "dead", document.rev.hash, deleted=True, body="{}")])
    assert rows(path, FIND_INDEXES) == []


async def test_what_fails_leaves_the_indexes_alone(store: Store, path: Path) -> None:
    await put(store, "_design/one", **design("a"))

    def failing(transaction: Transaction) -> None:
        transaction.graft([first_revision("_design/two", design("b"))])
        raise RuntimeError("on purpose")

    with pytest.raises(RuntimeError, match="on purpose"):
        await store.write(failing)
    assert len(rows(path, FIND_INDEXES)) == 1


async def test_missing_indexes_are_made_when_a_store_is_opened(path: Path) -> None:
    store = await Store.open(path)
    await put(store, "_design/one", **design("a"))
    await put(store, "x", a=1)
    await store.close()
    [name] = rows(path, FIND_INDEXES)
    rows(path, f"DROP INDEX {name}")
    assert rows(path, FIND_INDEXES) == []
    await (await Store.open(path)).close()
    assert rows(path, FIND_INDEXES) == [name]


async def test_other_programs_can_read_a_store_with_indexes(store: Store, path: Path) -> None:
    await put(store, "_design/one", **design("a"))
    await put(store, "x", a=1)
    assert rows(path, "SELECT json_extract(body, '$.a') FROM docs WHERE id = 'x'") == [1]
    with opened(path) as connection, pytest.raises(sqlite3.OperationalError, match="couch_key"):
        connection.execute("DELETE FROM docs WHERE id = 'x'")


async def test_a_partial_index_has_to_be_named_and_filters(store: Store, path: Path) -> None:
    partial = design("a", partial_filter_selector={"b": {"$gt": 1}})
    await put(store, "_design/p", **partial)
    for number in range(4):
        await put(store, f"d{number}", a=1, b=number)
    selector = parse_selector({"a": 1})
    indexes = store.indexes
    assert plan(indexes, selector).index.special
    chosen = plan(indexes, selector, use_index=["p"])
    assert [doc["_id"] for doc in await found_in(path, chosen)] == ["d2", "d3"]


async def test_long_results_come_in_pages(store: Store, path: Path) -> None:
    await put(store, "_design/one", **design("a", "b"))
    await store.graft(
        [first_revision(f"d{n:04}", {"a": n % 2, "b": n % 3, "c": n % 5}) for n in range(1700)]
    )
    indexes = store.indexes
    for sort in ([("a", "desc"), ("b", "desc")], []):
        chosen = plan(indexes, parse_selector({"a": {"$gt": None}, "b": {"$gt": 0}}), sort=sort)
        docs = await found_in(path, chosen, page=100_000)
        assert len(docs) == sum(n % 3 > 0 for n in range(1700))
        page, count = await store.find(
            chosen, lambda page: len(page.texts), after=None, limit=100_000
        )
        assert len(page.texts) == count == 1000
        rare = plan(indexes, parse_selector({"a": 1, "b": 2, "c": {"$mod": [7, 4]}}), sort=sort)
        assert len(await found_in(path, rare, page=3)) == sum(
            n % 2 == 1 and n % 3 == 2 and n % 5 == 4 for n in range(1700)
        )
