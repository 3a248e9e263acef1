"""A thread for code that is somebody else's: it may hang, and nothing can end it."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

_T = TypeVar("_T")


async def in_thread_of_its_own(function: Callable[[], _T], *, name: str) -> _T:
    """As asyncio.to_thread, but a function that hangs takes no other's thread.

    Nor does it keep the process from ending, which leaves the thread behind.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[_T] = loop.create_future()

    def finish(set_outcome: Callable[[], None]) -> None:
        if not outcome.done():  # or else nobody waits for it any more
            set_outcome()

    def run() -> None:
        try:
            result = function()
        except BaseException as error:  # noqa: BLE001 - whoever waits is told
            raised = error
            told = lambda: outcome.set_exception(raised)  # noqa: E731
        else:
            told = lambda: outcome.set_result(result)  # noqa: E731
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(finish, told)

    threading.Thread(target=run, name=name, daemon=True).start()
    return await outcome
