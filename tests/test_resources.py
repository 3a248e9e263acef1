"""What a process of the agent has of the system."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

_HEAPS = """
import ctypes, threading
from agent.resources import prepare

prepare()
everybody = threading.Barrier(4)

def work():
    kept = [bytes(100_000) for _ in range(10)]  # too large for Python's own heap
    everybody.wait(30)

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
        [sys.executable, "-c", _HEAPS], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.count("<heap nr=") == 1


_IMPORTING = """
import gc, os
os.environ["SSL_CERT_FILE"] = "mine.pem"
from agent.resources import importing

with importing():
    import aiohttp.connector
print(aiohttp.connector._SSL_CONTEXT_VERIFIED.cert_store_stats()["x509"])
print(os.environ["SSL_CERT_FILE"], "SSL_CERT_DIR" in os.environ)
print(gc.get_freeze_count() > 10_000)
"""


def test_what_is_imported_costs_little() -> None:
    environment = {name: os.environ[name] for name in os.environ if name != "SSL_CERT_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTING],
        capture_output=True, text=True, timeout=60, check=True, env=environment,
    )  # fmt: skip
    assert done.stdout.split() == ["0", "mine.pem", "False", "True"]
