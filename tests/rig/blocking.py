"""Fails a test in which the program blocks the event loop.

Two watches. The first catches *waiting*: while a loop runs, a blocking call (a sleep, a file,
SQLite, a socket, a lock that somebody holds) made by the program, directly or not, raises
`BlockingError`. The second catches *computing*: one callback that keeps the processor for too
long. It counts the thread's own processor time, not the clock on the wall, so that a busy machine
cannot set it off.

Both also remember what they saw and fail the test when it ends, because an error raised inside a
library, or under a supervisor, may never reach the test.
"""

from __future__ import annotations

import asyncio
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import blockbuster.blockbuster
import pytest
from blockbuster import BlockBuster, BlockBusterFunction, BlockingError

MAY_BLOCK = "may_block"
"""The mark of a test that is meant to block: `@pytest.mark.may_block("why")`."""

LONGEST_CALLBACK = 1.0
"""Seconds of processor time that one callback may take."""

# Only what has a frame of the program on its stack counts: tests themselves may read small files.
WATCHED_PACKAGES = ["agent", "firmware_adapters"]

_CHECKOUT = str(Path(__file__).resolve().parents[2])
_RIG = str(Path(__file__).resolve().parent)


def _opens_a_descriptor(file: Any, *_: Any, **__: Any) -> bool:
    # Wrapping a descriptor that is open already, as asyncio does with a child's pipes, never waits.
    return isinstance(file, int)


def _has_ended(thread: threading.Thread, *_: Any, **__: Any) -> bool:
    return not thread.is_alive()


# What blocks and blockbuster does not watch by itself.
_MORE_FUNCTIONS: dict[str, dict[str, Any]] = {
    "builtins.open": {"can_block_predicate": _opens_a_descriptor},
    "io.open": {"can_block_predicate": _opens_a_descriptor},
    "os.open": {},
    "os.fsync": {},
    "os.fdatasync": {},
    "socket.getaddrinfo": {},
    "sqlite3.connect": {},
    "subprocess.Popen.communicate": {},
    "subprocess.Popen.wait": {},
    "threading.Thread.join": {"can_block_predicate": _has_ended},
}

# Where the standard library may block below the program's frames.
_HARMLESS: list[tuple[str, set[str]]] = [
    # An import inside a function reads its files once in the life of the process.
    ("<frozen importlib._bootstrap>", {"_find_and_load"}),
    # The table of MIME types is read once in the life of the process.
    ("/mimetypes.py", {"init"}),
    # Log records go to standard error, which is how a service is meant to log.
    ("/logging/__init__.py", {"emit", "flush"}),
    # The source lines of a traceback that is being logged.
    ("/linecache.py", {"checkcache", "updatecache"}),
    ("<frozen linecache>", {"checkcache", "updatecache"}),
    # Ends a default executor whose threads have nothing left to do.
    ("/asyncio/base_events.py", {"shutdown_default_executor"}),
    # Waits only until the child has been started; asyncio itself offers no other way.
    ("/asyncio/base_events.py", {"subprocess_exec", "subprocess_shell"}),
]


def _where() -> str:
    """The stack, without the frames of the rig, of the test runner and of libraries."""
    frames = [
        frame
        for frame in traceback.extract_stack()
        if frame.filename.startswith(_CHECKOUT)
        and not frame.filename.startswith(_RIG)
        and "/site-packages/" not in frame.filename
    ]
    return "".join(traceback.format_list(frames))


def _recording_error(seen: list[str]) -> type[BlockingError]:
    class RecordedBlockingError(BlockingError):
        def __init__(self, func: str) -> None:
            super().__init__(func)
            seen.append(f"{self}\n{_where()}")

    return RecordedBlockingError


def _blockbuster() -> BlockBuster:
    watch = BlockBuster(WATCHED_PACKAGES)
    for name, options in _MORE_FUNCTIONS.items():
        watch.functions[name] = BlockBusterFunction(
            None, name, scanned_modules=WATCHED_PACKAGES, **options
        )
    for function in watch.functions.values():
        for file_name, functions in _HARMLESS:
            function.can_block_in(file_name, functions)
    return watch


@contextmanager
def _blocking_calls_raise(seen: list[str]) -> Iterator[None]:
    original = blockbuster.blockbuster.BlockingError
    blockbuster.blockbuster.BlockingError = _recording_error(seen)  # type: ignore[misc]
    watch = _blockbuster()
    watch.activate()
    try:
        yield
    finally:
        watch.deactivate()
        blockbuster.blockbuster.BlockingError = original  # type: ignore[misc]


@contextmanager
def _long_callbacks_are_seen(seen: list[str]) -> Iterator[None]:
    original = asyncio.Handle._run

    def run(handle: asyncio.Handle) -> None:
        start = time.thread_time()
        original(handle)
        spent = time.thread_time() - start
        # Playwright's synchronous API runs the test itself in callbacks, nothing of the program.
        module = getattr(handle._callback, "__module__", None) or ""  # type: ignore[attr-defined]
        if spent > LONGEST_CALLBACK and not module.startswith("playwright."):
            # A task's step is a method of the task, which tells more than the handle does.
            what = getattr(handle._callback, "__self__", None) or handle  # type: ignore[attr-defined]
            seen.append(f"one callback took {spent:.1f} s of processor time: {what!r}\n")

    asyncio.Handle._run = run  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        asyncio.Handle._run = original  # type: ignore[method-assign]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", f"{MAY_BLOCK}(reason): this test blocks the event loop on purpose"
    )


@pytest.fixture(autouse=True)
def event_loop_is_never_blocked(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fails the test if the program blocked the event loop, in the test or in its fixtures."""
    if request.node.get_closest_marker(MAY_BLOCK):
        yield
        return
    seen: list[str] = []
    with _blocking_calls_raise(seen), _long_callbacks_are_seen(seen):
        yield
    if seen:
        pytest.fail("the event loop was blocked:\n" + "\n".join(seen), pytrace=False)
