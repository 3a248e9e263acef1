"""What a process of the agent has of the system."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.resources import memory
from tests.patience import PATIENCE
from tests.server.certificates import self_signed

_HEAPS = """
import ctypes, threading
from agent.resources import prepare

prepare()
everybody = threading.Barrier(4)

def work():
    kept = [bytes(100_000) for _ in range(10)]  # too large for Python's own heap
    everybody.wait(150)

threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="this needs glibc")
def test_all_threads_share_one_heap() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _HEAPS], capture_output=True, text=True, timeout=PATIENCE, check=True
    )
    assert done.stdout.count("<heap nr=") == 1


_IMPORTING = """
import gc, os
from agent.resources import importing

with importing():
    from aiohttp import connector
print(connector._SSL_CONTEXT_VERIFIED.cert_store_stats()["x509"])
print("SSL_CERT_FILE" in os.environ, "SSL_CERT_DIR" in os.environ)
print(gc.get_freeze_count() > 10_000)

from agent.published import published_function

published_function("console_scripts", "edge-agent")
print(connector._SSL_CONTEXT_VERIFIED.cert_store_stats()["x509"])
"""


def test_what_is_imported_costs_little(tmp_path: Path) -> None:
    """And functions of other packages find aiohttp as they know it."""
    certificate, _ = self_signed(tmp_path)
    environment = {**os.environ, "SSL_CERT_FILE": str(certificate)}
    environment.pop("SSL_CERT_DIR", None)
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTING],
        capture_output=True, text=True, timeout=PATIENCE, check=True, env=environment,
    )  # fmt: skip
    assert done.stdout.split() == ["0", "True", "False", "True", "1"]


GIB = 2**30


@pytest.mark.parametrize(
    ("limits", "most"),
    [
        ({}, GIB),  # no control groups, or none for memory, as a Raspberry Pi has it at first
        ({"system.slice/edge-agent.service/memory.max": "max"}, GIB),
        ({"system.slice/edge-agent.service/memory.max": "134217728"}, GIB // 8),
        ({"system.slice/edge-agent.service/memory.high": "67108864"}, GIB // 16),
        ({"system.slice/memory.max": "268435456"}, GIB // 4),
        ({"memory.max": "268435456"}, GIB // 4),  # a container sees its own as the root
        ({"memory.max": "9223372036854771712"}, GIB),
    ],
)
def test_memory_is_what_the_control_groups_leave_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limits: dict[str, str], most: int
) -> None:
    pages = {"SC_PHYS_PAGES": GIB // 4096, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr("os.sysconf", pages.__getitem__)
    own = tmp_path / "cgroup"
    own.write_text("4:memory:/older\n0::/system.slice/edge-agent.service\n")
    monkeypatch.setattr("agent.resources._OWN_CGROUP", own)
    monkeypatch.setattr("agent.resources._CGROUPS", tmp_path)
    for name, text in limits.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{text}\n")
    assert memory() == most


def test_without_control_groups_it_is_the_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = memory()
    monkeypatch.setattr("agent.resources._OWN_CGROUP", tmp_path / "none")
    monkeypatch.setattr("agent.resources._CGROUPS", tmp_path)
    assert memory() >= machine > 0
