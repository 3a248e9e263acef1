"""Tasks that end together, and with one error."""

from __future__ import annotations

import asyncio
import contextlib

import pytest

from agent.errors import ConnectError
from agent.tasks import together


async def fail(error: Exception, when: asyncio.Event) -> None:
    await when.wait()
    raise error


async def test_one_error_stands_for_all_and_a_mistake_in_the_program_comes_first() -> None:
    now = asyncio.Event()
    now.set()
    for errors, first in (
        ([ConnectError("a"), ConnectError("b")], ConnectError),
        ([ConnectError("a"), ZeroDivisionError()], ZeroDivisionError),
    ):
        tasks: list[asyncio.Task[object]] = []
        with pytest.raises(first):  # noqa: PT012
            async with together() as group:
                tasks += [group.create_task(fail(error, now)) for error in errors]
                tasks += [group.create_task(asyncio.Event().wait())]
        assert all(task.done() for task in tasks)
        assert tasks[-1].cancelled()


async def test_who_is_cancelled_while_a_task_fails_is_cancelled() -> None:
    breaks = asyncio.Event()

    async def outer() -> None:
        async with together() as outside:
            outside.create_task(inner())

    async def inner() -> None:
        async with together() as inside:
            inside.create_task(fail(ConnectError("the line broke"), breaks))

    for waiting in (outer, inner):
        breaks.clear()
        task = asyncio.create_task(waiting())
        await asyncio.sleep(0.01)
        breaks.set()
        task.cancel()
        await asyncio.wait({task})
        assert task.cancelled()


async def test_an_error_is_one_whatever_was_cancelled_before() -> None:
    async def late() -> None:
        now = asyncio.Event()
        now.set()
        try:
            await asyncio.Event().wait()
        finally:  # as who writes down how far it has come
            for _ in range(2):
                with contextlib.suppress(ConnectError):
                    async with together() as group:
                        group.create_task(fail(ConnectError("a"), now))

    task = asyncio.create_task(late())
    await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait({task})
    assert task.cancelled()
    assert task.cancelling() == 1
