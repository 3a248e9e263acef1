"""The document `device:NAME`: people write what is desired, one gateway what the device reports.

Both edit the same document, so they may do so at the same time, on different sides of a
replication. The gateway is the only one that writes its own members, so it can always write them
again on top of what somebody else made of the document: a conflict that only its own edit has
caused it resolves, without losing an edit of others. A conflict of two people stays visible.
Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from agent.documents.revision import Rev, canonical
from agent.sensors.shadow import ALL, Refusal, same
from firmware_adapters.adapter import Value

Body = Mapping[str, Any]

_OWN = frozenset(("type", "device", "gateway", "reported", "reported_at", "refused"))
"""The members that the gateway writes; all others are other people's."""


def document_id(device: str) -> str:
    """The id of a device's document. A device's name has no colon, a reading's id has three."""
    return f"device:{device}"


def other_gateway(body: Body, gateway: str) -> str | None:
    """The gateway that a document belongs to, if it is another one."""
    named = body.get("gateway")
    return named if isinstance(named, str) and named != gateway else None


class _Reported(msgspec.Struct):
    reported: dict[str, Value] = {}
    refused: dict[str, Refusal] = {}


def reported_before(body: Body) -> tuple[dict[str, Value], dict[str, Refusal]]:
    """What the gateway wrote into a document: reported, and refused."""
    try:
        before = msgspec.convert(body, _Reported)
    except msgspec.ValidationError:  # somebody else has written there; it is written anew
        before = _Reported()
    return before.reported, before.refused


def with_report(
    body: Body,
    *,
    device: str,
    gateway: str,
    reported: Mapping[str, Value],
    refused: Mapping[str, Refusal],
    at: str,
) -> dict[str, Any]:
    """A document with the gateway's members as they are now; `at` is the time."""
    named = {"type": "device", "device": device, "gateway": gateway}
    told = {**named, **{name: value for name, value in body.items() if name not in named}}
    if "reported" not in told or not equal({"": told["reported"]}, {"": reported}):
        told["reported"] = dict(reported)
        told["reported_at"] = at
    if refused:
        told["refused"] = msgspec.to_builtins(refused)
    else:
        told.pop("refused", None)
    return told


def setting_rows(body: Body) -> dict[str, dict[str, Any]]:
    """Each setting that a document names: `desired`, `reported` (None where there is none),
    `state` ("confirmed", "pending", "refused", or "reported" where nothing is desired), and the
    `reason` of a refusal."""
    reported, refused = reported_before(body)
    desired = body.get("desired")
    if not isinstance(desired, Mapping):
        desired = {}
    rows = {}
    for name in dict.fromkeys([*desired, *reported, *refused]):
        refusal = refused.get(name)
        if name not in desired and name != ALL:
            if name not in reported:
                continue  # a refusal of what is not desired any more
            state = "reported"
        elif name in reported and same(desired.get(name), reported[name]):
            state = "confirmed"
        elif refusal is not None and (
            refusal.value is None or same(desired.get(name), refusal.value)
        ):
            state = "refused"
        else:
            state = "pending"
        rows[name] = {
            "desired": desired.get(name),
            "reported": reported.get(name),
            "state": state,
            "reason": refusal.reason if refusal is not None and state == "refused" else None,
        }
    return rows


class Leaf(msgspec.Struct, frozen=True):
    """A live leaf of a document: its revision, those that it descends from, and its body."""

    rev: Rev
    ancestors: Sequence[Rev]
    body: Body


def superfluous(leaves: Sequence[Leaf], body_of: Callable[[Rev], Body | None]) -> list[Leaf]:
    """The leaves that can be deleted because they say nothing that another one does not.

    That is so when others' members are those of the other leaf, or of the revision where the two
    have parted: then nobody but the gateway has edited since. `leaves`: the winner first.
    `body_of`: of an ancestor, None if it is not here any more; then a leaf is not superfluous.
    """
    kept = list(leaves)
    for leaf in reversed(leaves):
        if any(_adds_nothing(leaf, other, body_of) for other in kept if other is not leaf):
            kept.remove(leaf)
    return [leaf for leaf in leaves if leaf not in kept]


def parting(one: Leaf, other: Leaf) -> Rev | None:
    """The last revision that two leaves have in common, if any."""
    shared = set(other.ancestors)
    return next((rev for rev in one.ancestors if rev in shared), None)


def _adds_nothing(leaf: Leaf, other: Leaf, body_of: Callable[[Rev], Body | None]) -> bool:
    said = _of_others(leaf.body)
    if equal(said, _of_others(other.body)):
        return True
    rev = parting(leaf, other)
    base = {} if rev is None else body_of(rev)
    return base is not None and equal(said, _of_others(base))


def equal(one: Body, other: Body) -> bool:
    """As JSON: to Python true and 1 are equal."""
    return canonical(one) == canonical(other)


def _of_others(body: Body) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name not in _OWN}
