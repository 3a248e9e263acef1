"""What `edge-agent doctor` finds, and the faults that it is to find."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.cli.helpers import in_process


@dataclass(frozen=True)
class Examined:
    """A run of `edge-agent doctor --json`."""

    status: int
    findings: list[dict[str, Any]]

    @property
    def errors(self) -> list[tuple[str, str]]:
        """What does not work: the checks and their subjects."""
        return [
            (finding["check"], finding["subject"])
            for finding in self.findings
            if finding["level"] == "error"
        ]

    def of(self, check: str, subject: str | None = None) -> tuple[str, str, str | None]:
        """The level, the text and what mends it; fails unless there is just one."""
        [found] = [
            (finding["level"], finding["text"], finding["mend"])
            for finding in self.findings
            if finding["check"] == check and subject in (None, finding["subject"])
        ]
        return found


def examined(config: Path, *options: object) -> Examined:
    """Whatever else, no secret is shown, and there is a command for all that is not well."""
    done = in_process("doctor", "--json", "--config", config, *options)
    assert done.stderr == ""
    told = done.json()
    assert "hunter2" not in done.stdout
    assert told["ok"] == (done.status == 0)
    errors = [finding for finding in told["findings"] if finding["level"] == "error"]
    assert bool(errors) == (done.status == 1)
    for each in told["findings"]:
        assert bool(each["mend"]) == (each["level"] != "ok"), each
    return Examined(done.status, told["findings"])


def certificate(folder: Path, days: int, name: str = "server") -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that ends in so many days, and its key."""
    key, request, made = (folder / f"{name}.{kind}" for kind in ("key", "csr", "pem"))
    more = folder / f"{name}.ext"
    more.write_text("subjectAltName=IP:127.0.0.1,DNS:localhost\n")
    for line in (
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
        f" -subj /CN={name} -keyout {key} -out {request}",
        f"x509 -req -in {request} -signkey {key} -days {days} -extfile {more} -out {made}",
    ):
        subprocess.run(["openssl", *line.split()], check=True, capture_output=True)
    return made, key


@contextmanager
def tmpfs(folder: Path, *options: str) -> Iterator[Path]:
    """A small file system of its own; only for root."""
    folder.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join(["size=1m", *options]), "tmpfs", str(folder)],
        check=True,
    )
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
