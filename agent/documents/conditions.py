"""The conditions that a selector puts on single values, and how they compose; see `selector`.

Source: CouchDB documentation, "API Reference > Databases > /{db}/_find > Selector Syntax".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from time import thread_time
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from agent.documents.collation import sort_key
from agent.documents.fields import Absent, field_value

if TYPE_CHECKING:
    import regex

_LONGEST_MATCH = 0.25

_encode = msgspec.json.Encoder().encode


class RegexTime(msgspec.Struct):
    """Seconds of processor time that regular expressions may still take, together.

    `total` is what a request has for all documents, `document` what it has for the one at hand.
    """

    total: float = math.inf
    document: float = _LONGEST_MATCH

    def next_document(self) -> None:
        self.document = _LONGEST_MATCH

    def search(self, pattern: regex.Pattern[str], text: str) -> bool:
        """Other threads go on meanwhile. Raises TimeoutError."""
        left = min(self.total, self.document)
        if left <= 0:
            raise TimeoutError
        begun = thread_time()
        try:
            return pattern.search(text, timeout=left, concurrent=True) is not None
        finally:
            taken = thread_time() - begun
            self.total -= taken
            self.document -= taken


regex_time: ContextVar[RegexTime] = ContextVar("regex_time")
"""Set while a selector is evaluated."""


@dataclass(frozen=True, slots=True)
class Compare:
    """`$lt`, `$lte`, `$eq`, `$ne`, `$gte`, `$gt`: any two values compare, by CouchDB's order."""

    operator: str
    argument: Any
    key: bytes = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "key", sort_key(self.argument))

    def holds(self, value: Any) -> bool:
        return _ordered(self.operator, sort_key(value), self.key)

    def holds_raw(self, id: Any) -> bool:
        """For `_id`: by code points, and any string is above whatever is none."""
        if not isinstance(self.argument, str):
            return self.operator in ("$gt", "$gte", "$ne")
        return _ordered(self.operator, id, self.argument)


@dataclass(frozen=True, slots=True)
class In:
    """`$in`, and with `negated` `$nin`: an array has any of its elements compared."""

    arguments: list[Any]
    negated: bool
    keys: frozenset[bytes] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", frozenset(map(sort_key, self.arguments)))

    def holds(self, value: Any) -> bool:
        values = value if isinstance(value, list) else [value]
        return any(sort_key(each) in self.keys for each in values) != self.negated


class Exists(msgspec.Struct, frozen=True):
    expected: bool

    def holds(self, value: Any) -> bool:
        return self.expected


class Type(msgspec.Struct, frozen=True):
    name: str

    def holds(self, value: Any) -> bool:
        return type_name(value) == self.name


class Mod(msgspec.Struct, frozen=True):
    divisor: int
    remainder: int

    def holds(self, value: Any) -> bool:
        if not isinstance(value, int) or isinstance(value, bool):
            return False
        rest = abs(value) % abs(self.divisor)  # as in Erlang and C: with the dividend's sign
        return (rest if value >= 0 else -rest) == self.remainder


@dataclass(frozen=True, slots=True)
class Regex:
    """`$regex`, in the dialect of the package regex, which is close to CouchDB's (PCRE)."""

    pattern: str
    compiled: regex.Pattern[str] = field(repr=False, compare=False)

    def holds(self, value: Any) -> bool:
        """Raises TimeoutError."""
        return isinstance(value, str) and regex_time.get().search(self.compiled, value)


class BeginsWith(msgspec.Struct, frozen=True):
    prefix: str

    def holds(self, value: Any) -> bool:
        return isinstance(value, str) and value.startswith(self.prefix)


class Size(msgspec.Struct, frozen=True):
    length: int

    def holds(self, value: Any) -> bool:
        return isinstance(value, list) and len(value) == self.length


class All(msgspec.Struct, frozen=True):
    """`$all`: an array that has all of them, or that is the one array among the arguments."""

    arguments: list[Any]

    def holds(self, value: Any) -> bool:
        if not isinstance(value, list) or not self.arguments:
            return False
        there = {_encode(each) for each in value}
        if all(_encode(argument) in there for argument in self.arguments):
            return True
        only = self.arguments[0]
        return (
            len(self.arguments) == 1 and isinstance(only, list) and _encode(only) == _encode(value)
        )


class ElemMatch(msgspec.Struct, frozen=True):
    """`$elemMatch` (any element), or with `every` `$allMatch` (all of them, and at least one)."""

    inner: Node
    every: bool

    def holds(self, value: Any) -> bool:
        if not isinstance(value, list) or not value:
            return False
        quantifier = all if self.every else any
        return quantifier(self.inner.matches(element) for element in value)


class KeyMapMatch(msgspec.Struct, frozen=True):
    """`$keyMapMatch`: any name of a member."""

    inner: Node

    def holds(self, value: Any) -> bool:
        return isinstance(value, Mapping) and any(self.inner.matches(name) for name in value)


Condition: TypeAlias = (
    Compare | In | Exists | Type | Mod | Regex | BeginsWith | Size | All | ElemMatch | KeyMapMatch
)


class At(msgspec.Struct, frozen=True):
    """A condition on a field, or on the value itself where the path is empty.

    A field without a value fulfils nothing but `$exists: false`, whether `negated` or not.
    """

    name: str
    path: tuple[str, ...]
    condition: Condition
    negated: bool = False

    def matches(self, value: Any) -> bool:
        found = field_value(value, self.path)
        if isinstance(found, Absent):
            return (
                found is Absent.NOT_FOUND
                and isinstance(self.condition, Exists)
                and not self.condition.expected
                and not self.negated
            )
        if self.path == ("_id",) and isinstance(self.condition, Compare):
            return self.condition.holds_raw(found) != self.negated
        return self.condition.holds(found) != self.negated


class And(msgspec.Struct, frozen=True):
    parts: tuple[Node, ...]

    def matches(self, value: Any) -> bool:
        return all(part.matches(value) for part in self.parts)


class Or(msgspec.Struct, frozen=True):
    """Without parts it holds, as CouchDB has it."""

    parts: tuple[Node, ...]

    def matches(self, value: Any) -> bool:
        return not self.parts or any(part.matches(value) for part in self.parts)


class Not(msgspec.Struct, frozen=True):
    """Only within `$elemMatch` and the like; elsewhere negations are moved to the conditions."""

    part: Node

    def matches(self, value: Any) -> bool:
        return not self.part.matches(value)


Node: TypeAlias = At | And | Or | Not


def has_regex(node: Node | None) -> bool:
    """Whether a `$regex` is in it: then it may take long, and is better evaluated in a thread."""
    match node:
        case And() | Or():
            return any(map(has_regex, node.parts))
        case Not():
            return has_regex(node.part)
        case At(condition=ElemMatch() | KeyMapMatch() as condition):
            return has_regex(condition.inner)
        case At():
            return isinstance(node.condition, Regex)
    return False


def type_name(value: Any) -> str:
    """The name that `$type` has for a value."""
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int() | float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object"


def is_plain_number(value: Any) -> bool:
    """Whether any number in a document compares with this one the same way as a double."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and abs(value) < 2**53


def _ordered(operator: str, value: Any, argument: Any) -> bool:
    match operator:
        case "$eq":
            return bool(value == argument)
        case "$ne":
            return bool(value != argument)
        case "$lt":
            return bool(value < argument)
        case "$lte":
            return bool(value <= argument)
        case "$gt":
            return bool(value > argument)
    return bool(value >= argument)
