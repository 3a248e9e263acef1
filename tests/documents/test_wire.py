"""Revisions to and from JSON documents."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.documents.revision import Revision
from agent.documents.wire import document_text, revision_from_doc

HASH = "0123456789abcdef0123456789abcdef"

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
names = texts.filter(lambda name: not name.startswith("_"))
numbers = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=10,
)
bodies = st.dictionaries(names, values, max_size=6)
hashes = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


@st.composite
def revisions(draw: st.DrawFn) -> Revision:
    path = tuple(draw(st.lists(hashes, min_size=1, max_size=5)))
    return Revision(
        id=draw(names.filter(bool) | names.filter(bool).map("_design/".__add__)),
        generation=len(path) + draw(st.integers(0, 2000)),
        path=path,
        deleted=draw(st.booleans()),
        body=msgspec.json.encode(draw(bodies)).decode(),
    )


@given(revisions())
def test_a_revision_survives_the_wire(revision: Revision) -> None:
    doc = msgspec.json.decode(document_text(revision, revisions=True))
    assert revision_from_doc(doc) == revision


@given(revisions())
def test_without_history_a_revision_keeps_its_own_id(revision: Revision) -> None:
    doc = msgspec.json.decode(document_text(revision, revisions=False))
    assert "_revisions" not in doc
    known = revision_from_doc(doc)
    assert (known.rev, known.body, known.path) == (revision.rev, revision.body, revision.path[:1])


def test_the_text_is_the_body_with_underscore_members_in_front() -> None:
    revision = Revision("é", 2, ("b", "a"), True, '{"v": 1.50}')
    assert document_text(revision, revisions=True) == (
        '{"_id":"é","_rev":"2-b","_deleted":true,'
        '"_revisions":{"start":2,"ids":["b","a"]},"v": 1.50}'
    )
    assert document_text(Revision("x", 1, ("a",), False, "{}"), revisions=False) == (
        '{"_id":"x","_rev":"1-a"}'
    )
    assert document_text(Revision("x", 1, ("a",), False, " { } "), revisions=False).split() == [
        '{"_id":"x","_rev":"1-a"}'
    ]


def test_underscore_members_are_taken_off_and_the_rest_keeps_its_order() -> None:
    revision = revision_from_doc(
        {
            "z": 1,
            "_id": "x",
            "_rev": f"3-{HASH}",
            "a": {"_inner": 2},
            "_conflicts": ["3-a"],
            "_deleted_conflicts": ["2-b"],
            "_revs_info": [],
            "_local_seq": 7,
            "_attachments": {},
        }
    )
    assert revision == Revision("x", 3, (HASH,), False, '{"z":1,"a":{"_inner":2}}')


def test_the_history_counts_where_rev_says_something_else() -> None:
    doc = {"_id": "x", "_rev": "9-z", "_revisions": {"start": 3, "ids": ["c", "b"]}}
    assert revision_from_doc(doc).rev == (3, "c")
    doc["_revisions"] = {"start": 0, "ids": []}
    assert revision_from_doc(doc).rev == (9, "z")


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ({"_secret": 1}, "Bad special document member: _secret"),
        ({"_deleted": "yes"}, "Bad special document member: _deleted"),
        ({"_attachments": 1}, "Bad special document member: _attachments"),
        ({"_attachments": {"a": {"follows": True}}}, "a cannot follow a document in JSON"),
        ({"_attachments": {"_a": {"data": ""}}}, "Attachment name '_a' starts with prohibited"),
        ({"_attachments": {"": {"data": ""}}}, "Attachment name must not be empty"),
        ({"_attachments": {"a": {"data": "*"}}}, "Invalid attachment data for a"),
        ({"_attachments": {"a": {}}}, "Invalid attachment data for a"),
        ({"_attachments": {"a": 1}}, "Invalid attachment a"),
        ({"_attachments": {"a": {"stub": True, "length": -1}}}, "Invalid length of attachment a"),
        ({"_id": 5}, "Document id must be a string"),
        ({"_id": None}, "Document id must be a string"),
        ({"_id": ""}, "Document id must not be empty"),
        ({"_id": "_x"}, "Only reserved document ids may start with underscore."),
        ({"_id": "_local/x"}, "Only reserved document ids may start with underscore."),
        ({"_id": "_design/"}, "Illegal document id `_design/`"),
        ({"_rev": None}, "the document needs `_rev` or `_revisions` specified"),
        ({"_rev": 1}, "Invalid rev format"),
        ({"_rev": "1"}, "Invalid rev format"),
        ({"_rev": "0-a"}, "Invalid rev format"),
        ({"_revisions": []}, "Bad special document member: _revisions"),
        ({"_revisions": {"ids": ["a"]}}, "_revisions.start isn't an integer."),
        ({"_revisions": {"start": True, "ids": ["a"]}}, "_revisions.start isn't an integer."),
        ({"_revisions": {"start": 1, "ids": "a"}}, "_revisions.ids isn't a array."),
        ({"_revisions": {"start": 1, "ids": [1]}}, "RevId isn't a string"),
        ({"_revisions": {"start": 1, "ids": [""]}}, "RevId isn't a string"),
        ({"_revisions": {"start": 1, "ids": ["b", "a"]}}, "_revisions.start does not fit"),
        ({"_revisions": {"start": 10**18, "ids": ["b"]}}, "_revisions.start does not fit"),
    ],
)
def test_what_cannot_be_taken_is_refused(members: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=re.escape(reason)):
        revision_from_doc({"_id": "x", "_rev": "1-a", **members})


def test_what_a_replicator_notes_is_kept_like_other_members() -> None:
    doc = {"_id": "r", "_rev": "1-a", "source": "one", "_replication_state": "completed"}
    revision = revision_from_doc(doc)
    assert revision.body == '{"source":"one","_replication_state":"completed"}'
    assert msgspec.json.decode(document_text(revision, revisions=False)) == doc
