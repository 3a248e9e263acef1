"""The clocks of the machine. All numbers are microseconds."""

from __future__ import annotations

import ctypes
import secrets
import time
from pathlib import Path
from typing import Protocol

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_TIME_ERROR = 5
"""What adjtimex(2) returns while the clock is not synchronised."""

_QUICK = 100
"""Two readings of a clock with another one's between them shall not be further apart."""


class Machine(Protocol):
    """What is asked of a machine."""

    @property
    def boot_id(self) -> str:
        """Names the machine's run; another one with each boot."""

    def monotonic(self) -> int:
        """Since the boot, suspension included. Nobody can set it."""

    def offset(self) -> int:
        """The system clock's time since the epoch, less `monotonic`."""

    def synchronised(self) -> bool:
        """Whether the kernel says that its clock is kept right, by NTP or PTP."""


def kernel_boot_id() -> str:
    """Names the present run of this machine, the same for all processes. Reads a file."""
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return secrets.token_hex(16)  # then only this process can correct what it has marked


class LinuxMachine:
    """This machine; `boot_id` is what `kernel_boot_id` says."""

    def __init__(self, boot_id: str) -> None:
        self.boot_id = boot_id

    def monotonic(self) -> int:
        return time.clock_gettime_ns(time.CLOCK_BOOTTIME) // 1000

    def offset(self) -> int:
        for _ in range(5):
            before = self.monotonic()
            system = time.time_ns() // 1000
            after = self.monotonic()
            if after - before < _QUICK:
                break
        return system - (before + after) // 2

    def synchronised(self) -> bool:
        return kernel_synchronised() is True


class _Timex(ctypes.Structure):
    """`struct timex` as far as it is needed; it is shorter than this anywhere."""

    _fields_ = (("modes", ctypes.c_uint), ("rest", ctypes.c_char * 508))


def kernel_synchronised() -> bool | None:
    """What the kernel says of its clock (adjtimex(2)); None where it does not say."""
    adjtimex = getattr(ctypes.CDLL(None), "adjtimex", None)
    if adjtimex is None:
        return None
    state = adjtimex(ctypes.byref(_Timex()))  # the modes are 0: it only reads
    return None if state < 0 else bool(state < _TIME_ERROR)
