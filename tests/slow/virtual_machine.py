"""An arm64 machine in QEMU that boots from a card, by UEFI, as a board with such firmware does."""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from tests.rig.network import find_free_port

UEFI = Path("/usr/share/qemu-efi-aarch64/QEMU_EFI.fd")
HOST = "10.0.2.2"
"""The host's loopback interface, as the machine sees it."""
LONGEST = 1800.0
"""Seconds for anything; only so that a test cannot hang. Emulation is slow."""


def missing() -> str | None:
    """What is lacking for it here, or None."""
    for program in ("qemu-system-aarch64", "mcopy", "sfdisk", "debugfs", "ssh", "ssh-keygen"):
        if shutil.which(program) is None:
            return f"the program {program}"
    return None if UEFI.exists() else "the Debian package qemu-efi-aarch64"


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Wait until it returns something true, and return that. Blocks."""
    end = time.monotonic() + LONGEST
    while not (found := condition()):
        assert time.monotonic() < end, f"waited in vain for {what}"
        time.sleep(1)
    return found


class Card:
    """A copy of an image, on a card of `size` bytes."""

    def __init__(self, image: Path, path: Path, size: int) -> None:
        self.path = path
        subprocess.run(
            ["cp", "--reflink=auto", "--sparse=always", image, path], check=True, timeout=LONGEST
        )
        with path.open("r+b") as file:
            file.truncate(size)
        table = json.loads(_output("sfdisk", "--json", path))["partitiontable"]
        self.places = {
            part["name"]: (part["start"] * 512, part["size"] * 512) for part in table["partitions"]
        }
        """The partitions: where they begin, and how long they are, in bytes."""

    def put(self, name: str, text: str) -> None:
        """Write a file to the boot partition, as somebody does who has just flashed the card."""
        subprocess.run(
            ["mcopy", "-o", "-i", self._boot(), "-", f"::{name}"],
            input=text.encode(), check=True, timeout=LONGEST,
        )  # fmt: skip

    def get(self, name: str) -> str:
        return _output("mcopy", "-n", "-i", self._boot(), f"::{name}", "-")

    def names(self) -> list[str]:
        """What there is in the boot partition's root."""
        return [
            line.removeprefix("::/").rstrip("/")
            for line in _output("mdir", "-b", "-i", self._boot(), "::").split()
        ]

    def holds(self, text: str, partition: str) -> bool:
        """Whether the bytes of a partition have it anywhere."""
        start, length = self.places[partition]
        with self.path.open("rb") as file:
            file.seek(start)
            return text.encode() in file.read(length)

    def spoil(self, partition: str) -> None:
        """Overwrite the beginning of a partition."""
        with self.path.open("r+b") as file:
            file.seek(self.places[partition][0])
            file.write(b"\xa5" * (1 << 20))

    def listed(self, folder: str) -> str:
        """The names in a folder of the root partition."""
        where = f"{self.path}?offset={self.places['edge-root'][0]}"
        return _output("debugfs", "-R", f"ls -p {folder}", where)

    def _boot(self) -> str:
        return f"{self.path}@@{self.places['edge-boot'][0]}"


class VirtualMachine:
    """A running one; as a context manager its power is cut at the end."""

    def __init__(self, card: Card, key: Path, console: Path, *, alone: bool = False) -> None:
        """`key`: the file of the private key for ssh. `alone`: it reaches nobody."""
        self.ssh_port = find_free_port()
        self._key = key
        self._console = console
        forwarded = f"hostfwd=tcp:127.0.0.1:{self.ssh_port}-:22"
        self._process = subprocess.Popen(
            ["qemu-system-aarch64", "-M", "virt", "-cpu", "cortex-a53", "-smp", "2", "-m", "1024",
             "-bios", UEFI, "-nodefaults", "-display", "none", "-serial", f"file:{console}",
             "-drive", f"if=none,id=card,format=raw,file={card.path}",
             "-device", "virtio-blk-pci,drive=card,bootindex=0",
             "-netdev", f"user,id=net,restrict={'on' if alone else 'off'},{forwarded}",
             "-device", "virtio-net-pci,netdev=net,romfile="],
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    @property
    def console(self) -> str:
        """All that the machine has said on its serial line."""
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    def wait_until_up(self) -> None:
        """Until somebody can log in, and the agent is ready."""
        active = "systemctl is-active edge-agent"
        wait_for(lambda: self._tried(active).returncode == 0, "the agent to be ready")

    def run(self, *command: str) -> str:
        """A command as root, by ssh; what it prints."""
        done = self._tried(*command)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def _tried(self, *command: str) -> subprocess.CompletedProcess[str]:
        assert self._process.poll() is None, "the emulator has ended"
        return subprocess.run(
            ["ssh", "-F", "none", "-i", self._key, "-p", str(self.ssh_port), "-o", "BatchMode=yes",
             # The first key is learned; another one later is an error.
             "-o", "StrictHostKeyChecking=accept-new", "-o", "HostKeyAlias=card",
             "-o", f"UserKnownHostsFile={self._key.with_name('known_hosts')}",
             "-o", "ConnectTimeout=60", "root@127.0.0.1", *command],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip

    def cut_power(self) -> None:
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.cut_power()


def _output(*command: str | Path) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout
