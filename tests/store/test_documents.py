"""Documents in the store: replicated revisions, edits, bodies, counts, and how they look in SQL."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import sqlite_utils

from agent.documents.revision import Rev, first_revision
from agent.documents.tree import RevTree
from agent.errors import TooLargeError
from agent.store import lookup
from agent.store.store import Store
from tests.patience import PATIENCE
from tests.store.helpers import body, edit, get, opened, put, reading, revision, rows

# --- revisions as they come (new_edits=false) ----------------------------------------------


async def test_a_reading_costs_one_row(store: Store, path: Path) -> None:
    assert await store.graft([reading(number) for number in range(5)]) == [True] * 5
    assert rows(path, "SELECT count(*), count(tree), sum(gen), sum(conflicts) FROM docs") == [
        (5, 0, 5, 0)
    ]
    assert rows(path, "SELECT count(*) FROM revisions") == [0]


async def test_a_reading_reads_back(store: Store) -> None:
    sent = reading(1, value=21.5)
    await store.graft([sent])
    document = await get(store, sent.id)
    assert document.revision() == sent
    assert document.rev == sent.rev
    assert document.leaves() == [sent.rev]
    assert document.tree() == RevTree.of(sent)
    assert (document.seq, document.deleted, document.conflicts) == (1, False, 0)


async def test_what_is_known_already_changes_nothing(store: Store, path: Path) -> None:
    batch = [reading(1), revision("x", "b", "a"), revision("x", "c", "a")]
    assert await store.graft(batch) == [True, True, True]
    before = rows(path, "SELECT * FROM docs"), rows(path, "SELECT * FROM revisions")
    assert await store.graft([*batch, *batch]) == [False] * 6
    assert await store.graft([revision("x", "a")]) == [False]  # an ancestor
    assert (rows(path, "SELECT * FROM docs"), rows(path, "SELECT * FROM revisions")) == before
    assert store.update_seq == 2


async def test_a_batch_that_repeats_itself(store: Store) -> None:
    twice = reading(1)
    assert await store.graft([twice, reading(2), twice]) == [True, True, False]
    info = await store.info()
    assert (info.doc_count, info.update_seq) == (2, 2)


async def test_losing_revisions_stay_readable(store: Store, path: Path) -> None:
    await store.graft([revision("x", "b", "a", body='{"by":"b"}')])
    await store.graft([revision("x", "c", "a", body='{"by":"c"}')])
    await store.graft([revision("x", "aa", "a", body='{"by":"aa"}')])
    document = await get(store, "x")
    assert (document.rev, document.body, document.conflicts) == (Rev(2, "c"), '{"by":"c"}', 2)
    assert document.leaves() == [Rev(2, "c"), Rev(2, "b"), Rev(2, "aa")]
    assert [await body(store, "x", rev) for rev in document.leaves()] == [
        '{"by":"c"}',
        '{"by":"b"}',
        '{"by":"aa"}',
    ]
    (found,) = await store.revisions([("x", ["2-b"])])
    assert found == [("2-b", revision("x", "b", "a", body='{"by":"b"}'))]
    assert rows(path, "SELECT hash FROM revisions WHERE leaf ORDER BY hash") == ["aa", "b"]


async def test_a_conflict_wins_when_the_winner_is_deleted(store: Store, path: Path) -> None:
    await store.graft([revision("x", "b", "a", body='{"by":"b"}')])
    await store.graft([revision("x", "c", "a", body='{"by":"c"}')])
    deleted = await put(store, "x", "2-c", _deleted=True)
    document = await get(store, "x")
    assert (document.rev, document.body) == (Rev(2, "b"), '{"by":"b"}')
    assert (document.deleted, document.conflicts) == (False, 0)
    assert document.leaves() == [Rev(2, "b"), deleted]
    assert await body(store, "x", "2-c") == '{"by":"c"}'
    # The winner's body is in its row and nowhere else.
    assert rows(path, "SELECT hash FROM revisions WHERE hash = 'b'") == []
    await put(store, "x", "2-b", _deleted=True)
    assert (await get(store, "x")).deleted
    assert await body(store, "x", "2-b") == '{"by":"b"}'


async def test_an_ancestor_that_arrives_late_ends_a_conflict(store: Store, path: Path) -> None:
    await store.graft(
        [revision("x", "b", "a", body='{"b":1}'), revision("x", "c", generation=3, body='{"c":1}')]
    )
    document = await get(store, "x")
    assert document.conflicts == 1
    await store.graft([revision("x", "c", "b", "a")])
    document = await get(store, "x")
    assert (document.conflicts, document.leaves()) == (0, [Rev(3, "c")])
    assert document.seq == 2
    assert rows(path, "SELECT hash, leaf FROM revisions") == [("b", 0)]
    assert await body(store, "x", "2-b") == '{"b":1}'


async def test_older_history_alone_is_no_change(store: Store) -> None:
    await store.graft([revision("x", "c", generation=3)])
    await store.graft([revision("x", "c", "b", "a")])
    document = await get(store, "x")
    assert document.seq == 1
    assert document.revision().path == ("c", "b", "a")


async def test_revs_limit_forgets_ancestors_and_their_bodies(path: Path) -> None:
    store = await Store.open(path, revs_limit=3)
    rev = None
    for number in range(6):
        rev = await put(store, "x", rev, number=number)
    document = await get(store, "x")
    assert len(document.revision().path) == 3
    assert document.rev.generation == 6
    assert sorted(rows(path, "SELECT gen FROM revisions")) == [4, 5]
    # The same in one batch, which meets the limit before anything is stored.
    await store.graft([revision("y", *"gfedcba"[step:], body="{}") for step in range(6, -1, -1)])
    assert (await get(store, "y")).revision().path == ("g", "f", "e")
    assert sorted(rows(path, "SELECT gen FROM revisions WHERE id = 'y'")) == [5, 6]
    await store.close()


async def test_a_revision_that_others_call_deleted(store: Store, path: Path) -> None:
    """Only contradicting peers come to this; the tree decides, and all else follows it."""
    await store.graft([revision("x", "a", body='{"a":1}'), revision("x", "b"), revision("x", "c")])
    seq = store.update_seq
    for digest in "cb":
        await store.graft([revision("x", digest, deleted=True)])
    document = await get(store, "x")
    assert (document.rev, document.body, document.conflicts) == (Rev(1, "a"), '{"a":1}', 0)
    assert document.seq == seq + 2
    (found,) = await store.revisions([("x", ["1-b", "1-c"])])
    assert [each.deleted for _, each in found if each] == [True, True]
    assert rows(path, "SELECT count(*) FROM revisions WHERE leaf AND NOT deleted") == [0]
    assert rows(path, "SELECT * FROM conflicts") == []


async def test_a_revision_whose_child_goes_to_another_parent(store: Store, path: Path) -> None:
    await store.graft([revision("x", "b"), revision("x", "z"), revision("x", "m", "b")])
    assert (await get(store, "x")).conflicts == 1
    await store.graft([revision("x", "m", "c")])
    assert (await get(store, "x")).leaves() == [Rev(2, "m"), Rev(1, "z"), Rev(1, "b")]
    assert sorted(rows(path, "SELECT conflict FROM conflicts")) == ["1-b", "1-z"]


# --- edits, with CouchDB's rules -----------------------------------------------------------


async def test_create_update_delete_and_create_again(store: Store) -> None:
    one = await put(store, "x", n=1)
    assert one == first_revision("x", {"n": 1}).rev
    two = await put(store, "x", one, n=2)
    three = await put(store, "x", two, _deleted=True)
    assert [one.generation, two.generation, three.generation] == [1, 2, 3]
    assert (await get(store, "x")).deleted
    four = await put(store, "x", n=4)
    assert four.generation == 4
    document = await get(store, "x")
    assert document.revision().path == (four.hash, three.hash, two.hash, one.hash)
    assert (document.deleted, document.conflicts, document.body) == (False, 0, '{"n":4}')
    assert await body(store, "x", two) == '{"n":2}'


async def test_edits_that_are_conflicts(store: Store, path: Path) -> None:
    one = await put(store, "x", n=1)
    two = await put(store, "x", one, n=2)
    gone = await put(store, "gone", await put(store, "gone"), _deleted=True)
    before = rows(path, "SELECT * FROM docs")
    refused = [
        edit("x", n=3),  # no revision given
        edit("x", one, n=3),  # an old one
        edit("x", "2-unknown", n=3),
        edit("x", Rev(1, two.hash), n=3),
        edit("x", _deleted=True),
        edit("new", "1-a", n=1),  # nothing there to replace
        edit("gone", "1-a", n=1),
        edit("gone", _deleted=True),
    ]
    assert await store.edit(refused) == [None] * len(refused)
    assert rows(path, "SELECT * FROM docs") == before
    # A tombstone is a leaf like any other.
    assert (await put(store, "gone", gone, n=1)).generation == 3


async def test_any_leaf_can_be_edited(store: Store) -> None:
    await store.graft([revision("x", "b", "a"), revision("x", "c", "a")])
    three = await put(store, "x", "2-b", n=3)
    document = await get(store, "x")
    assert document.leaves() == [three, Rev(2, "c")]
    assert document.revision().path == (three.hash, "b", "a")
    await put(store, "x", "2-c", _deleted=True)
    assert (await get(store, "x")).conflicts == 0


async def test_edits_in_one_call_see_each_other(store: Store) -> None:
    one = first_revision("x", {"n": 1}).rev
    results = await store.edit([edit("x", n=1), edit("x", n=2), edit("x", one, n=3), edit("y")])
    assert results[0] == one
    assert results[1] is None
    assert results[2] is not None
    assert results[2].generation == 2
    info = await store.info()
    assert (info.doc_count, info.update_seq) == (2, 2)
    assert (await get(store, "x")).body == '{"n":3}'


async def test_new_documents_among_those_that_exist(store: Store) -> None:
    await put(store, "b", n=0)
    results = await store.edit([edit("a", n=1), edit("b", n=1), edit("c", n=1)])
    assert [rev is None for rev in results] == [False, True, False]
    page = await store.changes(0, limit=10)
    assert [(each.seq, each.id) for each in page.documents] == [(1, "b"), (2, "a"), (3, "c")]
    live, dead = await store.edit([edit("d", n=1), edit("e", _deleted=True)])
    assert live == results[0]
    assert dead is not None
    assert (await get(store, "e")).deleted
    info = await store.info()
    assert (info.update_seq, info.doc_count, info.doc_del_count) == (5, 4, 1)


async def test_the_same_edits_in_two_stores_are_no_conflict(store: Store, tmp_path: Path) -> None:
    other = await Store.open(tmp_path / "other.sqlite")
    members: list[dict[str, Any]] = [{"a": 1, "b": [2.5]}, {"b": [2.5], "a": 1}]
    for each, ordered in zip((store, other), members, strict=True):
        one = await put(each, "x", None, **ordered)
        two = await put(each, "x", one, n=2)
        await put(each, "x", two, _deleted=True)
    mine, theirs = await get(store, "x"), await get(other, "x")
    assert mine.rev == theirs.rev
    assert mine.encoded_tree == theirs.encoded_tree
    assert await store.graft([theirs.revision()]) == [False]
    await other.close()


# --- reading revisions ---------------------------------------------------------------------


async def test_missing_and_unknown_revisions(store: Store) -> None:
    await store.graft([revision("one", "a"), revision("more", "c", "b", "a")])
    asked = {
        "one": ["1-a", "1-b", "2-a"],
        "more": ["1-a", "2-b", "3-c", "3-d"],
        "none": ["1-a"],
        "": [],
    }
    assert await store.missing(asked) == {
        "one": ["1-b", "2-a"],
        "more": ["3-d"],
        "none": ["1-a"],
    }
    found = await store.revisions([("one", ["1-a", "1-b"]), ("more", ["3-c", "2-b"]), ("no", [])])
    assert found == [
        [("1-a", revision("one", "a")), ("1-b", None)],
        # 2-b is known only as an ancestor: its body never came.
        [("3-c", revision("more", "c", "b", "a")), ("2-b", None)],
        [],
    ]


async def test_revision_ids_are_compared_by_meaning(store: Store) -> None:
    await store.graft([revision("one", "a"), revision("more", "b", "a")])
    assert await store.missing({"one": ["01-a"], "more": ["01-a", "02-b"]}) == {}
    assert await body(store, "one", "01-a") == "{}"
    # What is no revision id at all, no store has.
    assert await store.missing({"one": ["x"], "more": ["x"], "none": ["x"]}) == {
        "one": ["x"],
        "more": ["x"],
        "none": ["x"],
    }
    assert [await body(store, id, "x") for id in ("one", "more", "none")] == [None] * 3


async def test_more_ids_than_one_query_takes(store: Store) -> None:
    batch = [reading(number) for number in range(1203)]
    await store.graft(batch[::2])
    assert await store.graft(batch) == [number % 2 == 1 for number in range(1203)]
    ids = [each.id for each in batch]
    assert set(await store.documents(ids)) == set(ids)
    assert await store.missing({each.id: [str(each.rev)] for each in batch}) == {}
    found = await store.revisions([(each.id, [str(each.rev)]) for each in batch])
    assert [revs[0][1] for revs in found] == batch


async def test_too_much_to_read_at_once(store: Store) -> None:
    large = '{"a":"' + "x" * 9_000_000 + '"}'
    await store.graft([revision("one", "a", body=large), revision("two", "a", body=large)])
    with pytest.raises(TooLargeError, match="ask for fewer documents"):
        await store.revisions([("one", ["1-a"]), ("two", ["1-a"])])
    assert await body(store, "one", "1-a") == large


async def test_a_write_between_two_queries_hides_no_revision(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A losing revision moves to another table when it begins to win."""
    await store.graft([revision("x", "b", body='{"by":"b"}'), revision("x", "c")])
    loop = asyncio.get_running_loop()
    query = lookup._documents

    def slow_query(*arguments: object, **options: object) -> object:
        found = query(*arguments, **options)  # type: ignore[arg-type]
        deletion = store.edit([edit("x", "1-c", _deleted=True)])
        asyncio.run_coroutine_threadsafe(deletion, loop).result(timeout=PATIENCE)
        return found

    monkeypatch.setattr(lookup, "_documents", slow_query)
    assert await body(store, "x", "1-b") == '{"by":"b"}'
    monkeypatch.undo()
    assert (await get(store, "x")).rev == Rev(1, "b")


