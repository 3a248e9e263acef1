"""What requests to `_find`, `_explain` and `_index` ask for.

Source: CouchDB documentation, "API Reference > Databases > /{db}/_find" and "/{db}/_index"; the
refusals are worded as CouchDB 3.5's.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from agent.documents.fields import parse_field
from agent.documents.selector import Selector, SelectorError, parse_selector
from agent.errors import RequestError
from agent.server.answers import json_text
from agent.server.edits import JsonObject
from agent.store.find import Position
from agent.store.mango_index import MOST_FIELDS

_DEFAULT_LIMIT = 25
_LARGEST = 10**18
NO_BOOKMARK = "nil"


@dataclass(frozen=True, slots=True)
class FindOptions:
    """`fields` are paths, None for whole documents; `given` is the request with the defaults."""

    selector: Selector
    limit: int
    skip: int
    sort: list[tuple[str, str]]
    fields: list[tuple[str, ...]] | None
    use_index: list[str]
    allow_fallback: bool
    bookmark: str
    after: Position | None
    conflicts: bool
    execution_stats: bool
    given: dict[str, Any] = field(repr=False)


def find_options(body: JsonObject) -> FindOptions:
    """Raises RequestError."""
    given = _validated(body, _FIND)
    bookmark = given["bookmark"]
    fields = given["fields"]
    return FindOptions(
        selector=parsed_selector(given["selector"]),
        limit=given["limit"],
        skip=given["skip"],
        sort=given["sort"],
        fields=[_path(name) for name in fields] or None,
        use_index=given["use_index"],
        allow_fallback=given["allow_fallback"],
        bookmark=bookmark,
        after=None if bookmark == NO_BOOKMARK else _position(bookmark),
        conflicts=given["conflicts"],
        execution_stats=given["execution_stats"],
        given=given,
    )


@dataclass(frozen=True, slots=True)
class IndexOptions:
    """A new index. `definition` is as given; names are None where they are to be made up."""

    definition: dict[str, Any]
    fields: list[tuple[str, str]]
    partial_filter: Selector
    name: str | None
    ddoc: str | None
    given: dict[str, Any] = field(repr=False)


def index_options(body: JsonObject) -> IndexOptions:
    """Raises RequestError."""
    given = _validated(body, _INDEX)
    kind = given["type"]
    if kind in ("text", "nouveau"):
        raise RequestError(503, "required index service unavailable", kind)
    if kind != "json":
        raise RequestError(400, "invalid_index", f"Invalid type for index: {kind}")
    if given["partitioned"] is True:
        raise RequestError(
            400, "bad_request", "partitioned option cannot be true in a non-partitioned database."
        )
    definition = given["index"]
    if not isinstance(definition, dict):
        raise RequestError(
            400, "invalid_index", f"JSON indexes must be an object, not: {json_text(definition)}"
        )
    parts = _validated(definition, _DEFINITION)
    if not parts["fields"]:
        raise RequestError(400, "invalid_index", "Index is missing its definition.")
    if len(parts["fields"]) > MOST_FIELDS:
        raise RequestError(400, "invalid_index", f"An index has at most {MOST_FIELDS} fields.")
    for name, _ in parts["fields"]:
        _path(name)
    partial = parsed_selector(parts["partial_filter_selector"])
    return IndexOptions(definition, parts["fields"], partial, given["name"], given["ddoc"], given)


def bulk_delete_ids(body: JsonObject) -> list[str]:
    """The design documents of `_index/_bulk_delete`. Raises RequestError."""
    ids: list[str] = _validated(body, _BULK_DELETE)["docids"]
    return ids


def parsed_selector(value: Any) -> Selector:
    """Raises RequestError."""
    try:
        return parse_selector(value)
    except SelectorError as error:
        raise RequestError(400, error.error, str(error)) from None


def bookmark_of(position: Position) -> str:
    """The bookmark of the last document that was shown; opaque to clients."""
    keys = [base64.b64encode(key).decode() for key in position.keys]
    text = msgspec.json.encode([position.id, *keys])
    return base64.urlsafe_b64encode(text).decode().rstrip("=")


def _position(bookmark: str) -> Position:
    try:
        padded = bookmark.encode("ascii") + b"=" * (-len(bookmark) % 4)
        id, *keys = msgspec.json.decode(
            base64.b64decode(padded, altchars=b"-_", validate=True), type=list[str]
        )
        return Position(tuple(base64.b64decode(key, validate=True) for key in keys), id)
    except (ValueError, binascii.Error, msgspec.MsgspecError):
        raise RequestError(
            400, "invalid_bookmark", f"Invalid bookmark value: {json_text(bookmark)}"
        ) from None


# --- single options --------------------------------------------------------------------

_REQUIRED = object()
_Checks = Mapping[str, tuple[Any, Callable[[Any], Any]]]


def _validated(body: Mapping[str, Any], checks: _Checks) -> dict[str, Any]:
    """All options, those not given with their defaults. Raises RequestError."""
    result = {}
    for name, (default, check) in checks.items():
        if name in body:
            result[name] = check(body[name])
        elif default is _REQUIRED:
            raise RequestError(400, "missing_required_key", f"Missing required key: {name}")
        else:
            result[name] = default
    for name in body:
        if name not in checks:
            raise RequestError(400, "invalid_key", f"Invalid key {name} for this request.")
    return result


def _anything(value: Any) -> Any:
    return value


def _boolean(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _refused("invalid_boolean", "Invalid boolean value: {}", value)
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST:
        raise _refused(
            "invalid_non_neg_integer", "{} is not an integer greater than or equal to zero", value
        )
    return value


def _positive(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise _refused("invalid_pos_integer", "{} is not an integer greater than zero", value)
    return value


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise _refused("invalid_string", "Invalid string: {}", value)
    return value


def _stale(value: Any) -> bool:
    if value not in ("ok", "false", False):
        raise _refused("invalid_ok_or_false_value", "Invalid value: {}", value)
    return bool(value == "ok")


def _sort(value: Any) -> list[tuple[str, str]]:
    if not isinstance(value, list):
        raise _refused("invalid_sort_json", "Sort must be an array of sort specs, not: {}", value)
    fields = [_sort_field(each) for each in value]
    if len({order for _, order in fields}) > 1:
        raise RequestError(
            400,
            "unsupported_mixed_sort",
            "Sorts currently only support a single direction for all fields.",
        )
    return fields


def _sort_field(value: Any) -> tuple[str, str]:
    if isinstance(value, str) and value:
        return value, "asc"
    if isinstance(value, dict) and len(value) == 1:
        [(name, order)] = value.items()
        if order in ("asc", "desc"):
            return name, order
    raise _refused("invalid_sort_field", "Invalid sort field: {}", value)


def _field_names(value: Any) -> list[str]:
    if not isinstance(value, list):
        raise _refused("invalid_fields", "Fields must be an array of strings, not: {}", value)
    for name in value:
        if not isinstance(name, str):
            raise _refused("invalid_field", "Invalid JSON for field spec: {}", name)
    return value


def _use_index(value: Any) -> list[str]:
    if value is None or value == []:
        return []
    if isinstance(value, str):
        parts = value.removeprefix("_design/").split("/")
    elif isinstance(value, list) and all(isinstance(part, str) for part in value):
        parts = value
    else:
        parts = []
    if not 1 <= len(parts) <= 2:
        raise _refused("invalid_index_name", "Invalid index name: {}", value)
    return parts


def _bookmark(value: Any) -> str:
    if value is None or value == "":
        return NO_BOOKMARK
    if not isinstance(value, str):
        raise _refused("invalid_bookmark", "Invalid bookmark value: {}", value)
    return value


def _partition(value: Any) -> str:
    if value != "":
        raise RequestError(400, "bad_request", "database is not partitioned")
    return ""


def _docids(value: Any) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(id, str) for id in value):
        raise _refused(
            "invalid_bulk_docs",
            "Bulk Delete requires an array of non-null docids. Docids: {}",
            value,
        )
    return value


def _path(name: str) -> tuple[str, ...]:
    try:
        return parse_field(name)
    except ValueError as error:
        raise RequestError(400, "invalid_field_name", str(error)) from None


def _refused(word: str, reason: str, value: Any) -> RequestError:
    return RequestError(400, word, reason.format(json_text(value)))


_FIND: _Checks = {
    "selector": (_REQUIRED, _anything),
    "use_index": ([], _use_index),
    "allow_fallback": (True, _boolean),
    "bookmark": (NO_BOOKMARK, _bookmark),
    "limit": (_DEFAULT_LIMIT, _count),
    "skip": (0, _count),
    "sort": ([], _sort),
    "fields": ([], _field_names),
    "partition": ("", _partition),
    "r": (1, _positive),
    "conflicts": (False, _boolean),
    "stale": (False, _stale),
    "update": (True, _boolean),
    "stable": (False, _boolean),
    "execution_stats": (False, _boolean),
}
_INDEX: _Checks = {
    "index": (_REQUIRED, _anything),
    "type": ("json", _string),
    "name": (None, _string),
    "ddoc": (None, _string),
    "w": (2, _positive),
    "partitioned": (None, _boolean),
}
_DEFINITION: _Checks = {
    "fields": (_REQUIRED, _sort),
    "partial_filter_selector": ({}, _anything),
}
_BULK_DELETE: _Checks = {"docids": (_REQUIRED, _docids), "w": (2, _positive)}
