"""Tasks that belong together: one that fails takes the others along."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Generator
from contextlib import asynccontextmanager
from contextvars import Context
from typing import Any, TypeVar

from agent.errors import EdgeAgentError

_T = TypeVar("_T")


class Together(asyncio.TaskGroup):
    """A group that knows its tasks."""

    def __init__(self) -> None:
        super().__init__()
        self.tasks: set[asyncio.Task[Any]] = set()

    def create_task(
        self,
        coro: Generator[Any, None, _T] | Coroutine[Any, Any, _T],
        *,
        name: str | None = None,
        context: Context | None = None,
    ) -> asyncio.Task[_T]:
        task = super().create_task(coro, name=name, context=context)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task


@asynccontextmanager
async def together() -> AsyncIterator[Together]:
    """As asyncio.TaskGroup, but raises one error for several.

    That is the first one that is none of this program's, since it is a mistake in it, or else the
    first. Who is cancelled while a task fails is cancelled: of a TaskGroup there would be the error
    only, and who goes on after errors would never end.
    """
    waiting = asyncio.current_task()
    assert waiting is not None  # noqa: S101  (a group needs one, too)
    before = waiting.cancelling()
    try:
        async with Together() as group:
            yield group
            # Not at the end of the group, which before Python 3.13 leaves its own cancellation of
            # who waits there in the count.
            while group.tasks:
                await asyncio.wait(group.tasks)
    except ExceptionGroup as failed:
        if waiting.cancelling() > before:
            raise asyncio.CancelledError from None
        ours, others = failed.split(EdgeAgentError)
        raise (others or ours or failed).exceptions[0] from None
