"""Selectors as SQL conditions on `docs`, over the stored JSON.

A condition that is not `exact` lets more through than matches; whoever asks evaluates the selector
again on what comes out. Comparisons of strings, arrays and objects call `couch_key`, the sort key
of `agent.documents.collation`, which every connection of the agent has as an SQL function: ICU's
order cannot be said in SQL. Numbers, booleans and null, and equality with an ASCII string, need
nothing but SQLite's own JSON functions.
"""

from __future__ import annotations

import itertools
import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec

from agent.documents.collation import sort_key_of_json
from agent.documents.conditions import (
    All,
    And,
    At,
    BeginsWith,
    Compare,
    Condition,
    ElemMatch,
    Exists,
    In,
    KeyMapMatch,
    Mod,
    Node,
    Or,
    Regex,
    Size,
    Type,
    is_plain_number,
)
from agent.documents.fields import Absent, array_index, field_value

_MOST_PARTS = 200
"""Conditions that are written as SQL: SQLite's expressions may be nested 1000 deep."""

_MOST_INDICES = 3
"""Members of a path that may mean an element of an array; each doubles the ways to read it."""

OPERATORS = {"$lt": "<", "$lte": "<=", "$eq": "=", "$ne": "<>", "$gte": ">=", "$gt": ">"}
_NUMBER = "('integer','real')"
_TYPES = {
    "null": "('null')",
    "boolean": "('true','false')",
    "number": _NUMBER,
    "string": "('text')",
    "array": "('array')",
    "object": "('object')",
}
_RANKS = ("null", "false", "true", "number", "text", "array", "object")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.decode


class Sql(msgspec.Struct, frozen=True):
    """A condition with its parameters."""

    text: str
    parameters: tuple[Any, ...] = ()
    exact: bool = True


_FALSE = "gen < 0"
"""A constant would be folded, and with it the index that the query is told to use."""

_ANY = Sql("1", exact=False)
_NONE = Sql(_FALSE)


class FieldSql(msgspec.Struct, frozen=True):
    """A field as SQL: `json` its JSON text, `type` what `json_type` says, `value` as SQLite has it.

    All three are NULL where the field has no value; `value` is NULL for null as well.
    """

    json: str
    type: str
    value: str

    @property
    def key(self) -> str:
        """The field's sort key, as it stands in the expression indexes."""
        return f"couch_key({self.json})"


def register_functions(connection: sqlite3.Connection) -> None:
    """Give a connection the SQL functions that conditions and indexes use."""
    connection.create_function("couch_key", 1, _couch_key, deterministic=True)
    connection.create_function("couch_field", 2, _couch_field, deterministic=True)


def field_sql(path: Sequence[str]) -> FieldSql | None:
    """A field as SQL; None for what is not in a document's body, such as `_attachments`, and for
    the whole document, which the empty path means.
    """
    if not path:
        return None
    if path[0] == "_id":
        return FieldSql("json_quote(id)", "typeof(id)", "id") if len(path) == 1 else None
    if path[0] == "_rev":
        rev = "gen || '-' || hash"
        whole = FieldSql(f"json_quote({rev})", "typeof(hash)", f"({rev})")
        return whole if len(path) == 1 else None
    if path[0].startswith("_"):
        return None
    indices = [array_index(part) is not None for part in path]
    if not all(map(_is_plain, path)) or sum(indices) > _MOST_INDICES:
        names = _encode(list(path)).decode().replace("'", "''")
        json = f"couch_field(body, '{names}')"
        return FieldSql(json, f"json_type({json})", f"({json} ->> '$')")
    steps = [
        (_step(part), f"[{array_index(part)}]") if is_index else (_step(part),)
        for part, is_index in zip(path, indices, strict=True)
    ]
    ways = ["'$" + "".join(way) + "'" for way in itertools.product(*steps)]
    return FieldSql(
        _first([f"body -> {way}" for way in ways]),
        _first([f"json_type(body, {way})" for way in ways]),
        _first([f"(body ->> {way})" for way in ways]),
    )


def condition(node: Node | None) -> Sql:
    """The condition that a selector is."""
    if node is None:
        return Sql("1")
    return _ANY if _size(node) > _MOST_PARTS else _node(node)


def conjunction(parts: Sequence[Sql]) -> Sql:
    """All of them; what does not restrict anything is left out."""
    return Sql(
        " AND ".join(part.text for part in parts if part.text != "1") or "1",
        tuple(value for part in parts for value in part.parameters),
        all(part.exact for part in parts),
    )


def _node(node: Node) -> Sql:
    match node:
        case At():
            return _at(node)
        case And():
            return conjunction([_node(part) for part in node.parts])
        case Or() if node.parts:
            parts = [_node(part) for part in node.parts]
            return Sql(
                "(" + " OR ".join(f"({part.text})" for part in parts) + ")",
                tuple(value for part in parts for value in part.parameters),
                all(part.exact for part in parts),
            )
        case Or():
            return Sql("1")
    return _ANY


def _at(node: At) -> Sql:
    field = field_sql(node.path)
    if field is None:
        return _ANY
    if node.path == ("_id",) and isinstance(node.condition, Compare):
        inner = _id_comparison(node.condition)
    else:
        inner = _condition(node.condition, field, len(node.path))
    if not node.negated:
        return inner
    present = f"{field.type} IS NOT NULL"
    if not inner.exact:
        return Sql(present, exact=False)
    return Sql(f"({present} AND NOT coalesce({inner.text}, 0))", inner.parameters)


