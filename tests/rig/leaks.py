"""Fails a test that leaves a task or a child process behind."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

GRACE = 10.0
"""Seconds that tasks get to end by themselves, such as a server's for a connection just closed."""


@pytest.fixture
async def _no_task_is_left() -> AsyncIterator[None]:
    yield
    others = asyncio.all_tasks() - {asyncio.current_task()}
    if others:
        _, others = await asyncio.wait(others, timeout=GRACE)
    if others:
        tasks = "\n".join(f"    {task!r}" for task in others)
        pytest.fail(f"the test left tasks behind:\n{tasks}", pytrace=False)


def _children() -> dict[int, str]:
    """The child processes of this one that have not ended, with their command lines."""
    children = {}
    for task in Path("/proc/self/task").iterdir():
        with suppress(OSError):  # the thread has just ended
            for pid in map(int, (task / "children").read_text().split()):
                with suppress(OSError):  # the process has
                    if _has_not_ended(pid):
                        children[pid] = _command(pid)
    return children


def _has_not_ended(pid: int) -> bool:
    # The state follows the name, which is in brackets and may hold anything. Z, a zombie, has
    # ended and waits for its parent to ask how.
    state = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()[0]
    return state != "Z"


def _command(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0")
    return words.replace(b"\0", b" ").decode(errors="replace")


def _is_pythons_own(command: str) -> bool:
    # Python's multiprocessing starts this one once and keeps it for the life of the process.
    return "multiprocessing.resource_tracker" in command


@pytest.fixture(autouse=True)
def nothing_is_left_behind(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails the test if it leaves asyncio tasks or child processes; the processes are ended.

    Fixtures of a wider scope are set up before this one, so what they start is not counted.
    """
    before = _children()
    if inspect.iscoroutinefunction(getattr(request.node, "obj", None)):
        # Asked for only here, because it needs an event loop, which a plain test does not have.
        request.getfixturevalue("_no_task_is_left")
    yield
    left = {
        pid: command
        for pid, command in _children().items()
        if pid not in before and not _is_pythons_own(command)
    }
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    if left:
        processes = "\n".join(f"    {pid}: {command}" for pid, command in left.items())
        pytest.fail(f"the test left child processes behind:\n{processes}", pytrace=False)
