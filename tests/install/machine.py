"""A Debian system in a folder, made by mmdebstrap, with processes and a network of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import pytest

from agent.resources import memory

CHECKOUT = Path(__file__).resolve().parents[2]
_LONGEST = 600.0
"""Seconds for any command; only so that a test cannot hang."""
_ROOM = 4 * 2**30
"""Bytes of memory that are to be free for it; a root has half a gigabyte."""
_STEADY = 3
"""Seconds for which scripts/install sees the agent run each time, instead of ten."""


def missing() -> str | None:
    """What this machine lacks for it, or None."""
    if os.getuid() != 0:
        return "root, who may make namespaces and file systems"
    for program in ("mmdebstrap", "dpkg-deb", "unshare", "nsenter", "ip"):
        if shutil.which(program) is None:
            return f"the program {program}"
    tried = subprocess.run(
        ["unshare", "--mount", "--pid", "--net", "--fork", "true"], capture_output=True, check=False
    )
    return None if tried.returncode == 0 else "namespaces"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended, and what it said on both streams."""

    status: int
    text: str


@contextmanager
def in_memory(folder: Path) -> Iterator[None]:
    """Makes a folder that is kept in memory, where there is enough of it: dpkg writes thousands of
    files one by one, time and again, which takes half of the time on a disk."""
    folder.mkdir()
    found = re.search(r"(?m)^MemAvailable: +([0-9]+) kB$", Path("/proc/meminfo").read_text())
    if found is None or min(int(found[1]) * 1024, memory()) < _ROOM:
        yield
        return
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder], check=True)
    try:
        yield
    finally:
        # What was killed in there a moment ago may not have ended.
        subprocess.run(["umount", "--lazy", folder], check=True)


class Machine:
    """As a context manager: all that runs in it ends with it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._first: subprocess.Popen[bytes] | None = None

    @classmethod
    def make(cls, root: Path) -> Machine:
        done = subprocess.run(
            ["mmdebstrap", "--quiet", "--variant=minbase", "--include=python3,adduser",
             "--dpkgopt=force-unsafe-io", _suite(), str(root)],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LONGEST, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            # It depends on a Debian mirror, which is none of ours.
            said = (done.stderr.strip().splitlines() or ["nothing was said"])[-1]
            pytest.skip(f"this needs a Debian mirror that mmdebstrap can use: {said}")
        stand_in = root / "usr/bin/systemctl"
        shutil.copy(Path(__file__).with_name("systemctl.py"), stand_in)
        stand_in.chmod(0o755)
        scripts = root / "usr/src/edge-sync-agent/scripts"
        scripts.mkdir(parents=True)
        shutil.copy(CHECKOUT / "scripts/install", scripts)
        return cls(root)

    def __enter__(self) -> Self:
        inside = (
            "mount -t proc proc /proc && mount -t devpts devpts /dev/pts -o ptmxmode=666 && "
            "mkdir -p /run/systemd/system && echo up && exec sleep infinity"
        )
        self._first = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "chroot",
             str(self.root), "sh", "-c", inside],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        )  # fmt: skip
        assert self._first.stdout is not None
        assert self._first.stdout.readline() == b"up\n"
        subprocess.run(
            ["nsenter", "--target", self._inner(), "--net", "ip", "link", "set", "lo", "up"],
            check=True, timeout=_LONGEST,
        )  # fmt: skip
        return self

    def __exit__(self, *_: object) -> None:
        assert self._first is not None
        self._first.kill()
        self._first.communicate(timeout=_LONGEST)

    def _inner(self) -> str:
        """The first process of the namespaces, as it is numbered here."""
        assert self._first is not None
        children = Path(f"/proc/{self._first.pid}/task/{self._first.pid}/children").read_text()
        return children.split()[0]

    def run(self, *arguments: str, healthy_within: int = 30) -> Outcome:
        """A command in there; blocks."""
        done = subprocess.run(
            ["nsenter", "--target", self._inner(), "--mount", "--pid", "--net", "--root",
             "env", "-C", "/", *arguments],
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C.UTF-8",
                 "EDGE_AGENT_HEALTHY_WITHIN": str(healthy_within),
                 "EDGE_AGENT_STEADY_FOR": str(_STEADY)},
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=_LONGEST, check=False,
        )  # fmt: skip
        return Outcome(done.returncode, done.stdout)

    def install(self, *arguments: str, healthy_within: int = 30) -> Outcome:
        return self.run(
            "/usr/src/edge-sync-agent/scripts/install", *arguments, healthy_within=healthy_within
        )

    def status(self) -> Any:
        """The running agent's status."""
        done = self.run("edge-agent", "status", "--json", "--config", CONFIG)
        assert done.status == 0, done.text
        return json.loads(done.text)

    def log(self, unit: str) -> str:
        return (self.root / f"run/units/{unit}.log").read_text()


CONFIG = "/etc/edge-agent/config.toml"


def build_package(folder: Path) -> Path:
    """A package of this checkout, as `scripts/build-deb` makes it, but not compressed."""
    done = subprocess.run(
        [CHECKOUT / "scripts/build-deb", folder],
        env={**os.environ, "DPKG_DEB_COMPRESSOR_TYPE": "none"},
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_LONGEST, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


def rebuild(
    package: Path,
    folder: Path,
    *,
    version: str,
    broken: bool = False,
    refuses: bool = False,
    needs: str | None = None,
) -> Path:
    """The same package with another version; `broken`: the program does not start; `refuses`: it
    cannot be unpacked; `needs`: a version of Python."""
    tree = folder / version
    subprocess.run(["dpkg-deb", "--raw-extract", package, tree], check=True, timeout=_LONGEST)
    control = tree / "DEBIAN/control"
    fields = re.sub(r"(?m)^Version: .*", f"Version: {version}", control.read_text())
    if needs is not None:
        fields = re.sub(r"python3 \(>= [0-9.]+\)", f"python3 (>= {needs})", fields)
    control.write_text(fields)
    source = next(tree.glob("opt/edge-agent/lib/python3*/site-packages/agent/__init__.py"))
    text = re.sub(r'__version__ = ".*"', f'__version__ = "{version}"', source.read_text())
    assert version in text
    source.write_text(text)
    if broken:
        # As a new version might: it changes what it finds, then it fails.
        with source.with_name("cli").joinpath("run.py").open("a") as file:
            file.write("""

def _serve(agent: Agent) -> None:
    agent.databases.folder.joinpath("spoilt").write_text("")
    raise SystemExit("broken")
""")
    if refuses:
        preinst = tree / "DEBIAN/preinst"
        preinst.write_text("#!/bin/sh\nexit 1\n")
        preinst.chmod(0o755)
    out = folder / f"{version}.deb"
    subprocess.run(
        ["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, out],
        check=True, stdout=subprocess.DEVNULL, timeout=_LONGEST,
    )  # fmt: skip
    shutil.rmtree(tree)
    return out


def _suite() -> str:
    release = dict(
        line.split("=", 1)
        for line in Path("/etc/os-release").read_text().splitlines()
        if "=" in line
    )
    return release.get("VERSION_CODENAME", "stable").strip('"')
