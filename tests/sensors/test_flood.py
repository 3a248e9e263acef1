"""Devices that say more than can be taken, beside one that says something now and then."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import random
import statistics
import threading
import time
import tty
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from tests import agents
from tests.cli.helpers import query, request
from tests.patience import when_true

READINGS = 30
_LATE = 3.0
"""Seconds, on a machine that is busy with other things, too."""


@contextlib.contextmanager
def line() -> Iterator[tuple[int, str]]:
    """A device's end of a line, and the path of the port at the other end."""
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    try:
        yield ours, os.ttyname(theirs)
    finally:
        os.close(ours)
        os.close(theirs)


@contextlib.contextmanager
def flooding(descriptor: int, data: bytes) -> Iterator[None]:
    """Say it again and again, as fast as it is taken."""
    over = threading.Event()
    os.set_blocking(descriptor, False)

    def say() -> None:
        left = data
        while not over.is_set():
            try:
                left = left[os.write(descriptor, left) :] or data
            except BlockingIOError:
                over.wait(0.001)

    thread = threading.Thread(target=say)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_others_stay_on_time(tmp_path: Path) -> None:
    store = tmp_path / "gateway" / "edge.sqlite"
    readings = b"".join(b'{"x":%d}\n' % n for n in range(500))
    with line() as (calm, port), line() as (fast, fast_port), line() as (noisy, noisy_port):
        config = agents.gateway_config(
            tmp_path / "gateway.toml",
            agents.table("device", name="fast", port=fast_port, adapter="json-lines"),
            agents.table("device", name="noisy", port=noisy_port, adapter="ve-direct"),
            agents.table("device", name="calm", port=port, adapter="json-lines"),
        )
        with agents.gateway(config) as gateway:
            url = gateway.wait_until_ready()

            def devices() -> dict[str, dict[str, object]]:
                return {each["name"]: each for each in request("GET", f"{url}/_status")["devices"]}

            def of_calm() -> list[tuple[float, str]]:
                sql = "SELECT value, time FROM readings WHERE device = 'calm'"
                return [(float(value), at) for value, at in query(store, sql)]

            when_true(lambda: all(each["state"] == "open" for each in devices().values()))
            os.write(calm, b"\n")  # the first line after opening may be cut
            with flooding(fast, readings), flooding(noisy, random.Random(1).randbytes(4096)):
                for _ in range(READINGS):
                    os.write(calm, json.dumps({"sent": time.time()}).encode() + b"\n")
                    time.sleep(0.1)
                when_true(lambda: len(of_calm()) == READINGS)
                state = devices()
            assert gateway.running
    late = [datetime.fromisoformat(at).timestamp() - sent for sent, at in of_calm()]
    print(f"{max(late):.3f} s late at the most")
    assert statistics.median(late) < _LATE
    assert state["calm"]["events"] == {}
    (stored,) = query(store, "SELECT count(*) FROM docs WHERE body ->> 'device' = 'fast'")
    assert stored[0] > 10 * READINGS
    assert state["noisy"]["events"].keys() <= {"too-long", "cut-frame", "bad-crc"}
    assert state["noisy"]["sensors"] == []
