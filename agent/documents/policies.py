"""What is done about conflicts: the rules, and the policies that choose one by selector.

Every rule is a function of the live leaves and of their common ancestors, and of nothing else, so
that two sides with the same policies write the same revision. The time of day only says *when*
`Newest` decides, not what.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Protocol

import msgspec
from msgspec.structs import replace

from agent.documents.attachment import Absent, Attachment
from agent.documents.conflict import MOST_LEAVES, MOST_ROUNDS, Conflict, Join, Version
from agent.documents.fields import field_value
from agent.documents.merge import Merge, Path, same
from agent.documents.revision import Rev
from agent.documents.selector import Selector
from agent.documents.wire import body_text

UNDECIDED = "undecided"
"""What a policy in Python returns when it leaves a conflict to people."""

_MILLISECONDS = 1e11
"""Numbers from here on are milliseconds, as JavaScript has them; below, seconds."""

_ATTACHMENTS = "_attachments"

NO_VERSION = Version(Rev(0, ""), {})
"""What there was before a document's first revisions."""


class Decided(msgspec.Struct, frozen=True):
    """What a document is to be."""

    body: Mapping[str, Any]
    attachments: tuple[Attachment, ...] = ()


class Undecided(msgspec.Struct, frozen=True):
    """Left to people, or until a time (seconds since the epoch); `reason` is for people."""

    reason: str
    until: float | None = None


class Failed(msgspec.Struct, frozen=True):
    """The rule itself is at fault."""

    reason: str


Decision = Decided | Undecided | Failed


class Rule(Protocol):
    """Decides conflicts."""

    def decide(self, conflict: Conflict, now: float) -> Decision: ...


class Choice(Protocol):
    """Chooses one of several bodies, which come in the order of their revisions, best first."""

    def choose(self, docs: Sequence[Mapping[str, Any]], now: float) -> int | Undecided: ...


class Best(msgspec.Struct, frozen=True):
    """`winner`: CouchDB's."""

    def choose(self, docs: Sequence[Mapping[str, Any]], now: float) -> int | Undecided:
        return 0


class Newest(msgspec.Struct, frozen=True):
    """`newest`: the highest time in a field; of equal ones the best revision's.

    A time is a string as RFC 3339 has it, or a number of seconds or milliseconds since 1970. One
    that is more than `tolerance` seconds ahead of this machine's clock waits until it is not.
    """

    path: Path
    tolerance: float = 300.0

    def choose(self, docs: Sequence[Mapping[str, Any]], now: float) -> int | Undecided:
        times = [_seconds(field_value(doc, self.path)) for doc in docs]
        known = [time for time in times if time is not None]
        if len(known) < len(times):
            return Undecided(f"one of the revisions has no time in {'.'.join(self.path)}")
        newest = max(known)
        if newest > now + self.tolerance:
            return Undecided(
                f"the time in {'.'.join(self.path)} is in the future: {_shown(newest)}",
                newest - self.tolerance,
            )
        return known.index(newest)


class Side(msgspec.Struct, frozen=True):
    """`prefer-cloud` and `prefer-edge`: `cloud` tells what was written in the cloud."""

    cloud: Selector
    prefer_cloud: bool

    def choose(self, docs: Sequence[Mapping[str, Any]], now: float) -> int | Undecided:
        for place, doc in enumerate(docs):
            if self.cloud.matches(doc) is self.prefer_cloud:
                return place
        return Undecided(f"no revision is the {'cloud' if self.prefer_cloud else 'edge'}'s")


class Keep(msgspec.Struct, frozen=True):
    """Keeps one of the leaves as it is."""

    choice: Choice

    def decide(self, conflict: Conflict, now: float) -> Decision:
        chosen = self.choice.choose([conflict.doc(leaf.body) for leaf in conflict.leaves], now)
        if isinstance(chosen, Undecided):
            return chosen
        leaf = conflict.leaves[chosen]
        return Decided(leaf.body, leaf.attachments)


