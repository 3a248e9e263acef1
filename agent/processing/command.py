"""Changes on the standard input of a command."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Sequence

from agent.errors import AttemptError, ConfigError, TransientError
from agent.peers.http_errors import one_line
from agent.processing.change import Change, key_of

TRY_LATER = 75
"""EX_TEMPFAIL of sysexits.h: nothing is wrong with the document, and it is to be tried again."""

_KEPT = 2048
"""Bytes of what a command says that are kept, the last ones."""

_LINGERING = 1.0
"""Seconds after a command's end within which what it has started has to close its output."""

_PASSED_ON = ("PATH", "HOME", "TZ")


class Command:
    """A program that is run for each call, in a process group of its own and without a shell.

    On its standard input it gets the documents, each on a line. What it says, on either output, is
    shown if it fails. At the end of `timeout`, in seconds, the whole group is killed.
    """

    def __init__(self, arguments: Sequence[str], timeout: float) -> None:
        """Raises ConfigError when there is no such program."""
        self.label = arguments[0]
        if shutil.which(self.label) is None:
            raise ConfigError(
                f"command: there is no program {self.label}; install it, or write its whole path"
            )
        self._arguments = arguments
        self._timeout = timeout

    async def call(self, changes: Sequence[Change]) -> None:
        """As `Target.call`."""
        running = _Running()
        starting = asyncio.ensure_future(
            asyncio.get_running_loop().subprocess_exec(
                lambda: running,
                *self._arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=_environment(changes),
                start_new_session=True,
            )
        )
        try:
            transport, _ = await asyncio.shield(starting)
        except asyncio.CancelledError:
            # Cancelled itself, it would wait for ever, for a process that it has not watched.
            with contextlib.suppress(OSError):
                transport, _ = await starting
                await _end(transport, running)
            raise
        except OSError as error:
            raise ConfigError(
                f"{self.label} cannot be run ({error.strerror}); check the hook's command"
            ) from error
        try:
            _feed(transport.get_pipe_transport(0), changes)
            async with asyncio.timeout(self._timeout):
                await running.ended.wait()
            # What it has started may live on, with the output still open.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_LINGERING):
                    await running.silent.wait()
        except TimeoutError:
            raise AttemptError(
                f"{self.label} did not end within {self._timeout:g} s and was killed"
            ) from None
        finally:
            await _end(transport, running)
        status = transport.get_returncode()
        said = one_line(running.output.decode(errors="replace"))
        said = f": {said}" if said else ""
        if status == TRY_LATER:
            raise TransientError(f"{self.label} asks to be tried again later{said}")
        if status:
            ended = f"with status {status}" if status > 0 else f"by signal {-status}"
            raise AttemptError(f"{self.label} ended {ended}{said}")

    async def close(self) -> None:
        """There is nothing to close."""


class _Running(asyncio.SubprocessProtocol):
    """A command that runs. Not asyncio's `Process`, whose `wait` may also wait for pipes."""

    def __init__(self) -> None:
        self.output = bytearray()
        """The end of what it has said."""
        self.ended = asyncio.Event()
        self.silent = asyncio.Event()
        """Nobody has its output open any more."""

    def pipe_data_received(self, fd: int, data: bytes) -> None:
        self.output += data
        del self.output[:-_KEPT]

    def pipe_connection_lost(self, fd: int, exc: Exception | None) -> None:
        if fd == 1:
            self.silent.set()

    def process_exited(self) -> None:
        self.ended.set()


def _feed(pipe: asyncio.BaseTransport | None, changes: Sequence[Change]) -> None:
    """One that does not read them all is fine."""
    assert isinstance(pipe, asyncio.WriteTransport)  # noqa: S101
    pipe.write(b"".join(bytes(change.doc) + b"\n" for change in changes))
    pipe.close()


def _environment(changes: Sequence[Change]) -> dict[str, str]:
    """Little: the agent's own environment may hold passwords."""
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {
        **passed_on,
        "LANG": "C.UTF-8",
        "EDGE_AGENT_HOOK": changes[0].hook,
        "EDGE_AGENT_DATABASE": changes[0].database,
        "EDGE_AGENT_KEY": key_of(changes),
    }


async def _end(transport: asyncio.SubprocessTransport, running: _Running) -> None:
    if not (running.ended.is_set() and running.silent.is_set()):
        _kill(transport.get_pid())
        await running.ended.wait()
    transport.close()


def _kill(group: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
