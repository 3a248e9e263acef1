"""`[[conflict]]`: what is done about documents in conflict."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from msgspec import NODEFAULT, Meta, Struct
from msgspec.structs import fields

from agent.config_types import DatabaseName, Name
from agent.errors import ConfigError

_WORD = re.compile(r"[a-z-]+")

_FIELD = r"^[^.\s][^\x00-\x1f\x7f]{0,255}$"

FieldName = Annotated[
    str,
    Meta(
        pattern=_FIELD,
        description="a field's name, with dots where it is nested",
        examples=["updated_at"],
    ),
]

_OPTIONS = {
    "field": "newest",
    "tolerance": "newest",
    "cloud": "prefer-cloud or prefer-edge",
    "then": "merge",
    "keys": "merge",
    "ancestors": "merge, python or manual",
    "entry_point": "python",
    "settings": "python",
    "needs_base": "python",
}
"""Options, and the policies that have a use for them."""


class ConflictConfig(Struct, forbid_unknown_fields=True):
    """`[[conflict]]`: a policy. Of several, the first whose selector matches is used."""

    name: Name
    policy: Annotated[
        Literal["winner", "merge", "newest", "prefer-cloud", "prefer-edge", "manual", "python"],
        Meta(
            description="'winner', 'merge', 'newest', 'prefer-cloud', 'prefer-edge', 'manual' or "
            "'python'",
            examples=["merge"],
        ),
    ]
    database: DatabaseName | None = None
    selector: Annotated[
        dict[str, Any],
        Meta(
            description="a Mango selector: which documents the policy is for",
            examples=[{"type": "setpoint"}],
        ),
    ] = {}
    then: Annotated[
        Literal["manual", "winner", "newest", "prefer-cloud", "prefer-edge"],
        Meta(
            description="what decides where both sides have changed the same field: 'manual', "
            "'winner', 'newest', 'prefer-cloud' or 'prefer-edge'",
            examples=["newest"],
        ),
    ] = "manual"
    keys: Annotated[
        dict[FieldName, Annotated[str, Meta(min_length=1)]],
        Meta(
            description="fields with arrays of objects, and the member that identifies an element",
            examples=[{"points": "id"}],
        ),
    ] = {}
    field: FieldName | None = None
    tolerance: Annotated[
        float,
        Meta(
            ge=0,
            le=31_536_000,
            description="seconds that a time may be ahead of the clock, at most a year",
            examples=[300],
        ),
    ] = 300.0
    cloud: (
        Annotated[
            dict[str, Any],
            Meta(
                description="a Mango selector that revisions match which were written in the cloud",
                examples=[{"origin": "cloud"}],
            ),
        ]
        | None
    ) = None
    ancestors: Annotated[
        int,
        Meta(
            ge=1,
            le=1000,
            description="earlier versions of each document that compaction keeps, from 1 to 1000",
            examples=[10],
        ),
    ] = 10
    entry_point: (
        Annotated[
            str,
            Meta(
                min_length=1,
                description="an entry point of an installed package, in the group "
                "edge_sync_agent.conflict_policies",
                examples=["highest-bid"],
            ),
        ]
        | None
    ) = None
    settings: Annotated[
        dict[str, Any],
        Meta(
            description="a table [conflict.settings] that the function gets",
            examples=[{"margin": 5}],
        ),
    ] = {}
    needs_base: Annotated[
        bool,
        Meta(
            description="false: the function decides without the common ancestor",
            examples=[False],
        ),
    ] = True

    def __post_init__(self) -> None:
        rules = {self.policy, self.then} if self.policy == "merge" else {self.policy}
        if "newest" in rules and self.field is None:
            raise self._mistake('newest needs field, for example field = "updated_at"')
        sides = sorted(rules & {"prefer-cloud", "prefer-edge"})
        if sides and not self.cloud:  # an empty selector matches whatever there is
            raise self._mistake(
                f"{sides[0]} needs cloud, a selector that tells "
                'what was written there, for example cloud = { origin = "cloud" }'
            )
        if self.policy == "python" and self.entry_point is None:
            raise self._mistake('python needs entry_point, for example entry_point = "highest-bid"')
        for entry in fields(self):
            fits = _OPTIONS.get(entry.name)
            if fits is None or rules & set(_WORD.findall(fits)):
                continue
            unused = entry.default_factory() if entry.default is NODEFAULT else entry.default
            if getattr(self, entry.name) != unused:
                raise self._mistake(f"{entry.name} is only for {fits}; take it out")

    def _mistake(self, text: str) -> ValueError:
        return ValueError(f"policy {self.name!r}: {text}")


def check_policy(entry: ConflictConfig, *, of_hub: bool) -> None:
    """What the types cannot say. Raises ConfigError."""
    if of_hub and entry.database is None:
        raise ConfigError(
            f"conflict {entry.name!r}: a hub has no database of its own; say which one it is "
            'for, for example database = "edge"'
        )


def check_order(entries: Sequence[ConflictConfig], own: str | None) -> None:
    """Each policy can be reached, as the first one that matches is used. Raises ConfigError.

    `own` is the database of entries that name none.
    """
    for place, entry in enumerate(entries):
        for earlier in entries[:place]:
            same = (earlier.database or own) == (entry.database or own)
            if same and earlier.selector in ({}, entry.selector):
                what = "the same documents" if earlier.selector else "every conflict"
                raise ConfigError(
                    f"conflict {entry.name!r}: is never used, as {earlier.name!r} above it takes "
                    f"{what}; put {entry.name!r} first, or change a selector"
                )
