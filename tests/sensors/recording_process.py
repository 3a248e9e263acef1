"""A recorder that runs until it is killed: `python -m tests.sensors.recording_process FILE TABLES`.

FILE is the store's, TABLES are `[[device.sensor]]` tables as JSON. What comes on the standard input
is from the device, what goes to the standard output is for it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import msgspec

from agent.config_sensors import SensorConfig
from agent.sensors.recorder import Recorder
from agent.sensors.rules import Rules
from agent.store.store import Store
from firmware_adapters import create


async def _main() -> None:
    store = await Store.open(Path(sys.argv[1]))
    rules = Rules(msgspec.convert(json.loads(sys.argv[2]), list[SensorConfig]))

    def send(data: bytes) -> None:
        # One write of less than PIPE_BUF bytes reaches the device whole or not at all.
        os.write(1, data)

    recorder = Recorder(store, "dev", create("json-lines"), send, rules)
    async with asyncio.TaskGroup() as group:
        group.create_task(recorder.run())
        while data := await asyncio.to_thread(os.read, 0, 4096):
            await recorder.feed(data)


if __name__ == "__main__":
    asyncio.run(_main())
