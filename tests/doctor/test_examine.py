"""Checks are made at the same time, and each has a time limit."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from agent.doctor.finding import Check, Finding, Level, examine
from agent.errors import ConfigError


async def test_one_that_hangs_or_cannot_be_made_does_not_keep_the_others() -> None:
    begun = asyncio.Event()

    async def hangs() -> Sequence[Finding]:
        begun.set()
        await asyncio.Event().wait()
        return []

    async def refuses() -> Sequence[Finding]:
        raise ConfigError("no such file")

    async def works() -> Sequence[Finding]:
        await begun.wait()
        return [Finding("c", "z", Level.OK, "well")]

    checks = [Check("a", "x", hangs), Check("b", "y", refuses), Check("c", "z", works)]
    assert await examine(checks, limit=1.0) == [
        Finding(
            "a",
            "x",
            Level.WARNING,
            "could not be found out within 1 s",
            "edge-agent doctor, once more",
        ),
        Finding("b", "y", Level.ERROR, "no such file", "edge-agent config check"),
        Finding("c", "z", Level.OK, "well"),
    ]
