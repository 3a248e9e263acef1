"""Keeps the tasks of a program running."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from agent.backoff import Backoff
from agent.errors import EdgeAgentError

log = logging.getLogger(__name__)

_RESTART_BASE = 1.0
_RESTART_CAP = 60.0


class Supervisor:
    """Runs tasks that should run for ever; one that fails is logged, counted and restarted."""

    def __init__(self) -> None:
        self.restarts: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def start(self, name: str, run: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
        """The task may be cancelled on its own."""
        task = asyncio.create_task(self._keep_running(name, run), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def stop(self) -> None:
        """Cancel the tasks and wait for all of them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _keep_running(self, name: str, run: Callable[[], Awaitable[None]]) -> None:
        backoff = Backoff(_RESTART_BASE, _RESTART_CAP)
        while True:
            started = time.monotonic()
            try:
                await run()
            except EdgeAgentError as error:
                log.error("task %s failed and is started again: %s", name, error)  # noqa: TRY400
            except Exception:  # the one place where everything is caught: the rest goes on
                log.exception("task %s failed and is started again", name)
            else:
                return
            self.restarts[name] = self.restarts.get(name, 0) + 1
            if time.monotonic() - started > _RESTART_CAP:
                backoff.reset()
            await asyncio.sleep(backoff.next_delay())
