"""Compiles the reference firmware and the programs that the tests run it with."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.patience import PATIENCE

CORE = Path(__file__).parents[2] / "firmware_adapters" / "reference" / "c"
_PROGRAMS = Path(__file__).parent / "c"
_WARNINGS = ["-std=c99", "-Wall", "-Wextra", "-Wconversion", "-Wshadow", "-Werror"]

SENSORS = 3
HELD = 8
"""What the core on this machine is made for: few, so that the ring is often full."""


def core_on_this_machine(folder: Path, *, frame: int = 128) -> Path:
    """The program tests/devices/c/node_host.c, with sanitizers; skips the test without gcc.

    `frame` is the size in bytes of the longest frame that it can send.
    """
    need("gcc", "gcc libc6-dev")
    program = folder / "node_host"
    sanitizers = ["-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    sizes = [f"-DSENSORS={SENSORS}", f"-DREADINGS_HELD={HELD}", f"-DNODE_FRAME={frame}"]
    sources = [_PROGRAMS / "node_host.c", *CORE.glob("*.c")]
    _run("gcc", *_WARNINGS, *sanitizers, *sizes, f"-I{CORE}", "-o", program, *sources)
    return program


def avr_firmware(folder: Path) -> tuple[Path, str]:
    """The firmware for the ATmega328P, and what its build prints; skips without avr-gcc."""
    need("avr-gcc", "gcc-avr avr-libc")
    need("make", "make")
    printed = _run("make", "--no-print-directory", "-C", CORE, f"BUILD={folder}")
    return folder / "sensor_node.elf", printed


def simulated_board(folder: Path) -> Path:
    """The program tests/devices/c/simulated_board.c; skips the test without simavr."""
    need("gcc", "gcc libc6-dev")
    if not Path("/usr/include/simavr/sim_avr.h").exists():
        pytest.skip("simavr's header files are missing (Debian: libsimavr-dev libelf-dev)")
    program = folder / "simulated_board"
    source = _PROGRAMS / "simulated_board.c"
    _run("gcc", "-std=gnu99", "-Wall", "-Wextra", "-O2", "-o", program, source, "-lsimavr", "-lelf")
    return program


def boot_loader() -> Path:
    """Optiboot, as it is on an Arduino Uno; skips the test without it."""
    loaders = Path("/usr/share/arduino/hardware/arduino/avr/bootloaders")
    loader = loaders / "optiboot" / "optiboot_atmega328.hex"
    if not loader.exists():
        pytest.skip("a boot loader for AVRs is missing (Debian: arduino-core-avr)")
    return loader


def need(program: str, packages: str) -> None:
    """Skip the test without a program; `packages` are Debian's."""
    if shutil.which(program) is None:
        pytest.skip(f"the program {program} is missing (Debian: {packages})")


def _run(*command: object) -> str:
    done = subprocess.run(
        list(map(str, command)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout
