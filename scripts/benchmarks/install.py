"""What is installed: its size, and how soon the unit records after a start.

The package of `scripts/build-deb` is unpacked into a folder, and its program started as the unit
does: with its interpreter, its arguments and the environment that systemd gives to a service, from
exec on. systemd itself, the unit's user and its confinement are not there. Cold: the program, the
standard library and the store are out of the system's memory, as after booting, apart from what
other processes have mapped. Where no package can be built, this checkout is started instead, and
has no size.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from scripts.benchmarks.gateway import BUSY_MS, START_TARGET, gateway, write_config
from scripts.benchmarks.harness import Options, Row
from scripts.benchmarks.processes import AGENT, forget, running_agent
from tests.devices.micropython import SensorNode

_CHECKOUT = Path(__file__).resolve().parents[2]
_UNIT = "lib/systemd/system/edge-agent.service"
_PROGRAM = "opt/edge-agent"
_ANY = "127.0.0.1:0"


async def run(options: Options) -> list[Row]:
    root = await asyncio.to_thread(_unpacked, options)
    rows: list[Row] = []
    program: Sequence[str] = AGENT
    of_program = [_CHECKOUT / "agent", _CHECKOUT / "firmware_adapters"]
    what = "this checkout"
    if root is not None:
        program = _program(root)
        of_program = [root / _PROGRAM]
        what = "the unit's program"
        rows = [Row("the package, installed", "MiB", [_mib(root)])]
    first, cold, warm = [], [], []
    for number in range(options.rounds):
        options.note(f"round {number + 1} of {options.rounds}")
        folder = options.folder / str(number)
        await asyncio.to_thread(folder.mkdir)
        durable = await _measure(folder, program, [*of_program, *_standard_library(program)])
        for seconds, taken in zip(durable, (first, cold, warm), strict=True):
            taken.append(seconds)
    shown = f"{what}: from exec to the first durable reading"
    return [
        *rows,
        Row(f"{shown}, the very first start, warm", "s", first, target=START_TARGET),
        Row("  a later one, cold", "s", cold),
        Row("  a later one, warm", "s", warm, target=START_TARGET),
    ]


def _unpacked(options: Options) -> Path | None:
    """The folder with what the package installs, or None where none can be built."""
    if shutil.which("dpkg-deb") is None:
        options.note("dpkg-deb is missing: this checkout is started instead of the package")
        return None
    options.note("building the package")
    built = subprocess.run(
        [_CHECKOUT / "scripts/build-deb", options.folder / "package"],
        capture_output=True,
        text=True,
        check=False,
    )
    if built.returncode:
        reason = built.stderr.strip().rpartition("\n")[2]
        options.note(f"no package ({reason}): this checkout is started instead")
        return None
    package = _CHECKOUT / built.stdout.strip()
    options.note(f"{package.name}: {package.stat().st_size / 2**20:.1f} MiB to download")
    root = options.folder / "root"
    subprocess.run(["dpkg-deb", "--extract", package, root], check=True)
    subprocess.run(["sync", "--file-system", root], check=True)  # what is not written stays
    return root


def _program(root: Path) -> list[str]:
    """What the unit runs, where it was unpacked: the interpreter has to be named then."""
    started = re.search(r"(?m)^ExecStart=/(\S+) run --config \S+$", (root / _UNIT).read_text())
    assert started is not None
    script = root / (root / started[1]).readlink().relative_to("/")
    return [str(script.with_name("python3")), str(script)]


def _standard_library(program: Sequence[str]) -> list[Path]:
    asked = "import json, _sqlite3; print(json.__file__); print(_sqlite3.__file__)"
    told = subprocess.run([program[0], "-c", asked], stdout=subprocess.PIPE, text=True, check=True)
    json, sqlite = map(Path, told.stdout.split())
    return [json.parents[1], sqlite.parent]


def _mib(root: Path) -> float:
    """As much of a disk as it takes."""
    files = [file.lstat() for file in root.rglob("*")]
    return sum(file.st_blocks for file in files) * 512 / 2**20


async def _measure(
    folder: Path, program: Sequence[str], files: Sequence[Path]
) -> tuple[float, float, float]:
    """Seconds of a first start, a later one that is cold, and one that is warm."""
    node = SensorNode(folder / "device", folder / "sent.txt", interval_ms=BUSY_MS)
    node.plug_in()
    environment = {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
        "LANG": "C.UTF-8",
        "STATE_DIRECTORY": str(folder / "gateway"),
        "NOTIFY_SOCKET": str(folder / "notify"),
        "WATCHDOG_USEC": "120000000",
    }
    try:
        async with running_agent("hub", "--data", str(folder / "hub"), "--listen", _ANY) as hub:
            config = write_config(folder, node, f"{hub.url}/edge")
            found = []
            for cold in (False, True, False):
                if cold:
                    await asyncio.to_thread(_forget, [*files, config.parent])
                started = gateway(config, program=program, environment=environment)
                async with started as (_, durable):
                    found.append(durable)
        first, later, again = found
        return first, later, again
    finally:
        node.unplug()


def _forget(folders: Sequence[Path]) -> None:
    for folder in folders:
        for file in folder.rglob("*"):
            if file.is_file():
                forget(file)
