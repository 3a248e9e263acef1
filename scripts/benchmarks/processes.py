"""Processes that are measured: their processor time and memory, as Linux counts them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.benchmarks.harness import BenchError

_TICKS = os.sysconf("SC_CLK_TCK")
_LOOK_EVERY = 0.01
_STOP_LIMIT = 10.0


def cpu_seconds(pid: int) -> float:
    """User and system time of a running process so far."""
    # The program's name, in brackets, may contain spaces.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def resident_mib(pid: int) -> float:
    return _memory(pid, "VmRSS")


def peak_mib(pid: int) -> float:
    """The most that a running process has ever had resident."""
    return _memory(pid, "VmHWM")


def _memory(pid: int, what: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == what:
            return int(value.split()[0]) / 1024
    return 0.0  # it is ending


def forget(file: Path) -> None:
    """Put a file out of the system's memory, unless another process has it mapped."""
    with file.open("rb") as opened:
        os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


@dataclass(frozen=True, slots=True)
class Ended:
    """What a process took from its start to its end, and what it printed."""

    output: bytes
    seconds: float
    cpu: float
    peak: float


def run_measured(command: Sequence[str], folder: Path) -> Ended:
    """Run a command to its end. Blocking; raises BenchError when it fails."""
    output, errors = folder / "output", folder / "errors"
    with output.open("wb") as out, errors.open("wb") as err:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
    peak = 0.0
    # wait4 tells the processor time exactly, but counts our own memory as the child's.
    while True:
        with contextlib.suppress(OSError):
            peak = max(peak, peak_mib(process.pid))
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        if pid:
            break
        time.sleep(_LOOK_EVERY)
    seconds = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        told = errors.read_text(errors="replace").strip() or "it said nothing"
        raise BenchError(f"{' '.join(command[1:4])} ended with {process.returncode}: {told}")
    return Ended(output.read_bytes(), seconds, usage.ru_utime + usage.ru_stime, peak)


@dataclass(frozen=True, slots=True)
class Agent:
    """A running agent, or another server.

    `started` and `listening` are moments of `time.perf_counter`.
    """

    url: str
    pid: int
    started: float
    listening: float


AGENT = (sys.executable, "-m", "agent")


def running_agent(*arguments: str) -> contextlib.AbstractAsyncContextManager[Agent]:
    """Runs `edge-agent` with these arguments, from when it listens on, and ends it."""
    return running_server(*AGENT, *arguments)


@contextlib.asynccontextmanager
async def running_server(
    *command: str, environment: Mapping[str, str] | None = None
) -> AsyncIterator[Agent]:
    """Runs a program until it says `listening on URL`, and ends it with SIGTERM afterwards."""
    started = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, env=environment
    )
    assert process.stdout is not None
    try:
        words = (await process.stdout.readline()).decode().split()
        listening = time.perf_counter()
        if words[:2] != ["listening", "on"]:
            raise BenchError(f"{' '.join(command[1:4])} did not start")
        yield Agent(words[2], process.pid, started, listening)
    finally:
        if process.returncode is None:
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), _STOP_LIMIT)
        except TimeoutError:
            process.kill()
            await process.wait()
