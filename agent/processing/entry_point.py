"""Changes as the argument of a Python function that another package publishes."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Sequence
from typing import Any

import msgspec

from agent.errors import AttemptError, RefusedChangeError, TransientError
from agent.peers.http_errors import one_line
from agent.processing.change import Change
from agent.published import published_function
from agent.threads import in_thread_of_its_own

ENTRY_POINT_GROUP = "edge_sync_agent.hooks"

log = logging.getLogger(__name__)


class EntryPoint:
    """A function that is called with a change: a dict with the members of `Change`.

    A coroutine function runs in the event loop; any other one in a thread of its own. One that is
    not done after `timeout` seconds has failed; a thread cannot be ended, so nothing more is called
    until it has.
    """

    def __init__(self, name: str, timeout: float, *, together: bool):
        """`together`: changes are given as a list, a single one, too. Raises ConfigError."""
        self.label = name
        function = self._function = published_function(ENTRY_POINT_GROUP, name)
        self._timeout = timeout
        self._together = together
        self._is_async = any(
            inspect.iscoroutinefunction(each)
            for each in (function, getattr(function, "__call__", None))  # noqa: B004
        )
        self._in_use = False
        """A thread has not come back, whether or not somebody still waits for it."""

    async def call(self, changes: Sequence[Change]) -> None:
        """As `Target.call`: what the function raises says it, any other exception counts as
        AttemptError."""
        told = [_as_dict(change) for change in changes]
        argument = told if self._together else told[0]
        try:
            async with asyncio.timeout(self._timeout) as limit:
                if self._is_async:
                    await self._function(argument)
                else:
                    await self._in_thread(argument)
        except (TransientError, RefusedChangeError):
            raise
        except (Exception, SystemExit) as error:  # whatever others' code may raise: it has failed
            if limit.expired():
                text = f"was not done within {self._timeout:g} s"
            else:
                log.debug("hook %s has failed", changes[0].hook, exc_info=error)
                text = "raised " + one_line(f"{type(error).__name__}: {error}".rstrip(": "))
            raise AttemptError(f"{self.label} {text}") from error

    async def close(self) -> None:
        """There is nothing to close."""

    async def _in_thread(self, argument: Any) -> None:
        if self._in_use:
            raise TransientError(
                f"{self.label} still runs, from the call before; see why it takes so long"
            )

        def run() -> BaseException | None:
            try:
                self._function(argument)
            except BaseException as error:  # noqa: BLE001 - whoever waits is told
                return error
            finally:
                self._in_use = False
            return None

        self._in_use = True
        raised = await in_thread_of_its_own(run, name=f"hook {self.label}")
        if isinstance(raised, Exception | SystemExit):
            raise raised
        if raised is not None:
            raise AttemptError(f"{self.label} raised {type(raised).__name__}")


def _as_dict(change: Change) -> dict[str, Any]:
    return {**msgspec.structs.asdict(change), "doc": msgspec.json.decode(change.doc)}
