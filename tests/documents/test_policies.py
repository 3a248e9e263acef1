"""What policies decide: functions of the leaves, and of nothing else."""

from __future__ import annotations

import math
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.documents.attachment import Attachment, inline
from agent.documents.conflict import (
    MOST_ROUNDS,
    Conflict,
    Join,
    Version,
    joins_of,
    live_leaves,
    resolved_by,
    rounds_of,
)
from agent.documents.policies import (
    NO_VERSION,
    UNDECIDED,
    Best,
    Decided,
    Failed,
    Keep,
    Newest,
    Policy,
    PolicyContext,
    Python,
    Rule,
    Side,
    ThreeWay,
    Undecided,
    first_match,
    same_as_winner,
)
from agent.documents.revision import Rev, Revision
from agent.documents.selector import parse_selector
from agent.documents.tree import RevTree
from tests.documents.histories import histories

NOW = 1_800_000_000.0
BASE = Rev(1, "a")


def conflict(
    *bodies: dict[str, Any],
    base: dict[str, Any] | None = None,
    join: Join | None = None,
    attachments: tuple[tuple[Attachment, ...], ...] = (),
) -> Conflict:
    """Leaves with these bodies, the winner first, all made from `base` (None: not kept)."""
    revs = tuple(Rev(2, letter) for letter in "zyxw"[: len(bodies)])
    leaves = tuple(
        Version(rev, body, attachments[place] if attachments else ())
        for place, (rev, body) in enumerate(zip(revs, bodies, strict=True))
    )
    joins = tuple(join or Join(0, place, (BASE,)) for place in range(1, len(bodies)))
    bases = {} if base is None else {BASE: Version(BASE, base)}
    return Conflict("id", revs, leaves, joins, bases)


def decided(rule: Rule, asked: Conflict, now: float = NOW) -> Any:
    """The body that was decided, or whatever else came out."""
    decision = rule.decide(asked, now)
    return decision.body if isinstance(decision, Decided) else decision


# --- which revisions are merged with which ---------------------------------------------------


def tree_of(*revisions: Revision) -> RevTree:
    tree = RevTree()
    for revision in revisions:
        tree.merge(revision)
    return tree


def rev(text: str, *before: str, deleted: bool = False) -> Revision:
    path = (text, *before)
    return Revision("id", len(path), path, deleted, "{}")


def test_the_closest_relatives_are_merged_first() -> None:
    tree = tree_of(rev("c", "b", "a"), rev("d", "b", "a"), rev("e", "a"))
    leaves = live_leaves(tree)
    assert leaves == [Rev(3, "d"), Rev(3, "c"), Rev(2, "e")]
    assert joins_of(tree, leaves, {}) == (
        Join(0, 1, (Rev(2, "b"),)),
        Join(0, 2, (Rev(1, "a"),)),
    )


def test_two_first_revisions_have_no_ancestor_but_what_is_forgotten_may_have_been_one() -> None:
    tree = tree_of(rev("a"), rev("b"))
    assert joins_of(tree, live_leaves(tree), {}) == (Join(0, 1, ()),)
    tree = tree_of(Revision("id", 5, ("x", "y"), False, ""), rev("b"))
    assert joins_of(tree, live_leaves(tree), {}) == (Join(0, 1, (), complete=False),)


def test_an_edit_of_what_was_merged_meanwhile_is_compared_with_what_was_merged() -> None:
    """1-a has become 2-w and 2-l; 2-w and 2-l became 3-m; 2-l was edited once more, to 3-n."""
    tree = tree_of(rev("m", "w", "a"), rev("n", "l", "a"), rev("t", "l", "a", deleted=True))
    leaves = live_leaves(tree)
    tombstone = Rev(3, "t")
    resolved = resolved_by(tree, [(tombstone, "3-m")])
    assert joins_of(tree, leaves, resolved) == (Join(0, 1, (Rev(2, "l"),)),)
    for text in (None, 3, "x", "9-nobody"):
        told = resolved_by(tree, [(tombstone, text)])
        assert joins_of(tree, leaves, told) == (Join(0, 1, (Rev(1, "a"),)),)


def test_what_has_met_twice_is_compared_with_both_common_ancestors() -> None:
    """1-a and 1-b were merged here to 2-m; elsewhere 1-b was edited to 2-c, and that merged too."""
    a, b = Rev(1, "a"), Rev(1, "b")
    tree = tree_of(rev("m", "b"), rev("t", "a", deleted=True), rev("n", "c", "a"))
    tree.merge(rev("u", "b", deleted=True))
    dead = [(Rev(2, "t"), "2-m"), (Rev(2, "u"), "3-n")]
    joins = joins_of(tree, live_leaves(tree), resolved_by(tree, dead))
    assert joins == (Join(0, 1, (b, a), joins=(Join(0, 1, ()),)),)
    leaves = (
        Version(Rev(3, "n"), {"x": 2, "y": 1}),
        Version(Rev(2, "m"), {"x": 1, "y": 1, "z": 1}),
    )
    bases = {a: Version(a, {"x": 1}), b: Version(b, {"y": 1})}
    asked = Conflict("id", (Rev(3, "n"), Rev(2, "m")), leaves, joins, bases)
    assert decided(ThreeWay(), asked) == {"x": 2, "y": 1, "z": 1}


