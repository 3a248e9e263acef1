"""A field day: boards with the reference firmware, a gateway, a hub, and faults at random moments.

Cables are unplugged, the gateway is killed, the hub is killed and stays away for a while. What the
boards say that they took, on their own logs, is then compared with what the hub has. It is one run,
however many rounds are asked for; the same seed has the same faults.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import sqlite3
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from firmware_adapters import CborFrames
from scripts.benchmarks.harness import BenchError, Options, Row, Target
from tests.agents import table
from tests.devices.cable import Board
from tests.devices.micropython import FIRMWARE, micropython, witnesses
from tests.faults.site import Site

_NEVER_MS = 86_400_000
_PATIENCE = 270.0
_LOOK_EVERY = 1.0

Taken = tuple[int, int, str, str]
"""Boot, sequence number, sensor, value."""


@dataclass(frozen=True, slots=True)
class Day:
    """How many readings there are to be at the least, and how often what goes wrong meanwhile.

    A board holds 128 readings of each sensor, so the gateway may be away for 128 intervals.
    """

    boards: int
    interval_ms: int
    readings: int
    unplugged: int
    killed: int
    outages: int
    seed: int = 1

    @property
    def seconds(self) -> float:
        """How long it takes to take the readings, three at a time."""
        return self.readings / (3 * self.boards) * self.interval_ms / 1000


LONG = Day(boards=20, interval_ms=120, readings=100_000, unplugged=50, killed=20, outages=10)
SHORT = Day(boards=6, interval_ms=200, readings=1_000, unplugged=5, killed=2, outages=1)


@dataclass(frozen=True, slots=True)
class Account:
    """How many readings were taken, and what is wrong with those that the hub has.

    `invented`: nobody took them, or they have other values.
    """

    taken: int
    missing: int
    doubled: int
    invented: int


async def run(options: Options) -> list[Row]:
    day = SHORT if options.quick else LONG
    options.note(
        f"{day.readings} readings, {day.unplugged} cables unplugged, {day.killed} kills, "
        f"{day.outages} outages, at least {day.seconds:.0f} s"
    )
    started = time.monotonic()
    account = await live(options.folder, day)
    none = Target(at_most=0)
    return [
        Row("readings that the boards say they took", "", [account.taken]),
        Row("  missing at the hub", "", [account.missing], target=none),
        Row("  doubled", "", [account.doubled], target=none),
        Row("  that nobody took", "", [account.invented], target=none),
        Row("  seconds", "s", [time.monotonic() - started]),
    ]


async def live(folder: Path, day: Day) -> Account:
    """Live through a day. Raises BenchError when it does not come to an end."""
    logs = [folder / f"board-{n}.log" for n in range(day.boards)]
    with contextlib.ExitStack() as stack:
        program = [micropython(), FIRMWARE, f"{day.interval_ms}"]
        boards = [
            stack.enter_context(Board(folder / f"port-{n}", log, program))
            for n, log in enumerate(logs)
        ]
        site = Site(folder, *(_device(n, board) for n, board in enumerate(boards)))
        stack.callback(site.gateway.kill)
        stack.callback(site.hub.kill)
        for place in site.places:
            place.start()
        await _faults(day, site, boards)
        await _until(lambda: _lines(logs) * 3 >= day.readings, "the boards are too slow")
        await _silence(day, boards, logs)
        taken = _taken(logs)
        await _until(lambda: _stored(site.hub.file).total() >= taken.total(), None)
        await site.gateway.stop()
        await site.hub.stop()
    stored = _stored(site.hub.file)
    return Account(
        taken=taken.total(),
        missing=len(taken.keys() - stored.keys()),
        doubled=sum(count - 1 for count in stored.values()),
        invented=len(stored.keys() - taken.keys()),
    )


def _device(number: int, board: Board) -> str:
    return table("device", name=f"board-{number}", port=str(board.port), adapter="cbor-frames")


async def _faults(day: Day, site: Site, boards: list[Board]) -> None:
    chance = random.Random(day.seed)

    async def unplug() -> None:
        board = chance.choice(boards)
        board.unplug()
        await asyncio.sleep(chance.uniform(0.1, 1.5))
        board.plug_in()

    async def kill() -> None:
        await asyncio.to_thread(site.gateway.kill)
        site.gateway.start()
        await asyncio.to_thread(site.gateway.wait_until_ready)

    async def outage() -> None:
        await asyncio.to_thread(site.hub.kill)
        await asyncio.sleep(chance.uniform(0.5, 3.0))
        site.hub.start()

    async def spread(count: int, happen: Callable[[], Awaitable[None]]) -> None:
        """So many times, at random moments of equal parts of the day."""
        part = day.seconds / count
        for _ in range(count):
            before = chance.uniform(0, part)
            await asyncio.sleep(before)
            await happen()
            await asyncio.sleep(part - before)

    await asyncio.gather(
        spread(day.unplugged, unplug), spread(day.killed, kill), spread(day.outages, outage)
    )


async def _silence(day: Day, boards: list[Board], logs: list[Path]) -> None:
    """Have the boards take no more readings. A command may meet one of the gateway's on its way."""
    rest = CborFrames().encode({"interval_ms": _NEVER_MS})
    while True:
        for board in boards:
            await asyncio.to_thread(board.tell, rest)
        before = _lines(logs)
        await asyncio.sleep(10 * day.interval_ms / 1000)
        if _lines(logs) == before:
            return


async def _until(condition: Callable[[], bool], complaint: str | None) -> None:
    """Without a complaint it is no error when the condition never holds."""
    try:
        async with asyncio.timeout(_PATIENCE):
            while not await asyncio.to_thread(condition):
                await asyncio.sleep(_LOOK_EVERY)
    except TimeoutError:
        if complaint is not None:
            raise BenchError(complaint) from None


def _lines(logs: list[Path]) -> int:
    """One for each time that a board took a reading of each of its three sensors."""
    return sum(log.read_bytes().count(b"\n") for log in logs)


def _taken(logs: list[Path]) -> Counter[Taken]:
    """What the boards have said on their own logs."""
    return Counter(
        (witness.boot, witness.sequence, sensor, value)
        for log in logs
        for witness in witnesses(log)
        for sensor, value in witness.values.items()
    )


def _stored(file: Path) -> Counter[Taken]:
    """The readings in a store's file; none while that is still being made."""
    sql = "SELECT body FROM docs WHERE body ->> 'type' = 'reading'"
    try:
        with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as db:
            bodies = [msgspec.json.decode(body) for (body,) in db.execute(sql)]
    except sqlite3.OperationalError:
        return Counter()
    return Counter(
        (body["boot"], body["sequence"], body["sensor"], repr(body["value"])) for body in bodies
    )
