"""The gateway itself: its clock, its disk, its memory card."""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from agent.doctor.finding import Finding, Level
from agent.sensors.machine import kernel_synchronised

_MADE = 2026
"""The year of this version: a clock that shows an earlier one is wrong."""

_FULL = 16 * 2**20
_NEARLY_FULL = 256 * 2**20
"""Bytes that are left."""

_DAY = 86_400.0
_MUCH_WRITTEN = 2 * 2**30
"""Bytes a day, of the agent; a card of 8 GB then has a year or two."""

_SHORT_RUN = 600.0
"""Seconds that the agent has to have run for its writes to say something."""

_WEAR = {1: "normal", 2: "most spare blocks are used up", 3: "no spare blocks are left"}


def clock(now: float | None = None, *, trusted: bool = False) -> Sequence[Finding]:
    """Whether the time is plausible, and kept by NTP or, with `trusted`, by somebody else."""
    moment = datetime.fromtimestamp(time.time() if now is None else now, UTC)
    shown = f"{moment:%Y-%m-%d %H:%M:%S} UTC"
    if moment.year < _MADE:
        return [
            Finding(
                *("clock", "this machine", Level.ERROR),
                f"the clock shows {shown}, which cannot be: certificates seem not to be valid yet, "
                "and readings wait for somebody who tells the time (docs/clock.md)",
                "sudo timedatectl set-ntp true",
            )
        ]
    synchronised = kernel_synchronised()
    if synchronised:
        return [Finding("clock", "this machine", Level.OK, f"{shown}, kept by NTP")]
    if trusted:
        text = f'{shown}, trusted (trust = "system" below [clock])'
        return [Finding("clock", "this machine", Level.OK, text)]
    reason = (
        "it is not synchronised with NTP, and drifts"
        if synchronised is False
        else "the system does not tell whether NTP keeps it"
    )
    return [
        Finding(
            *("clock", "this machine", Level.WARNING),
            f"{shown}; {reason}",
            'sudo timedatectl set-ntp true; or, if something else keeps it right: trust = "system" '
            "below [clock]",
        )
    ]


def disk(folder: Path) -> Sequence[Finding]:
    """Room and inodes where the data are or will be, and whether it can be written at all."""
    place = _existing(folder)
    found = os.statvfs(place)
    mount = _mount_point(place)
    quoted = shlex.quote(str(mount))
    subject = str(folder)
    if found.f_flag & os.ST_RDONLY:
        return [
            Finding(
                *("disk", subject, Level.ERROR),
                f"the file system {mount} is mounted read-only; that may be on account of errors, "
                "which the system's log shows",
                f"sudo dmesg | grep -i -e error -e read-only; sudo mount -o remount,rw {quoted}",
            )
        ]
    free = found.f_bavail * found.f_frsize
    size = found.f_blocks * found.f_frsize
    text = f"{_bytes(free)} of {_bytes(size)} are free on {mount}"
    mend = f"sudo du -xh -d2 {quoted} | sort -h | tail"
    if found.f_files and not found.f_favail:
        return [Finding("disk", subject, Level.ERROR, f"{mount} has no inodes left", mend)]
    if free < min(_FULL, size // 20) or free == 0:
        text += "; readings will soon not be stored any more" if free else "; nothing can be stored"
        return [Finding("disk", subject, Level.ERROR, text, mend)]
    if free < min(_NEARLY_FULL, size // 10):
        return [Finding("disk", subject, Level.WARNING, text, mend)]
    return [Finding("disk", subject, Level.OK, text)]


def card(
    folder: Path, process: int | None, uptime: float | None, sys: Path = Path("/sys")
) -> Sequence[Finding]:
    """How worn the card is that the data are on, and how much the agent writes to it.

    Source: JEDEC eMMC 5.0 (JESD84-B50), 7.4.38 to 7.4.40, which the kernel shows in /sys; SD cards
    do not tell. `uptime` is the agent's, in seconds.
    """
    findings = []
    device = _block_device(_existing(folder), sys)
    if device is not None and device.name.startswith("mmcblk"):
        findings.append(_wear(device))
    written = _written(process)
    if written is not None and uptime is not None and uptime >= _SHORT_RUN:
        rate = written / uptime * _DAY
        text = f"the agent writes {_bytes(rate)} a day"
        level, mend = Level.OK, None
        if rate > _MUCH_WRITTEN:
            level = Level.WARNING
            text += ", which wears out a card"
            mend = (
                "commit_interval = 1 in [agent], and pack = 60 for fast sensors: docs/recording.md"
            )
        findings.append(Finding("card", "writes", level, text, mend))
    return findings


def _wear(device: Path) -> Finding:
    name = device.name
    spare = _number(device / "device" / "pre_eol_info")
    used = [number for number in _numbers(device / "device" / "life_time") if number]
    if not used and not spare:
        text = f"{name} does not tell how worn it is, as SD cards do not"
        return Finding("card", name, Level.OK, text)
    worst = max(used, default=0)
    text = f"spare blocks: {_WEAR.get(spare, 'not told')}"
    if worst:
        text = (
            f"{min((worst - 1) * 10, 100)} to {min(worst * 10, 100)} % of its life are used, {text}"
        )
    mend = f"replace it: sudo dd if=/dev/{name} of=/dev/NEW bs=4M conv=fsync status=progress"
    if worst >= 11 or spare == 3:
        return Finding("card", name, Level.ERROR, text, mend)
    if worst >= 9 or spare == 2:
        return Finding("card", name, Level.WARNING, text, mend)
    return Finding("card", name, Level.OK, text)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above that there is."""
    folder = folder.absolute()
    while not folder.exists():
        folder = folder.parent
    return folder


def _mount_point(folder: Path) -> Path:
    folder = folder.resolve()
    while folder != folder.parent and folder.parent.stat().st_dev == folder.stat().st_dev:
        folder = folder.parent
    return folder


def _block_device(folder: Path, sys: Path) -> Path | None:
    """The whole device below /sys that a folder is on."""
    number = folder.stat().st_dev
    link = sys / "dev" / "block" / f"{os.major(number)}:{os.minor(number)}"
    if not link.exists():
        return None  # a file system without one, such as a tmpfs
    device = link.resolve()
    return device.parent if (device / "partition").exists() else device


def _written(process: int | None) -> int | None:
    """Bytes that a process has had written to disks (proc_pid_io(5)); None where it is not told."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{process}/io").read_text("ascii").splitlines():
            if line.startswith("write_bytes:"):
                return int(line.split()[1])
    return None


def _numbers(file: Path) -> list[int]:
    with contextlib.suppress(OSError, ValueError):
        return [int(word, 16) for word in file.read_text("ascii").split()]
    return []


def _number(file: Path) -> int:
    return next(iter(_numbers(file)), 0)


def _bytes(count: float) -> str:
    units = ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while count >= 1024 and len(units) > 1:
        count /= 1024
        del units[0]
    return f"{count:.0f} {units[0]}" if count >= 10 else f"{count:.1f} {units[0]}"