@given(histories(id="id"), st.randoms())
def test_joins_depend_on_the_tree_only(revisions: list[Revision], random: Any) -> None:
    tree = tree_of(*revisions)
    shuffled = list(revisions)
    random.shuffle(shuffled)
    other = tree_of(*shuffled)
    leaves = live_leaves(tree)
    joins = joins_of(tree, leaves, {})
    assert joins == joins_of(other, live_leaves(other), {})
    assert {join.theirs for join in joins} == set(range(1, len(leaves)))
    for join in joins:
        assert join.mine < join.theirs


def test_a_quarrel_shows_in_the_tree() -> None:
    """Each time two sides resolve otherwise, both end what is beaten, one of the results is beaten
    next, and so on. Sides that agree have made one tombstone."""
    agreed = [rev("a")]
    revisions = [rev("a")]
    path: tuple[str, ...] = ("a",)
    for number in range(MOST_ROUNDS + 2):
        assert rounds_of(tree_of(*revisions)) <= max(0, number - 1)
        beaten = rev(f"b{number}", *path)
        revisions += [beaten, *(rev(name, *beaten.path, deleted=True) for name in "tu")]
        agreed += [beaten, rev("t", *beaten.path, deleted=True)]
        path = (f"c{number}", *path)
        revisions.append(rev(*path))
        agreed.append(rev(*path))
    assert rounds_of(tree_of(*revisions)) == MOST_ROUNDS
    assert rounds_of(tree_of(*agreed)) == 0


def test_one_resolution_after_the_other_is_no_quarrel() -> None:
    revisions = [rev("a")]
    path: tuple[str, ...] = ("a",)
    for number in range(3 * MOST_ROUNDS):
        beaten = rev(f"b{number}", *path)
        revisions += [beaten, rev("t", *beaten.path, deleted=True)]
        path = (f"m{number}", f"c{number}", *path)  # an edit, and what it was merged to
        revisions.append(rev(*path))
    assert rounds_of(tree_of(*revisions)) <= 1


# --- rules -----------------------------------------------------------------------------------


def test_the_winner_is_kept() -> None:
    two = conflict({"v": 1}, {"v": 2})
    assert decided(Keep(Best()), two) == {"v": 1}
    assert same_as_winner(two, Decided({"v": 1.0}))
    assert not same_as_winner(two, Decided({"v": True}))
    assert not same_as_winner(two, Decided({"v": 1}, (inline("n", "text/plain", b""),)))


@pytest.mark.parametrize(
    ("values", "newest"),
    [
        (("2024-05-01T10:00:00Z", "2024-05-01T10:00:01Z"), 1),
        (("2024-05-01T10:00:00Z", "2024-05-01T10:00:00+00:00"), 0),
        (("2024-05-01T12:00:00+02:00", "2024-05-01T10:30:00Z"), 1),
        (("2024-05-01T10:00:00", "2024-05-01T09:59:59.999999Z"), 0),
        ((1_600_000_000, 1_600_000_000_001), 1),
        ((1_600_000_000.5, "2020-09-13T12:26:40Z"), 0),
        ((5, 5), 0),
    ],
)
def test_the_newest_is_kept_and_of_equal_ones_the_winner(
    values: tuple[Any, Any], newest: int
) -> None:
    bodies = [{"at": {"t": value}} for value in values]
    assert decided(Keep(Newest(("at", "t"))), conflict(*bodies)) == bodies[newest]


@pytest.mark.parametrize(
    "value", [None, True, "yesterday", {}, [], "", 10**400, "2024-13-01T00:00:00Z"]
)
def test_without_a_time_in_each_nothing_is_decided(value: Any) -> None:
    asked = conflict({"at": 1}, {"at": value})
    assert decided(Keep(Newest(("at",))), asked) == Undecided(
        "one of the revisions has no time in at"
    )
    assert isinstance(decided(Keep(Newest(("at",))), conflict({"at": 1}, {})), Undecided)


def test_a_time_in_the_future_waits_and_then_counts_as_on_every_side() -> None:
    rule = Keep(Newest(("at",), tolerance=60))
    asked = conflict({"at": NOW}, {"at": NOW + 61})
    waiting = decided(rule, asked)
    assert isinstance(waiting, Undecided)
    assert waiting.until == NOW + 1
    assert decided(rule, asked, NOW + 1) == {"at": NOW + 61}
    far = decided(rule, conflict({"at": 1e300}, {"at": 1}))
    assert isinstance(far, Undecided)
    assert far.until is not None
    assert math.isfinite(far.until)


