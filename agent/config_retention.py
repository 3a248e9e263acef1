"""`[retention]`: how much room the agent's database may take, and how long readings are kept."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from msgspec import Meta, Struct

_UNITS = {"B": 1} | {
    prefix + unit: base**power
    for power, prefix in enumerate(("k", "M", "G", "T"), 1)
    for unit, base in (("B", 1000), ("iB", 1024))
}
_UNITS["KiB"] = _UNITS["kiB"]

_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400, "week": 604_800}

_LEAST = 1_000_000
_LONGEST = 100 * 365 * 86_400

Size = Annotated[
    int | str,
    Meta(
        description=f"bytes, or a text such as '2 GB' or '512 MiB'; at least {_LEAST}",
        examples=["2 GB"],
    ),
]
Duration = Annotated[
    float | str,
    Meta(
        description="seconds, or a text such as '30 days' or '12 hours', at most 100 years",
        examples=["30 days"],
    ),
]
Pattern = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        description="a name, or a pattern with '*', '?' and '[...]'",
        examples=["vibration*"],
    ),
]


class RuleConfig(Struct, forbid_unknown_fields=True):
    """`[[retention.rule]]`: how long the readings of some sensors are kept at most."""

    keep: Duration
    device: Pattern = "*"
    sensor: Pattern = "*"

    def __post_init__(self) -> None:
        self.seconds  # noqa: B018  (raises)

    @property
    def seconds(self) -> float:
        """Raises ValueError."""
        seconds = _quantity(self.keep, _SECONDS)
        if seconds is None or not 1 <= seconds <= _LONGEST:
            raise ValueError(
                f"keep = {self.keep!r}: expected seconds, or a text such as '30 days' or "
                "'12 hours', at most 100 years, for example keep = \"30 days\""
            )
        return seconds


class RetentionConfig(Struct, forbid_unknown_fields=True):
    """`[retention]`: without it nothing is ever deleted."""

    max_size: Size | None = None
    when_full: Annotated[
        Literal["stop", "drop-oldest", "thin"],
        Meta(description="'stop', 'drop-oldest' or 'thin'", examples=["stop"]),
    ] = "stop"
    rule: list[RuleConfig] = []

    def __post_init__(self) -> None:
        self.bytes  # noqa: B018  (raises)
        if self.max_size is None and not self.rule:
            raise ValueError(
                'give max_size, for example max_size = "2 GB", or a table [[retention.rule]]'
            )

    @property
    def bytes(self) -> int | None:
        """The budget. Raises ValueError."""
        if self.max_size is None:
            return None
        size = _quantity(self.max_size, _UNITS)
        if size is None or size < _LEAST:
            raise ValueError(
                f"max_size = {self.max_size!r}: expected bytes, or a text such as '2 GB' or "
                f"'512 MiB', at least {_LEAST}, for example max_size = \"2 GB\""
            )
        return int(size)


def _quantity(value: float | str, units: dict[str, int]) -> float | None:
    """A number, or one with a unit behind it; None for anything else."""
    if not isinstance(value, str):
        return value
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([A-Za-z]+?)s?", value.strip())
    factor = None if found is None else units.get(found[2])
    return None if found is None or factor is None else float(found[1]) * factor
