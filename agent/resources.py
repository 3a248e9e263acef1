"""What a process of the agent has of the system: when it looks for garbage, files, memory, the
certificates that the machine trusts."""

from __future__ import annotations

import ctypes
import functools
import gc
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

# Of glibc's malloc.h.
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8

_LARGE = 128 * 1024
"""Bytes; as glibc has it at first, but it would raise it to the largest piece that was freed."""

_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")


def prepare() -> None:
    """Set this process up, before it has other threads."""
    # Reference counts free nearly all of what is made; looking for cycles at each 700 objects, and
    # among everything that was imported, takes a sixth of a replication.
    gc.set_threshold(10_000, 10, 10)
    # A database takes six files or so, each follower of a feed one. Systems begin with 1024 for
    # the sake of programs that use select(2).
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    # Else each thread gets a heap of its own, whose free parts the others cannot use: it takes
    # weeks until all of them have had their largest piece of work. And large pieces go back to the
    # system when they are freed, instead of leaving holes. Only glibc has this function.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _LARGE)


@contextmanager
def importing() -> Iterator[None]:
    """For the import of all that a process is to run.

    aiohttp reads all certificates that the machine trusts then, twice: a quarter of a start, and
    1.6 MiB. Here it finds none, so its own TLS contexts trust nobody until `trust`; the agent makes
    others for its connections. What was imported stays: to look through it for garbage once more,
    as Python does at the latest when it ends, takes a third as long as the start.
    """
    # Source: OpenSSL, X509_get_default_cert_file_env(3).
    names = ("SSL_CERT_FILE", "SSL_CERT_DIR")
    before = {name: os.environ[name] for name in names if name in os.environ}
    os.environ.update(dict.fromkeys(names, os.devnull))
    try:
        yield
    finally:
        for name in names:
            del os.environ[name]
        os.environ.update(before)
    gc.freeze()


@functools.cache
def trust() -> None:
    """For functions of other packages, which may use aiohttp's own TLS contexts. Reads files, the
    first time.
    """
    from aiohttp import connector

    connector._SSL_CONTEXT_VERIFIED.load_default_certs()


def memory() -> int:
    """Bytes that this process may have: all of the machine's, or what a control group of it allows,
    as `MemoryMax=` and `MemoryHigh=` of a systemd unit or a container do. Reads files.

    Source: the kernel's "Control Group v2", "Memory".
    """
    allowed = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    own = Path()
    with suppress(OSError):
        for line in _OWN_CGROUP.read_text().splitlines():
            if line.startswith("0::/"):
                own = Path(line.removeprefix("0::/"))
    for group in (own, *own.parents):
        for limit in ("memory.max", "memory.high"):
            # Neither is there without the controller; without a limit they say "max".
            with suppress(OSError, ValueError):
                allowed.append(int((_CGROUPS / group / limit).read_text()))
    return min(allowed)
