"""Selectors, CouchDB's declarative queries: from JSON to a normal form that can be evaluated.

Source: CouchDB documentation, "API Reference > Databases > /{db}/_find > Selector Syntax"; the
normal form and the words of the errors are those of CouchDB 3.5. In the normal form

- what is implied is written out: `{"a": 1, "b": 2}` is `$and` of two `$eq`;
- field names are whole paths: `{"a": {"b": 1}}` is `{"a.b": 1}`;
- `$not` and `$nor` have been moved to the conditions (`$not $gt` is `$lte`), so that, as in
  CouchDB, a missing field fulfils neither a condition nor its negation.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

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
    Not,
    Or,
    Regex,
    RegexTime,
    Size,
    Type,
    has_regex,
    regex_time,
)
from agent.documents.fields import parse_field

if TYPE_CHECKING:
    import regex

_encode = msgspec.json.Encoder().encode

_OPPOSITES = {
    "$lt": "$gte",
    "$lte": "$gt",
    "$eq": "$ne",
    "$ne": "$eq",
    "$gte": "$lt",
    "$gt": "$lte",
}
_UNSUPPORTED = frozenset({"$where", "$geoWithin", "$geoIntersects", "$near", "$nearSphere"})
_LONGEST_PATTERN = 1000
_RECURSION = re.compile(r"\(\?(?:R|[+-]?\d|&|P>)")
_DEEPEST = 100
_EMPTY_IS_NOTHING = frozenset({"$and", "$or"})


class SelectorError(ValueError):
    """A selector that CouchDB refuses (HTTP 400): `error` is its word, the message its reason."""

    def __init__(self, error: str, reason: str) -> None:
        super().__init__(reason)
        self.error = error


class Selector(msgspec.Struct, frozen=True):
    """A selector in its normal form. `root` is None for `{}`, which everything matches."""

    root: Node | None
    nothing: bool = False
    """`{"$or": []}` and the like, standing alone: a query yields nothing for them."""

    def matches(self, doc: Mapping[str, Any], time: RegexTime | None = None) -> bool:
        """Whether a document matches; `doc` has its `_id` and `_rev`.

        Raises SelectorError when `$regex` takes too long on this document, or longer than is left
        of `time` for several.
        """
        if self.root is None:
            return True
        time = time or RegexTime()
        time.next_document()
        token = regex_time.set(time)
        try:
            return self.root.matches(doc)
        except TimeoutError:
            raise SelectorError(
                "regex_timeout", "A $regex of the selector takes too long; make it simpler"
            ) from None
        finally:
            regex_time.reset(token)

    @property
    def slow(self) -> bool:
        """Whether a single document may take long."""
        return has_regex(self.root)

    def to_json(self) -> dict[str, Any]:
        """The normal form as JSON, as `_explain` shows it."""
        return {} if self.root is None else _to_json(self.root)

    def both(self, other: Selector) -> Selector:
        """What matches this one and `other`."""
        if self.root is None or other.root is None:
            return Selector(self.root or other.root, self.nothing)
        return Selector(And((self.root, other.root)), self.nothing)


def parse_selector(value: Any) -> Selector:
    """The selector that a JSON value is. Raises SelectorError."""
    if not isinstance(value, Mapping):
        raise SelectorError(
            "invalid_selector_json", f"Selector must be a JSON object, not: {_shown(value)}"
        )
    if not value:
        return Selector(None)
    root = _Parser(push=True).parse(value, "", negated=False, depth=0)
    if isinstance(root, At) and not root.path:
        raise SelectorError("invalid_selector", "One or more conditions is missing a field name.")
    [(name, argument), *more] = value.items()
    return Selector(root, not more and name in _EMPTY_IS_NOTHING and argument == [])


class _Parser(msgspec.Struct, frozen=True):
    push: bool
    """Negations are moved to the conditions."""

    def parse(self, value: Any, name: str, *, negated: bool, depth: int) -> Node:
        """`name` is the path so far, joined with dots."""
        if depth > _DEEPEST:
            raise SelectorError("bad_field", "The selector is nested too deeply")
        if not isinstance(value, Mapping) or not value:
            return self._compare("$eq", value, name, negated)
        parts = [
            self._member(key, argument, name, negated, depth + 1) for key, argument in value.items()
        ]
        return parts[0] if len(parts) == 1 else _joined(parts, every=not negated)

    def _member(self, key: str, argument: Any, name: str, negated: bool, depth: int) -> Node:
        match key:
            case "$and" | "$or" | "$nor":
                return self._combination(key, argument, name, negated, depth)
            case "$not":
                if not isinstance(argument, Mapping):
                    raise _bad_argument(key, argument)
                if self.push:
                    return self.parse(argument, name, negated=not negated, depth=depth)
                return Not(self.parse(argument, name, negated=False, depth=depth))
            case "$lt" | "$lte" | "$eq" | "$ne" | "$gte" | "$gt":
                return self._compare(key, argument, name, negated)
            case "$in" | "$nin":
                if not isinstance(argument, list):
                    raise _bad_argument(key, argument)
                return _at(name, In(argument, (key == "$nin") != negated))
            case "$exists":
                if not isinstance(argument, bool):
                    raise _bad_argument(key, argument)
                return _at(name, Exists(argument != negated))
            case "$text":
                raise SelectorError(
                    "no_usable_index", "There is no index available for this selector."
                )
        if key.startswith("$"):
            return _at(name, _condition(key, argument, depth), negated)
        return self.parse(argument, f"{name}.{key}" if name else key, negated=negated, depth=depth)

    def _combination(self, key: str, argument: Any, name: str, negated: bool, depth: int) -> Node:
        if not isinstance(argument, list):
            raise _bad_argument(key, argument)
        inner = negated != (key == "$nor") if self.push else False
        parts = [self.parse(part, name, negated=inner, depth=depth) for part in argument]
        if self.push:
            return _joined(
                parts, every=(key == "$and") != negated if key != "$nor" else not negated
            )
        return Not(Or(tuple(parts))) if key == "$nor" else _joined(parts, every=key == "$and")

    def _compare(self, operator: str, argument: Any, name: str, negated: bool) -> Node:
        return _at(name, Compare(_OPPOSITES[operator] if negated else operator, argument))


def _condition(key: str, argument: Any, depth: int) -> Condition:
    within = _Parser(push=False)
    match key, argument:
        case "$type", str():
            return Type(argument)
        case "$mod", [int() as divisor, int() as remainder] if divisor and not (
            isinstance(divisor, bool) or isinstance(remainder, bool)
        ):
            return Mod(divisor, remainder)
        case "$regex", str():
            return Regex(argument, _pattern(argument))
        case "$beginsWith", str():
            return BeginsWith(argument)
        case "$beginsWith", _:
            raise SelectorError("invalid_operator", f"Invalid operator: {key}")
        case "$size", int() if not isinstance(argument, bool) and argument >= 0:
            return Size(argument)
        case "$all", list():
            return All(argument)
        case "$elemMatch" | "$allMatch", Mapping():
            inner = within.parse(argument, "", negated=False, depth=depth)
            return ElemMatch(inner, key == "$allMatch")
        case "$keyMapMatch", Mapping():
            return KeyMapMatch(within.parse(argument, "", negated=False, depth=depth))
        case (
            "$type" | "$mod" | "$regex" | "$size" | "$all" | "$elemMatch" | "$allMatch"
            | "$keyMapMatch"
        ), _:  # fmt: skip
            raise _bad_argument(key, argument)
    if key in _UNSUPPORTED:
        raise SelectorError("not_supported", f"Unsupported operator: {key}")
    raise SelectorError("invalid_operator", f"Invalid operator: {key}")


def _pattern(text: str) -> regex.Pattern[str]:
    """A regular expression, of a kind whose time and memory can be bounded.

    Time is checked while it matches, but not while it is compiled or compared letter by letter,
    and memory not at all, so patterns are short and do not call themselves. Raises SelectorError.
    """
    import regex

    if len(text) > _LONGEST_PATTERN or _RECURSION.search(text):
        raise _bad_argument("$regex", text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what may mean something else one day
            return regex.compile(text, cache_pattern=False)
    except (regex.error, RecursionError, OverflowError, ValueError):
        raise _bad_argument("$regex", text) from None


def _at(name: str, condition: Condition, negated: bool = False) -> At:
    try:
        return At(name, parse_field(name) if name else (), condition, negated)
    except ValueError as error:
        raise SelectorError("invalid_field_name", str(error)) from None


def _joined(parts: list[Node], *, every: bool) -> Node:
    return And(tuple(parts)) if every else Or(tuple(parts))


def _to_json(node: Node) -> dict[str, Any]:
    match node:
        case And():
            return {"$and": [_to_json(part) for part in node.parts]}
        case Or():
            return {"$or": [_to_json(part) for part in node.parts]}
        case Not():
            return {"$not": _to_json(node.part)}
    condition = _condition_json(node.condition)
    return {node.name: {"$not": condition} if node.negated else condition}


def _condition_json(condition: Condition) -> dict[str, Any]:
    match condition:
        case Compare():
            return {condition.operator: condition.argument}
        case In():
            return {"$nin" if condition.negated else "$in": condition.arguments}
        case Exists():
            return {"$exists": condition.expected}
        case Type():
            return {"$type": condition.name}
        case Mod():
            return {"$mod": [condition.divisor, condition.remainder]}
        case Regex():
            return {"$regex": condition.pattern}
        case BeginsWith():
            return {"$beginsWith": condition.prefix}
        case Size():
            return {"$size": condition.length}
        case All():
            return {"$all": condition.arguments}
        case ElemMatch():
            return {"$allMatch" if condition.every else "$elemMatch": _to_json(condition.inner)}
    return {"$keyMapMatch": _to_json(condition.inner)}


def _bad_argument(operator: str, argument: Any) -> SelectorError:
    return SelectorError("bad_arg", f"Bad argument for operator {operator}: {_shown(argument)}")


def _shown(value: Any) -> str:
    return _encode(value).decode()
