"""Limits with hysteresis and delay, and the alarm documents that tell when they were passed.

There is a document for each time that an alarm was raised. It is updated once, when the alarm is
cleared; what others wrote into it meanwhile (that somebody has seen it, say) stays. So an alarm
that comes and goes leaves a list of when it did, two alarms never share a revision tree, and no
document gathers revisions for ever.
Source: OPC 10000-9, "Alarms and Conditions", for what a hysteresis and an on-delay do.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import Struct

from agent.config_sensors import AlarmConfig
from firmware_adapters.adapter import Value


class AlarmState(Struct, omit_defaults=True):
    """Where one alarm stands; stored with the readings that brought it there."""

    since: int | None = None
    """Since when values have been beyond the limit, in microseconds since the epoch."""
    document: str | None = None
    """The alarm's document, while it is raised."""


class Threshold(msgspec.Struct, frozen=True):
    """`delay` in microseconds; `limit` and `hysteresis` in the readings' unit."""

    name: str
    side: Literal["above", "below"]
    limit: float
    hysteresis: float
    delay: int

    @classmethod
    def of(cls, config: AlarmConfig) -> Threshold:
        delay = round(1_000_000 * config.delay)
        if config.above is not None:
            return cls(config.name, "above", config.above, config.hysteresis, delay)
        assert config.below is not None  # noqa: S101  (the configuration has one of the two)
        return cls(config.name, "below", config.below, config.hysteresis, delay)

    def step(self, state: AlarmState, value: Value, at: int) -> Literal["raised", "cleared"] | None:
        """What a value does to the alarm; `state.since` takes note. The caller sets the document.

        A time before that of the last value means that the clock was set back: the delay begins
        anew. Truth values and texts do nothing.
        """
        if isinstance(value, bool | str):
            return None
        over = value - self.limit if self.side == "above" else self.limit - value
        if state.document is not None:
            return "cleared" if over <= -self.hysteresis else None
        if over <= 0:
            state.since = None
            return None
        if state.since is None or at < state.since:
            state.since = at
        return "raised" if at - state.since >= self.delay else None

    def body(self, about: dict[str, Any]) -> dict[str, Any]:
        """The document of an alarm that was just raised; `about` are the members that the reading
        which raised it has in common with it."""
        return {
            **about,
            "type": "alarm",
            "alarm": self.name,
            self.side: self.limit,
            "active": True,
            # What a replicator that has a fast lane selects: {"urgent": true}.
            "urgent": True,
        }


def alarm_cleared(body: dict[str, Any], at: str, value: Value | None) -> dict[str, Any]:
    """The document of an alarm that was cleared by a reading, or (without a value) because it is
    not configured any more."""
    cleared = {**body, "active": False, "cleared": at}
    if value is not None:
        cleared["cleared_value"] = value
    return cleared
