"""What a check has found, and how checks are made."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from enum import StrEnum

import msgspec

from agent.errors import EdgeAgentError

LIMIT = 20.0
"""Seconds that a check may take."""


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """It works, but may not for long, or could not be found out."""
    ERROR = "error"
    """Something does not work."""


class Finding(msgspec.Struct, frozen=True):
    """A sentence on one thing. `mend` is the command, or the line of the configuration, that mends
    it or shows more; only what is well has none."""

    check: str
    subject: str
    level: Level
    text: str
    mend: str | None = None


def failed(findings: Sequence[Finding]) -> bool:
    """Whether the last of them is an error, after which the next step tells nothing new."""
    return findings[-1].level is Level.ERROR


class Check(msgspec.Struct, frozen=True):
    """One of the checks, of a device, a remote or the machine; `run` never waits for others."""

    name: str
    subject: str
    run: Callable[[], Awaitable[Sequence[Finding]]]

    @classmethod
    def blocking(cls, name: str, subject: str, run: Callable[[], Sequence[Finding]]) -> Check:
        """One that reads files."""
        return cls(name, subject, lambda: asyncio.to_thread(run))


async def examine(checks: Iterable[Check], limit: float = LIMIT) -> list[Finding]:
    """Make all checks at the same time; the findings are in the order of the checks."""

    async def findings_of(check: Check) -> Sequence[Finding]:
        try:
            async with asyncio.timeout(limit):
                return await check.run()
        except TimeoutError:
            text = f"could not be found out within {limit:g} s"
            mend = "edge-agent doctor, once more"
            return [Finding(check.name, check.subject, Level.WARNING, text, mend)]
        except EdgeAgentError as error:
            mend = "edge-agent config check"
            return [Finding(check.name, check.subject, Level.ERROR, str(error), mend)]

    found = await asyncio.gather(*map(findings_of, checks))
    return [finding for findings in found for finding in findings]
