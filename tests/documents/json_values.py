"""Random documents and selectors, from few names and values, so that they meet often."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

NAMES = ["a", "b", "c"]

scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 0, 1, 1.0, 2, 2.5, 2**53, 2**53 + 1, 2**70, -(2**63), 1e300]),
    st.sampled_from(
        ["", "a", "A", "b", "aa", "a b", "a'b", 'a"b', "é", "e\u0301", "\u0000a", "a\\", "ß", "0"]
    ),
)
values = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.sampled_from([*NAMES, "0", "a.b", 'x"y']), inner, max_size=3),
    ),
    max_leaves=6,
)
documents = st.dictionaries(st.sampled_from([*NAMES, "a.b", 'x"y']), values, max_size=4)

fields = st.sampled_from(
    ["a", "b", "c", "a.b", "a\\.b", "a.0", "a.0.b", "b.1", "a.b.c", 'x"y', "_id", "_rev", "_x"]
)

_comparisons = st.one_of(
    *[
        st.fixed_dictionaries({operator: values})
        for operator in ("$lt", "$lte", "$eq", "$ne", "$gte", "$gt")
    ]
)
_terminals: st.SearchStrategy[Any] = st.one_of(
    values.filter(lambda value: not isinstance(value, dict)),
    _comparisons,
    st.fixed_dictionaries({"$in": st.lists(values, max_size=3)}),
    st.fixed_dictionaries({"$nin": st.lists(values, max_size=3)}),
    st.fixed_dictionaries({"$all": st.lists(scalars, max_size=2)}),
    st.fixed_dictionaries({"$exists": st.booleans()}),
    st.fixed_dictionaries(
        {"$type": st.sampled_from(["null", "boolean", "number", "string", "array", "object", "x"])}
    ),
    st.fixed_dictionaries({"$size": st.integers(0, 3)}),
    st.fixed_dictionaries({"$mod": st.sampled_from([[2, 0], [2, 1], [-2, -1]])}),
    st.fixed_dictionaries({"$regex": st.sampled_from(["^a", "b", ""])}),
    st.fixed_dictionaries({"$beginsWith": st.sampled_from(["a", ""])}),
)
_conditions = st.recursive(
    _terminals,
    lambda inner: st.one_of(
        st.fixed_dictionaries({"$not": inner.filter(lambda value: isinstance(value, dict))}),
        st.fixed_dictionaries({"$elemMatch": inner.filter(lambda value: isinstance(value, dict))}),
        st.fixed_dictionaries({"$allMatch": inner.filter(lambda value: isinstance(value, dict))}),
        st.fixed_dictionaries({"$keyMapMatch": _comparisons}),
        st.fixed_dictionaries({"$or": st.lists(inner, max_size=2)}),
    ),
    max_leaves=3,
)
selectors: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.dictionaries(fields, _conditions, min_size=1, max_size=2),
    lambda inner: st.one_of(
        st.fixed_dictionaries({"$and": st.lists(inner, max_size=3)}),
        st.fixed_dictionaries({"$or": st.lists(inner, max_size=3)}),
        st.fixed_dictionaries({"$nor": st.lists(inner, max_size=2)}),
        st.fixed_dictionaries({"$not": inner}),
    ),
    max_leaves=4,
)