class ThreeWay(msgspec.Struct, frozen=True):
    """`merge`: by field, against the common ancestor; of several leaves the closest two first.

    `then` chooses the side whose value a clash takes; without it a clash leaves all to people.
    Attachments are merged by name.
    """

    then: Choice | None = None
    keys: Mapping[Path, str] = msgspec.field(default_factory=dict)

    def decide(self, conflict: Conflict, now: float) -> Decision:
        values = [_with_attachments(leaf) for leaf in conflict.leaves]
        for join in conflict.joins:
            base = base_of(conflict, join, self.keys)
            if isinstance(base, Undecided):
                return base
            mine, theirs = values[join.mine], values[join.theirs]
            joined = self._two(conflict, _with_attachments(base), mine, theirs, now)
            if isinstance(joined, Undecided):
                return joined
            values[join.mine] = joined
        named = values[0].pop(_ATTACHMENTS, {})
        return Decided(values[0], _found(named, [*conflict.leaves, *conflict.bases.values()]))

    def _two(
        self,
        conflict: Conflict,
        base: dict[str, Any],
        mine: dict[str, Any],
        theirs: dict[str, Any],
        now: float,
    ) -> dict[str, Any] | Undecided:
        merge = Merge(self.keys)
        result = merge.merge(base, mine, theirs)
        if not merge.clashes:
            return result
        names = ", ".join(dict.fromkeys(".".join(path) for path in merge.clashes))
        changed = f"both sides have changed {names}"
        if self.then is None:
            return Undecided(changed)
        chosen = self.then.choose([conflict.doc(mine), conflict.doc(theirs)], now)
        if isinstance(chosen, Undecided):
            return replace(chosen, reason=f"{changed}; {chosen.reason}")
        return Merge(self.keys, chosen).merge(base, mine, theirs) if chosen else result


class PolicyContext(msgspec.Struct, frozen=True):
    """What a policy in Python is told besides the documents."""

    id: str
    database: str
    policy: str
    settings: Mapping[str, Any]


PolicyFunction = Callable[[dict[str, Any] | None, list[dict[str, Any]], PolicyContext], Any]


class Python(msgspec.Struct, frozen=True):
    """`python`: a function of a package decides.

    It gets the common ancestor, the leaves (documents with `_id` and `_rev`, the winner first) and
    a context, and returns a body or `UNDECIDED`. Without `needs_base` the ancestor is always None.
    Attachments of all leaves are kept, of the same name the best leaf's.
    """

    function: PolicyFunction
    context: PolicyContext
    needs_base: bool = True

    def decide(self, conflict: Conflict, now: float) -> Decision:
        base = None
        if self.needs_base:
            found = base_of(conflict, conflict.joins[-1])
            if isinstance(found, Undecided):
                return found
            base = None if found is NO_VERSION else conflict.doc(found.body, found.rev)
        leaves = [conflict.doc(leaf.body, leaf.rev) for leaf in conflict.leaves]
        try:
            # Copies: what it does to its arguments is its own affair.
            result = self.function(
                *copy.deepcopy((base, leaves)),
                replace(self.context, id=conflict.id),
            )
            if isinstance(result, str) and result == UNDECIDED:
                return Undecided(f"the policy {self.context.policy!r} has left it undecided")
            return Decided(_checked(result), all_attachments(conflict))
        except KeyboardInterrupt:  # of a command
            raise
        except BaseException as error:  # noqa: BLE001 - somebody else's code; all others go on
            return Failed(f"{type(error).__name__}: {error}"[:500])


class Policy(msgspec.Struct, frozen=True):
    """A rule for the conflicts that a selector chooses; None leaves them to people.

    `ancestors` is how many earlier bodies of a document its store is to keep, see `compaction`.
    """

    name: str
    selector: Selector
    rule: Rule | None
    ancestors: int = 0

    def matches(self, conflict: Conflict) -> bool:
        """Whether any of the live leaves matches; design documents never do.

        Raises SelectorError when `$regex` takes too long.
        """
        if conflict.id.startswith("_design/"):
            return False
        return any(
            self.selector.matches(conflict.doc(leaf.body, leaf.rev)) for leaf in conflict.leaves
        )

    def decide(self, conflict: Conflict, now: float) -> Decision:
        """`now`: seconds since the epoch. Raises SelectorError when `$regex` takes too long."""
        if self.rule is None:
            return Undecided("the policy leaves it to people")
        if not conflict.complete:
            return Undecided(f"more than {MOST_LEAVES} revisions, or too large ones")
        if conflict.rounds >= MOST_ROUNDS:
            return Failed(
                f"resolved {MOST_ROUNDS} times in a row, and in conflict again: give all sides the "
                "same policy, one that always returns the same for the same revisions"
            )
        return self.rule.decide(conflict, now)


