"""Runs `edge-agent` as a process of its own: to its end, or until it is stopped or killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import msgspec

from tests.patience import PATIENCE

CHECKOUT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, slots=True)
class Finished:
    """How a command ended, and what it said."""

    status: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        """Standard output as the one JSON object that it is, and nothing else."""
        lines = self.stdout.splitlines()
        assert len(lines) == 1, self
        value = msgspec.json.decode(lines[0])
        assert isinstance(value, dict)
        return value

    def complaint(self) -> str:
        """The one line that a command which cannot do its work says, without its "Error: "."""
        assert self.status not in (0, None), self
        assert self.status > 0, f"ended by signal {-self.status}: {self.stderr}"
        assert "Traceback" not in self.stderr, self.stderr
        lines = self.stderr.splitlines()
        assert len(lines) == 1, self.stderr
        assert lines[0].startswith("Error: "), self.stderr
        return lines[0].removeprefix("Error: ")


def command(*arguments: object) -> list[str]:
    """The command line of `edge-agent` with these arguments."""
    return [sys.executable, "-m", "agent", *map(str, arguments)]


def edge_agent(
    *arguments: object, environment: Mapping[str, str] | None = None, bound: bool = False
) -> Finished:
    """Run `edge-agent` to its end; blocks. `bound`: permissions count, even for root."""
    without = "--bounding-set=-dac_override,-dac_read_search"
    prefix = ["setpriv", without] if bound and os.getuid() == 0 else []
    done = subprocess.run(
        [*prefix, *command(*arguments)],
        cwd=CHECKOUT,
        env={**os.environ, **(environment or {})},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return Finished(done.returncode, done.stdout, done.stderr)


class AgentProcess:
    """A running `edge-agent run`, `hub` or `replicate --continuous`.

    What it logs is added to the file `log`. As a context manager it is killed at the end, if it
    still runs. `environment` is added to that of the tests.
    """

    def __init__(
        self,
        *arguments: object,
        log: Path,
        prefix: Sequence[str] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """`prefix`: the beginning of a command line that ends by running the agent in its place."""
        self._log = log
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                [*prefix, *command(*arguments)],
                cwd=CHECKOUT,
                env={**os.environ, **(environment or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=file,
            )

    def wait_until_ready(self) -> str:
        """Wait until it listens; returns its URL. Blocks. "" if it was killed before."""
        assert self._process.stdout is not None
        words = self._process.stdout.readline().decode().split()
        if not words:
            return ""
        assert words[:2] == ["listening", "on"], words
        return words[2]

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def log(self) -> str:
        """What it, and those before it with the same log file, have said on standard error."""
        return self._log.read_text(errors="replace")

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def finish(self) -> Finished:
        """Wait until it ends by itself."""
        stdout, _ = self._process.communicate(timeout=PATIENCE)
        return Finished(self._process.returncode, stdout.decode(), self.log)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> Finished:
        """Ask it to end, and wait until it has."""
        self.send(number)
        return self.finish()

    def kill(self) -> None:
        """kill -9. No effect if it has ended."""
        self._process.kill()
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


def hub(
    data: Path,
    *options: object,
    port: int = 0,
    log: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> AgentProcess:
    """Start a hub; by default on a free port. `options` come after the command."""
    where = ("--data", data, "--listen", f"127.0.0.1:{port}")
    log = log or data.with_suffix(".log")
    return AgentProcess("hub", *where, *options, log=log, environment=environment)


def gateway(
    config: Path,
    *options: str,
    log: Path | None = None,
    prefix: Sequence[str] = (),
    environment: Mapping[str, str] | None = None,
) -> AgentProcess:
    """Start a gateway. `options` come before the command."""
    run = ("run", "--config", config)
    log = log or config.with_suffix(".log")
    return AgentProcess(*options, *run, log=log, prefix=prefix, environment=environment)


def gateway_config(path: Path, *tables: str, port: int = 0, name: str = "gateway-1") -> Path:
    """Write a configuration file: data beside it in `gateway`, HTTP on `port`, and `tables`."""
    head = f"""\
[agent]
name = "{name}"
data = "gateway"

[server]
listen = "127.0.0.1:{port}"
"""
    path.write_text("\n".join([head, *tables]), encoding="utf-8")
    return path


def table(kind: str, **keys: object) -> str:
    """A `[[kind]]` table of a configuration file."""
    lines = [f"{key} = {msgspec.json.encode(value).decode()}" for key, value in keys.items()]
    return "\n".join([f"[[{kind}]]", *lines, ""])
