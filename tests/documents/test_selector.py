"""The selector language, operator by operator, as CouchDB 3.5 has it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from agent.documents.fields import Absent, field_value, parse_field, project
from agent.documents.selector import SelectorError, parse_selector
from tests.documents.json_values import documents, selectors

DOC: dict[str, Any] = {
    "_id": "m",
    "_rev": "1-x",
    "name": "Mario",
    "age": 35,
    "ratio": 2.5,
    "none": None,
    "yes": True,
    "tags": ["red", "plumber", 7],
    "nested": {"deep": {"x": 1}, "list": [{"y": 2}, {"y": 3}]},
    "a.b": "dotted",
    "empty": [],
    "object": {"b": 2, "a": 1},
    "pairs": [[1, 2], [3]],
}


@pytest.mark.parametrize(
    "selector",
    [
        {},
        {"name": "Mario"},
        {"name": {"$eq": "Mario"}, "age": {"$gt": 30, "$lt": 40}},
        {"nested.deep.x": 1},
        {"nested": {"deep": {"x": {"$gte": 1}}}},
        {"nested.list.1.y": 3},
        {"a\\.b": "dotted"},
        {"age": {"$gt": None}},
        {"age": {"$lt": "a"}},
        {"name": {"$gt": 1e9}},
        {"tags": {"$gt": "zzz"}},
        {"yes": {"$gt": False}},
        {"none": None},
        {"none": {"$exists": True}},
        {"missing": {"$exists": False}},
        {"nested.other.x": {"$exists": False}},
        {"age": {"$ne": 36}},
        {"age": {"$in": [1, 35]}},
        {"age": {"$nin": [1, 36]}},
        {"age": {"$nin": []}},
        {"tags": {"$in": ["blue", "red"]}},
        {"tags": {"$all": ["red", 7]}},
        {"pairs": {"$all": [[3]]}},
        {"empty": {"$all": [[]]}},
        {"tags": {"$size": 3}},
        {"empty": {"$size": 0}},
        {"tags": {"$elemMatch": {"$eq": "plumber"}}},
        {"tags": {"$elemMatch": {"$gt": 1, "$lt": 8}}},
        {"nested.list": {"$elemMatch": {"y": {"$gt": 2}}}},
        {"nested.list": {"$elemMatch": {"$not": {"y": 2}}}},
        {"nested.list": {"$elemMatch": {"$nor": [{"y": 2}, {"z": 1}]}}},
        {"nested.list": {"$allMatch": {"y": {"$gt": 1}}}},
        {"object": {"$keyMapMatch": {"$eq": "a"}}},
        {"object": {"$eq": {"b": 2, "a": 1}}},
        {"name": {"$type": "string"}},
        {"none": {"$type": "null"}},
        {"yes": {"$type": "boolean"}},
        {"ratio": {"$type": "number"}},
        {"empty": {"$type": "array"}},
        {"object": {"$type": "object"}},
        {"age": {"$mod": [10, 5]}},
        {"name": {"$regex": "^Mar"}},
        {"name": {"$regex": "(?i)mario$"}},
        {"name": {"$regex": "^[[:upper:]][[:alpha:]]+$"}},
        {"name": {"$beginsWith": "Ma"}},
        {"$and": [{"name": "Mario"}, {"age": 35}]},
        {"$or": [{"name": "Luigi"}, {"age": 35}]},
        {"age": {"$or": [{"$lt": 3}, {"$gt": 30}]}},
        {"$nor": [{"name": "Luigi"}, {"age": 1}]},
        {"$not": {"name": "Luigi"}},
        {"name": {"$not": {"$regex": "^L"}}},
        {"$not": {"$not": {"name": "Mario"}}},
        {"$not": {"$and": [{"name": "Mario"}, {"age": 1}]}},
        {"$and": [], "name": "Mario"},
        {"$or": [], "name": "Mario"},
        {"_id": {"$gt": None}},
        {"_id": {"$gt": {}}},
        {"_id": {"$gt": "Z"}},
        {"_rev": "1-x"},
    ],
)
def test_matches(selector: dict[str, Any]) -> None:
    assert parse_selector(selector).matches(DOC)


@pytest.mark.parametrize(
    "selector",
    [
        {"name": "mario"},
        {"age": "35"},
        {"missing": None},
        {"missing": {"$ne": 1}},
        {"missing": {"$nin": [1]}},
        {"missing": {"$lt": 1}},
        {"missing": {"$not": {"$eq": 1}}},
        {"$not": {"missing": 1}},
        {"missing": {"$not": {"$regex": "a"}}},
        {"missing": {"$exists": True}},
        {"none": {"$exists": False}},
        # On the way to it there is a number, or an array: CouchDB then says neither.
        {"age.x": {"$exists": False}},
        {"tags.x": {"$exists": False}},
        {"tags.9": {"$exists": False}},
        {"tags": {"$all": []}},
        {"tags": {"$in": []}},
        {"tags": {"$nin": ["red"]}},
        {"tags": "red"},
        {"name": {"$all": ["Mario"]}},
        {"name": {"$elemMatch": {"$eq": "Mario"}}},
        {"empty": {"$allMatch": {"$gt": None}}},
        {"object": {"$keyMapMatch": {"$eq": "c"}}},
        {"object": {"$eq": {"a": 1, "b": 2}}},
        {"age": {"$regex": "3"}},
        {"age": {"$beginsWith": "3"}},
        {"name": {"$beginsWith": "ma"}},
        {"ratio": {"$mod": [2, 0]}},
        {"yes": {"$mod": [1, 0]}},
        {"yes": {"$gt": 0}},
        {"yes": {"$type": "number"}},
        {"$nor": [{"name": "Mario"}]},
        {"$and": [{"name": "Mario"}, {"age": 1}]},
        {"_id": {"$lt": {}}},
        {"_id": {"$lt": "Z"}},
        {"nested": {}},
    ],
)
def test_does_not_match(selector: dict[str, Any]) -> None:
    assert not parse_selector(selector).matches(DOC)


@pytest.mark.parametrize(
    ("selector", "error", "reason"),
    [
        ([], "invalid_selector_json", "Selector must be a JSON object, not: []"),
        ({"$gt": 1}, "invalid_selector", "One or more conditions is missing a field name."),
        ({"a": {"$foo": 1}}, "invalid_operator", "Invalid operator: $foo"),
        ({"a": {"$where": 1}}, "not_supported", "Unsupported operator: $where"),
        ({"a": {"$in": 1}}, "bad_arg", "Bad argument for operator $in: 1"),
        ({"a": {"$mod": {"gte": 3}}}, "bad_arg", 'Bad argument for operator $mod: {"gte":3}'),
        ({"a": {"$mod": [0, 1]}}, "bad_arg", "Bad argument for operator $mod: [0,1]"),
        ({"a": {"$regex": "("}}, "bad_arg", 'Bad argument for operator $regex: "("'),
        ({"a": {"$size": -1}}, "bad_arg", "Bad argument for operator $size: -1"),
        ({"a": {"$size": True}}, "bad_arg", "Bad argument for operator $size: true"),
        ({"a": {"$exists": "x"}}, "bad_arg", 'Bad argument for operator $exists: "x"'),
        ({"a": {"$beginsWith": 1}}, "invalid_operator", "Invalid operator: $beginsWith"),
        ({"$and": {}}, "bad_arg", "Bad argument for operator $and: {}"),
        ({"$not": 1}, "bad_arg", "Bad argument for operator $not: 1"),
        ({"a": {"$elemMatch": 1}}, "bad_arg", "Bad argument for operator $elemMatch: 1"),
        ({"a..b": 1}, "invalid_field_name", "Invalid field name: a..b"),
        ({"$text": "x"}, "no_usable_index", "There is no index available for this selector."),
    ],
)
def test_refusals_are_worded_as_couchdbs(selector: Any, error: str, reason: str) -> None:
    with pytest.raises(SelectorError) as refusal:
        parse_selector(selector)
    assert (refusal.value.error, str(refusal.value)) == (error, reason)


def test_deep_selectors_are_refused() -> None:
    selector: dict[str, Any] = {"a": 1}
    for _ in range(400):
        selector = {"$not": selector}
    with pytest.raises(SelectorError):
        parse_selector(selector)


@pytest.mark.parametrize(
    ("selector", "normal"),
    [
        ({}, {}),
        ({"a": 1}, {"a": {"$eq": 1}}),
        ({"a": 1, "b": 2}, {"$and": [{"a": {"$eq": 1}}, {"b": {"$eq": 2}}]}),
        ({"a": {"b": {"$gt": 1}}}, {"a.b": {"$gt": 1}}),
        ({"$not": {"a": {"$lt": 1}}}, {"a": {"$gte": 1}}),
        ({"$nor": [{"a": 1}]}, {"$and": [{"a": {"$ne": 1}}]}),
        ({"$not": {"$or": [{"a": 1}]}}, {"$and": [{"a": {"$ne": 1}}]}),
        ({"a": {"$not": {"$regex": "x"}}}, {"a": {"$not": {"$regex": "x"}}}),
    ],
)
def test_the_normal_form_is_couchdbs(selector: dict[str, Any], normal: dict[str, Any]) -> None:
    assert parse_selector(selector).to_json() == normal


@given(selectors, documents)
def test_the_normal_form_means_the_same(selector: dict[str, Any], doc: dict[str, Any]) -> None:
    doc = {"_id": "a", "_rev": "1-a", **doc}
    parsed = parse_selector(selector)
    assert parse_selector(parsed.to_json()).matches(doc) == parsed.matches(doc)


@pytest.mark.parametrize("operator", ["$or", "$and"])
def test_an_empty_combination_finds_nothing_alone(operator: str) -> None:
    assert parse_selector({operator: []}).nothing
    assert not parse_selector({"a": 1, operator: []}).nothing


def test_fields() -> None:
    assert parse_field("a.b\\.c.0") == ("a", "b.c", "0")
    assert field_value({"a": [1, {"b": 2}]}, ("a", "1", "b")) == 2
    assert field_value({"a": {}}, ("a", "b")) is Absent.NOT_FOUND
    assert field_value({"a": []}, ("a", "0")) is Absent.BAD_PATH
    with pytest.raises(ValueError, match="Invalid field name"):
        parse_field("a.")


def test_projection() -> None:
    doc = {"a": {"b": 1, "c": 2}, "d": [{"e": 3}], "f": None}
    paths = [("a", "b"), ("d", "0", "e"), ("f",), ("x",)]
    assert project(doc, paths) == {"a": {"b": 1}, "d": {"0": {"e": 3}}, "f": None}
    assert project(doc, [("a",), ("a", "b")]) == {"a": {"b": 1, "c": 2}}
    assert doc == {"a": {"b": 1, "c": 2}, "d": [{"e": 3}], "f": None}


def test_a_document_has_a_limit_for_all_its_values_together() -> None:
    """Each of them takes `$regex` some hundredths of a second."""
    selector = parse_selector({"a": {"$elemMatch": {"$regex": "^(a|aa)+$"}}})
    assert not selector.matches({"a": ["a" * 25 + "b"]})
    with pytest.raises(SelectorError) as caught:
        selector.matches({"a": ["a" * 25 + "b"] * 200})
    assert caught.value.error == "regex_timeout"
    assert selector.matches({"a": ["b", "aaa"]})