@pytest.mark.parametrize(
    ("origins", "cloud", "edge"),
    [
        (("edge", "cloud"), 1, 0),
        (("cloud", "edge"), 0, 1),
        (("edge", "cloud", "cloud"), 1, 0),
        (("edge", "edge"), None, 0),
        (("cloud", "cloud"), 0, None),
    ],
)
def test_a_side_is_preferred(origins: tuple[str, ...], cloud: int | None, edge: int | None) -> None:
    bodies = [{"origin": origin, "n": place} for place, origin in enumerate(origins)]
    written_there = parse_selector({"origin": "cloud"})
    for prefer_cloud, place in ((True, cloud), (False, edge)):
        found = decided(Keep(Side(written_there, prefer_cloud)), conflict(*bodies))
        assert isinstance(found, Undecided) if place is None else found == bodies[place]


def test_fields_are_merged_against_the_ancestor() -> None:
    two = conflict({"a": 2, "b": 1}, {"a": 1, "b": 2}, base={"a": 1, "b": 1})
    assert decided(ThreeWay(), two) == {"a": 2, "b": 2}
    three = conflict({"a": 2}, {"a": 1, "b": 2}, {"a": 1, "c": 3}, base={"a": 1})
    assert decided(ThreeWay(), three) == {"a": 2, "b": 2, "c": 3}


def test_a_clash_goes_to_another_rule_or_to_people() -> None:
    two = conflict({"v": 1, "at": 1, "x": 1}, {"v": 2, "at": 2, "y": 1}, base={"v": 0, "at": 0})
    assert decided(ThreeWay(), two) == Undecided("both sides have changed v, at")
    assert decided(ThreeWay(Best()), two) == {"v": 1, "at": 1, "x": 1, "y": 1}
    assert decided(ThreeWay(Newest(("at",))), two) == {"v": 2, "at": 2, "x": 1, "y": 1}
    no_time = decided(ThreeWay(Newest(("t",))), two)
    assert isinstance(no_time, Undecided)
    assert no_time.reason.startswith(
        "both sides have changed v, at; one of the revisions has no time in t"
    )


def test_whoever_lacks_the_ancestor_leaves_it_to_a_side_that_has_it() -> None:
    two = conflict({"a": 1}, {"b": 1})
    lacking = decided(ThreeWay(Best()), two)
    assert isinstance(lacking, Undecided)
    assert "1-a is not kept here" in lacking.reason
    forgotten = conflict({"a": 1}, {"b": 1}, join=Join(0, 1, (), complete=False))
    assert isinstance(decided(ThreeWay(Best()), forgotten), Undecided)
    never = conflict({"a": 1}, {"b": 1}, join=Join(0, 1, ()))
    assert decided(ThreeWay(), never) == {"a": 1, "b": 1}


def test_attachments_are_merged_by_name() -> None:
    one, other, old, new = (
        inline(name, "text/plain", data)
        for name, data in (("one", b"1"), ("other", b"2"), ("same", b"old"), ("same", b"new"))
    )
    base = Conflict("id", (), (), (), {BASE: Version(BASE, {}, (old,))}).bases
    leaves = (Version(Rev(2, "z"), {}, (old, one)), Version(Rev(2, "y"), {}, (new, other)))
    asked = Conflict("id", (Rev(2, "z"), Rev(2, "y")), leaves, (Join(0, 1, (BASE,)),), base)
    decision = ThreeWay().decide(asked, NOW)
    assert isinstance(decision, Decided)
    assert decision.body == {}
    assert {each.name: each for each in decision.attachments} == {
        "same": new,
        "one": one,
        "other": other,
    }


BODIES = st.dictionaries(st.sampled_from("abc"), st.integers(0, 2), max_size=3)


@given(BODIES, st.lists(BODIES, min_size=2, max_size=4), st.data())
def test_a_decision_does_not_depend_on_where_it_is_made(
    base: dict[str, Any], bodies: list[dict[str, Any]], data: st.DataObject
) -> None:
    """The same histories, which have arrived in another order, make the same conflict."""
    revisions = [rev("a"), *(rev(letter, "a") for letter in "zyxw"[: len(bodies)])]
    by_rev = {each.rev: body for each, body in zip(revisions, [base, *bodies], strict=True)}
    made = []
    for order in (revisions, data.draw(st.permutations(revisions))):
        tree = tree_of(*order)
        leaves = live_leaves(tree)
        versions = tuple(Version(leaf, by_rev[leaf]) for leaf in leaves)
        bases = {BASE: Version(BASE, base)}
        joins = joins_of(tree, leaves, {})
        made.append(
            ThreeWay(Best()).decide(Conflict("id", tuple(leaves), versions, joins, bases), NOW)
        )
    assert made[0] == made[1]
    # What exactly one leaf has changed is as that leaf has it.
    assert isinstance(made[0], Decided)
    for name in "abc":
        changed = [body.get(name) for body in bodies if body.get(name) != base.get(name)]
        if len(changed) <= 1:
            assert made[0].body.get(name) == (changed or [base.get(name)])[0]