def _condition(given: Condition, field: FieldSql, depth: int) -> Sql:
    match given:
        case Compare():
            return comparison(given, field)
        case In(negated=False):
            return _in(given, field)
        case Exists(expected=False):
            # Below the top it matters why there is no value.
            return Sql(f"{field.type} IS NULL", exact=depth == 1)
        case Type():
            types = _TYPES.get(given.name)
            return Sql(f"{field.type} IN {types}") if types else _NONE
        case Mod():
            return Sql(f"{field.type} = 'integer'", exact=False)
        case Regex() | BeginsWith():
            return Sql(f"{field.type} = 'text'", exact=False)
        case Size():
            length = min(given.length, 2**62)
            return Sql(f"(CASE {field.type} WHEN 'array' THEN json_array_length({field.json}) "
                       f"END = {length})")  # fmt: skip
        case All() | ElemMatch():
            return Sql(f"{field.type} = 'array'", exact=False)
        case KeyMapMatch():
            return Sql(f"{field.type} = 'object'", exact=False)
        case Exists():
            return Sql(f"{field.type} IS NOT NULL")
    return Sql(f"{field.type} IS NOT NULL", exact=False)


def comparison(given: Compare, field: FieldSql) -> Sql:
    """A comparison without `couch_key`, where that is possible."""
    argument, operator = given.argument, given.operator
    if is_plain_number(argument):
        return _ranked(
            operator, "number", field, f"{field.value} {OPERATORS[operator]} ?", (argument,)
        )
    if argument is None:
        return _ranked(operator, "null", field)
    if isinstance(argument, bool):
        return _ranked(operator, "true" if argument else "false", field)
    if isinstance(argument, str) and operator == "$eq" and _is_printable(argument):
        # Equal in ICU's eyes besides: the same with ignored or combining characters in it.
        return Sql(
            f"({field.value} = ? AND {field.type} = 'text' "
            f"OR {_unusual(field)} AND {field.key} = ?)",
            (argument, given.key),
        )
    return Sql(f"{field.key} {OPERATORS[operator]} ?", (given.key,))


def _ranked(
    operator: str, rank: str, field: FieldSql, same: str = "", parameters: tuple[Any, ...] = ()
) -> Sql:
    """By type: what is of another type than the argument is below or above it altogether."""
    position = _RANKS.index(rank)
    types = [f"'{name}'" for name in _RANKS if name != "number"]
    types[3:3] = [_NUMBER[1:-1]]
    below, equal, above = types[:position], types[position], types[position + 1 :]
    others = {"$lt": below, "$lte": below, "$gt": above, "$gte": above, "$ne": below + above}
    passing = list(others.get(operator, ()))
    if not same and operator in ("$eq", "$lte", "$gte"):
        passing.append(equal)
    terms = []
    if passing:
        terms.append(f"{field.type} IN ({','.join(passing)})")
    if same:
        terms.append(f"{field.type} IN ({equal}) AND {same}")
    return Sql("(" + " OR ".join(terms) + ")" if terms else _FALSE, parameters)


def _id_comparison(given: Compare) -> Sql:
    if isinstance(given.argument, str):
        # The plus keeps SQLite from searching for it: the planner has done what can be done.
        return Sql(f"+id {OPERATORS[given.operator]} ?", (given.argument,))
    return Sql("1" if given.operator in ("$gt", "$gte", "$ne") else _FALSE)


def _in(given: In, field: FieldSql) -> Sql:
    plain = [
        value
        for value in given.arguments
        if is_plain_number(value) or (isinstance(value, str) and _is_printable(value))
    ]
    if len(plain) < len(given.arguments) or len(plain) > _MOST_PARTS:
        return Sql(f"{field.type} IS NOT NULL", exact=False)
    if not plain:
        return _NONE
    marks = ",".join("?" * len(plain))
    return Sql(
        f"({field.value} IN ({marks}) OR {field.type} = 'array' OR {_unusual(field)})",
        tuple(plain),
        exact=False,
    )


def _unusual(field: FieldSql) -> str:
    """A string with anything but printable ASCII in it; in JSON, control characters are escaped."""
    return f"{field.type} = 'text' AND ({field.json} GLOB '*[^ -~]*' OR instr({field.json}, '\\'))"


def _is_printable(text: str) -> bool:
    return text.isascii() and text.isprintable()


def _is_plain(part: str) -> bool:
    """Whether a path of SQLite can name the member; its versions disagree about escapes."""
    return not any(letter in '"\\' or letter < " " for letter in part)


def _step(part: str) -> str:
    return '."' + part.replace("'", "''") + '"'


def _first(alternatives: Sequence[str]) -> str:
    if len(alternatives) == 1:
        return alternatives[0]
    return f"coalesce({', '.join(alternatives)})"


def _size(node: Node) -> int:
    if isinstance(node, And | Or):
        return 1 + sum(map(_size, node.parts))
    return 1


def _couch_key(text: str | None) -> bytes | None:
    return None if text is None else sort_key_of_json(text)


def _couch_field(body: str, path: str) -> str | None:
    value = field_value(_decode(body), _decode(path))
    return None if isinstance(value, Absent) else _encode(value).decode()