# --- all documents -------------------------------------------------------------------------


async def test_all_docs(store: Store) -> None:
    ids = ["a", "b", "c", "d", "é", "\ufffd", "😀"]
    await store.graft([revision(id, "a") for id in reversed(ids)])
    await put(store, "c", "1-a", _deleted=True)
    ids.remove("c")

    async def listed(**options: object) -> list[str]:
        page = await store.all_docs(**{"limit": 99, **options})
        return [document.id for document in page.documents]

    assert await listed() == ids
    assert await listed(descending=True) == ids[::-1]
    assert await listed(start="b", end="é") == ["b", "d", "é"]
    assert await listed(start="b", end="é", inclusive_end=False) == ["b", "d"]
    assert await listed(start="é", end="b", descending=True) == ["é", "d", "b"]
    assert await listed(start="é", end="b", descending=True, inclusive_end=False) == ["é", "d"]
    assert await listed(start="bb", skip=1, limit=2) == ["é", "\ufffd"]
    assert await store.rank("d") == 2
    assert await store.rank("") == 0


# --- counts and SQL ------------------------------------------------------------------------


async def test_counts(store: Store, path: Path) -> None:
    await store.graft([reading(1), reading(2), revision("x", "a"), revision("y", "a")])
    await store.graft([revision("x", "b"), revision("gone", "b", "a", deleted=True)])
    await store.graft([revision("also gone", "a", deleted=True)])
    await put(store, "y", "1-a", _deleted=True)
    info = await store.info()
    assert (info.doc_count, info.doc_del_count, info.conflict_count) == (3, 3, 1)
    assert info.update_seq == store.update_seq == 8
    (pages,) = rows(path, "PRAGMA page_count")
    assert info.file_size == pages * 4096
    await put(store, "y", y=1)
    info = await store.info()
    assert (info.doc_count, info.doc_del_count) == (4, 2)


