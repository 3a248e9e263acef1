"""Which faults come when: a function of the seed alone, so that a run can be repeated."""

from __future__ import annotations

import random
from dataclasses import dataclass

AGENTS = ("hub", "north", "south")
GATEWAYS = ("north", "south")

_PAUSE = (0.2, 2.0)
"""Seconds from one fault to the next; most last longer, so they overlap."""

_KINDS: dict[str, tuple[int, tuple[str, ...], tuple[float, float]]] = {
    # How often, beside the others; whom it can hit; how many seconds it lasts.
    "kill": (4, AGENTS, (0.0, 2.0)),
    "terminate": (2, AGENTS, (0.0, 2.0)),
    "freeze": (2, AGENTS, (0.3, 4.0)),
    "kill broker": (1, ("broker",), (0.0, 2.0)),
    "freeze broker": (1, ("broker",), (0.3, 4.0)),
    "unplug": (2, GATEWAYS, (0.1, 3.0)),
    "noise": (2, GATEWAYS, (0.5, 2.0)),
    "cut": (3, GATEWAYS, (0.5, 5.0)),
    "abandon": (2, GATEWAYS, (0.0, 0.0)),
    "delay": (2, GATEWAYS, (1.0, 5.0)),
    "short lives": (1, GATEWAYS, (2.0, 5.0)),
    "full disk": (2, GATEWAYS, (0.5, 3.0)),
    "damage": (2, GATEWAYS, (0.0, 0.0)),
    "edit": (8, GATEWAYS, (0.0, 0.0)),
}

TRIED = {
    "kills": ("kill", "kill broker"),
    "ends and freezes": ("terminate", "freeze", "freeze broker"),
    "partitions": ("cut", "abandon", "delay", "short lives"),
    "unplugged devices": ("unplug",),
    "full disks": ("full disk",),
    "bad inputs": ("noise",),
    "damaged stores": ("damage",),
    "edits on both sides": ("edit",),
}
"""The kinds as a result counts them together."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to whom, `at` seconds after the start, and for how long."""

    at: float
    kind: str
    victim: str
    seconds: float
    number: int
    """Its place in the plan; a seed for what it leaves to chance."""

    def __str__(self) -> str:
        lasting = f" for {self.seconds:.1f} s" if self.seconds else ""
        return f"{self.at:6.1f} s  {self.kind} {self.victim}{lasting}"


def plan(seed: int, seconds: float) -> list[Fault]:
    """The faults of a run, in their order."""
    chance = random.Random(seed)
    kinds = list(_KINDS)
    weights = [_KINDS[kind][0] for kind in kinds]
    faults: list[Fault] = []
    at = 0.0
    while (at := at + chance.uniform(*_PAUSE)) < seconds:
        (kind,) = chance.choices(kinds, weights)
        _, victims, lasting = _KINDS[kind]
        victim = chance.choice(victims)
        faults.append(Fault(at, kind, victim, chance.uniform(*lasting), len(faults)))
    return faults