def first_match(policies: Sequence[Policy], conflict: Conflict) -> Policy | None:
    """The policy for a conflict. Raises SelectorError when `$regex` takes too long."""
    return next((policy for policy in policies if policy.matches(conflict)), None)


def base_of(
    conflict: Conflict, join: Join, keys: Mapping[Path, str] | None = None
) -> Version | Undecided:
    """The version that a join compares with, `NO_VERSION` where there never was one.

    Several common ancestors are merged, by `keys` as `Merge` has them. Undecided where only another
    side may have what it takes: deciding without it would make another result than that side's.
    """
    if not join.bases:
        forgotten = "the common ancestor is forgotten here (revs_limit)"
        return NO_VERSION if join.complete else Undecided(forgotten)
    versions = []
    for rev in join.bases:
        version = conflict.bases.get(rev)
        if version is None:
            return Undecided(
                f"the common ancestor {rev} is not kept here; a side that has it may decide"
            )
        versions.append(version)
    if not join.joins:
        return versions[0]
    values = [_with_attachments(version) for version in versions]
    for inner in join.joins:
        before = base_of(conflict, inner, keys)
        if isinstance(before, Undecided):
            return before
        merge = Merge(keys or {})  # what these disagree on is the first one's
        values[inner.mine] = merge.merge(
            _with_attachments(before), values[inner.mine], values[inner.theirs]
        )
    named = values[0].pop(_ATTACHMENTS, {})
    return Version(join.bases[0], values[0], _found(named, list(conflict.bases.values())))


def all_attachments(conflict: Conflict) -> tuple[Attachment, ...]:
    """Those of all leaves; of the same name the best leaf's."""
    found: dict[str, Attachment] = {}
    for attachments in (*(leaf.attachments for leaf in conflict.leaves), conflict.unseen):
        for attachment in attachments:
            found.setdefault(attachment.name, attachment)
    return tuple(found.values())


def same_as_winner(conflict: Conflict, decided: Decided) -> bool:
    """Whether nothing is to be written but the end of the other leaves."""
    winner = conflict.leaves[0]
    return same(dict(decided.body), dict(winner.body)) and _identities(
        decided.attachments
    ) == _identities(winner.attachments)


def written_over(winner: Version, decided: Decided) -> tuple[Attachment, ...]:
    """The attachments as an edit of the winner has to tell of them: stubs for what it has."""
    there = _identities(winner.attachments)
    return tuple(
        replace(attachment, revpos=0, content=Absent.STUB)
        if there.get(attachment.name) == _identity(attachment)
        else replace(attachment, revpos=0)
        for attachment in decided.attachments
    )


def _checked(result: Any) -> dict[str, Any]:
    """What a function returned, as JSON. Raises ValueError, TypeError."""
    if not isinstance(result, Mapping):
        raise TypeError(
            f"it has returned {type(result).__name__}, not a JSON object or {UNDECIDED!r}"
        )
    for name in result:
        if not isinstance(name, str) or name.startswith("_"):
            raise ValueError(f"it has returned a member {name!r}; none may begin with '_'")
    body = msgspec.json.decode(body_text(result), type=dict[str, Any])
    if body != result:  # a set, for one, would become an array in whatever order it has
        raise TypeError("it has returned something that is not in JSON, as sets, dates and NaN are")
    return body


def _identity(attachment: Attachment) -> list[str]:
    return [attachment.content_type, attachment.digest]


def _identities(attachments: Sequence[Attachment]) -> dict[str, list[str]]:
    return {attachment.name: _identity(attachment) for attachment in attachments}


def _with_attachments(version: Version) -> dict[str, Any]:
    """The body with its attachments as a member: merged as an object is, by name."""
    if not version.attachments:
        return dict(version.body)
    return {**version.body, _ATTACHMENTS: _identities(version.attachments)}


def _found(named: Mapping[str, list[str]], versions: Sequence[Version]) -> tuple[Attachment, ...]:
    known: dict[tuple[str, ...], Attachment] = {}
    for version in versions:
        for attachment in version.attachments:
            known.setdefault((attachment.name, *_identity(attachment)), attachment)
    return tuple(known[(name, *identity)] for name, identity in named.items())


def _seconds(value: Any) -> float | None:
    """A time in seconds since the epoch; None for what is none."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return value / 1000 if value >= _MILLISECONDS else float(value)
        time = datetime.fromisoformat(value)
    except (ValueError, TypeError, OverflowError):
        return None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _shown(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):
        return f"{seconds:g}"