async def test_readings_by_plain_sql(store: Store, path: Path) -> None:
    members = {"time": "2026-01-02T03:04:05Z", "device": "dev", "sensor": "temp", "unit": "°C"}
    odd = {"value": None, "quality": "out-of-range"}
    await store.graft([reading(1, value=21.5, **members), reading(2, **members, **odd)])
    await store.graft([first_revision("other", {"type": "setpoint", "value": 3})])
    await store.graft([revision("dev:temp:00000003", "a", body='{"type":"reading"}', deleted=True)])
    expected = [
        {**members, "value": 21.5, "quality": None, "sequence": 1, "id": "dev:temp:00000001"},
        {**members, **odd, "sequence": 2, "id": "dev:temp:00000002"},
    ]
    with opened(path) as connection:
        cursor = connection.execute("SELECT * FROM readings ORDER BY id")
        names = [column[0] for column in cursor.description]
        assert [dict(zip(names, row, strict=True)) for row in cursor] == expected
    database = sqlite_utils.Database(path)
    assert list(database.query("SELECT * FROM readings ORDER BY id")) == expected
    assert sorted(database.view_names()) == ["conflicts", "readings"]
    database.close()


async def test_conflicts_by_plain_sql(store: Store, path: Path) -> None:
    await store.graft([reading(1), revision("x", "c", "a", body='{"by":"c"}')])
    await store.graft([revision("x", "b", "a", body='{"by":"b"}'), revision("y", "a")])
    await store.graft([revision("x", "z", "a", deleted=True), revision("y", "b", deleted=True)])
    expected = ("x", "2-c", '{"by":"c"}', "2-b", '{"by":"b"}')
    assert rows(path, "SELECT id, winner, winner_body, conflict, conflict_body FROM conflicts") == [
        expected
    ]
    database = sqlite_utils.Database(path)
    assert [tuple(row.values()) for row in database.query("SELECT * FROM conflicts")] == [expected]
    database.close()
    await put(store, "x", "2-b", _deleted=True)
    assert rows(path, "SELECT * FROM conflicts") == []


