"""Waits for what must come, with one limit for all tests."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable
from typing import Any

PATIENCE = 150.0
"""Seconds after which a test says that what it waits for will not come.

It only ends what hangs, and measures nothing. A machine that does much else needs it long; it is
shorter than pytest's own limit, which cannot say what was waited for.
"""


async def until(condition: Callable[[], Any], what: str = "", *, every: float = 0.01) -> Any:
    """Wait until `condition` gives something true, or an awaitable of it, and return that.

    `what` is waited for, in words: for the error. Looks again after `every` seconds.
    """
    try:
        async with asyncio.timeout(PATIENCE) as limit:
            while True:
                found = condition()
                if inspect.isawaitable(found):
                    found = await found
                if found:
                    return found
                await asyncio.sleep(every)
    except TimeoutError:
        if not limit.expired():  # it is the condition's own
            raise
        raise AssertionError(_in_vain(condition, what)) from None


def when_true(condition: Callable[[], Any], what: str = "", *, every: float = 0.05) -> Any:
    """Wait until `condition` gives something true, and return that; blocks. As `until`."""
    end = time.monotonic() + PATIENCE
    while not (found := condition()):
        assert time.monotonic() < end, _in_vain(condition, what)
        time.sleep(every)
    return found


def _in_vain(condition: Callable[[], Any], what: str) -> str:
    if not what:
        try:
            what = " ".join(inspect.getsource(condition).split())
        except (OSError, TypeError):  # such as a partial, which has no source
            what = repr(condition)
    return f"waited {PATIENCE:.0f} s in vain: {what}"