# --- functions of somebody else --------------------------------------------------------------


def python(function: Any, **options: Any) -> Python:
    return Python(function, PolicyContext("", "db", "p", {"x": 1}), **options)


def test_a_function_gets_the_base_the_leaves_and_a_context() -> None:
    seen: list[Any] = []

    def policy(base: Any, leaves: Any, context: PolicyContext) -> Any:
        seen.extend([base, leaves, context])
        leaves[0]["v"].append("mine")  # its own copy
        return {"v": base["v"] + leaves[1]["v"]}

    asked = conflict({"v": [1]}, {"v": [2]}, base={"v": [0]})
    assert decided(python(policy), asked) == {"v": [0, 2]}
    assert seen[0] == {"_id": "id", "_rev": "1-a", "v": [0]}
    assert seen[1][1] == {"_id": "id", "_rev": "2-y", "v": [2]}
    assert seen[2] == PolicyContext("id", "db", "p", {"x": 1})
    assert asked.leaves[0].body == {"v": [1]}


def test_a_function_may_leave_it_undecided_and_waits_for_the_base_unless_it_needs_none() -> None:
    asked = conflict({}, {})
    assert isinstance(decided(python(lambda *_: UNDECIDED), conflict({}, {}, base={})), Undecided)
    assert "not kept here" in decided(python(lambda *_: {}), asked).reason
    assert decided(python(lambda base, *_: {"base": base}, needs_base=False), asked) == {
        "base": None
    }
    never = conflict({}, {}, join=Join(0, 1, ()))
    assert decided(python(lambda base, *_: {"base": base}), never) == {"base": None}


def endless() -> dict[str, Any]:
    body: dict[str, Any] = {}
    body["a"] = body
    return body


@pytest.mark.parametrize(
    "result",
    [None, 5, "x", [], {"_id": "x"}, {"_deleted": True}, {1: 2}, {"a": object()}, {"a": "\ud800"},
     endless(), {"a": {1, 2}}, {"a": [float("nan")]}, {"a": {1: 2}}, {"a": datetime(2026, 1, 1)},
     {"a": b"x"}],
    ids=range(15),
)  # fmt: skip
def test_rubbish_is_a_failure(result: Any) -> None:
    assert isinstance(decided(python(lambda *_: result), conflict({}, {}, base={})), Failed)


@pytest.mark.parametrize(
    "error", [ValueError("no"), KeyError("a"), SystemExit(3), RecursionError()]
)
def test_a_function_that_raises_is_a_failure(error: BaseException) -> None:
    def policy(*_: Any) -> Any:
        raise error

    found = decided(python(policy), conflict({}, {}, base={}))
    assert isinstance(found, Failed)
    assert type(error).__name__ in found.reason


# --- policies --------------------------------------------------------------------------------


def policy(name: str, selector: dict[str, Any], rule: Rule | None = None) -> Policy:
    return Policy(name, parse_selector(selector), rule)


def test_the_first_policy_that_matches_any_leaf_is_used() -> None:
    policies = [policy("one", {"type": "a"}), policy("two", {"type": {"$in": ["b", "c"]}})]

    def chosen(*types: str, id: str = "x") -> str | None:
        leaves = tuple(Version(Rev(2, name), {"type": name}) for name in types)
        found = first_match(policies, Conflict(id, (), leaves))
        return None if found is None else found.name

    assert chosen("b", "a") == "one"
    assert chosen("b", "c") == "two"
    assert chosen("d", "e") is None
    assert chosen("a", "b", id="_design/a") is None
    assert NO_VERSION.body == {}


def test_what_is_too_much_or_goes_on_for_ever_is_left_to_people() -> None:
    always = policy("p", {}, Keep(Best()))
    two = conflict({}, {})
    assert isinstance(always.decide(two, NOW), Decided)
    partial = Conflict("id", two.revs, two.leaves[:1])
    assert isinstance(always.decide(partial, NOW), Undecided)
    quarrel = Conflict("id", two.revs, two.leaves, two.joins, {}, MOST_ROUNDS)
    assert isinstance(always.decide(quarrel, NOW), Failed)
    assert isinstance(policy("p", {}).decide(two, NOW), Undecided)