# --- ids and bodies of all kinds -----------------------------------------------------------


@pytest.mark.parametrize(
    "id",
    ["a\0b", "\0", "😀", "é", "e\u0301", "%", "' OR 1=1 --", "x" * 10_000, "_design/d", " ", "\n"],
)
async def test_ids_of_all_kinds(store: Store, id: str) -> None:
    await store.graft([revision(id, "a"), revision(id + "\0", "a"), revision(id + "x", "a")])
    await put(store, id, "1-a", n=2)
    document = await get(store, id)
    assert (document.id, document.body) == (id, '{"n":2}')
    assert (await get(store, id + "\0")).rev == Rev(1, "a")
    assert await store.missing({id: ["1-a", "2-no"]}) == {id: ["2-no"]}
    page = await store.changes(0, limit=10)
    assert [each.id for each in page.documents] == [id + "\0", id + "x", id]
    assert await store.put_local(id, None, "{}") == "0-1"
    assert await store.get_local(id) == ("0-1", "{}")


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"a":"\\u0000"}',
        '{"a":"' + "é" * 300_000 + '"}',
        '{"a":' + "[" * 900 + "]" * 900 + "}",
    ],
    ids=["empty", "NUL", "large", "deep"],
)
async def test_bodies_of_all_kinds(store: Store, path: Path, text: str) -> None:
    await store.graft([revision("x", "b", body=text)])
    await store.graft([revision("x", "c"), reading(1)])
    assert await body(store, "x", "1-b") == text
    await put(store, "x", "1-c", _deleted=True)
    assert (await get(store, "x")).body == text
    assert rows(path, "SELECT sequence FROM readings") == [1]


async def test_text_that_is_no_unicode_fails_alone(store: Store) -> None:
    """Half a surrogate pair has no UTF-8. What shares the commit is kept."""
    results = await asyncio.gather(
        store.graft([reading(1)]),
        store.graft([reading(2), revision("\ud800", "a")]),
        store.graft([reading(3)]),
        return_exceptions=True,
    )
    assert isinstance(results[1], UnicodeEncodeError)
    assert (results[0], results[2]) == ([True], [True])
    page = await store.changes(0, limit=9)
    assert [each.id for each in page.documents] == [reading(1).id, reading(3).id]
    assert (await store.info()).doc_count == 2
