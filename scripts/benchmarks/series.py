"""How long a sensor with 1,000,000 readings takes to open, over its month and over its last day.

Beside each range the bare count of it by SQL, in the client's own process: what walking the index
of ids takes, without reading a single value. "Cold" is after the file was put out of the system's
memory. The file is written directly, by SQL, with the store's own schema.

Then the sensor is opened in Chromium: from the start of the navigation, with nothing in the
browser's cache, until its course of the last five minutes is drawn; and from the click on "1 month"
until that is.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from playwright.async_api import Browser, async_playwright

from agent.documents.times import timestamp
from agent.server.pages import BUILT
from agent.store.connection import open_writer
from scripts.benchmarks.harness import BenchError, Options, Row, Target, take_turns
from scripts.benchmarks.http_client import Connection, connected
from scripts.benchmarks.processes import forget, running_agent
from scripts.benchmarks.servers import DATABASE
from tests.browser.site import CHROMIUM_OPTIONS

READINGS = 1_000_000
QUICK_READINGS = 2_000
TARGET = Target(at_most=1000.0)

_COUNT = "SELECT count(*) FROM docs WHERE id >= ? AND id < ?"
_DAYS = 30
_DAY = 86_400 * 1_000_000
_START = int(time.time()) * 1_000_000 - _DAYS * _DAY  # until now: the page shows the last minutes
_INSERT = (
    "INSERT INTO docs (seq, id, gen, hash, deleted, conflicts, body) VALUES (?, ?, 1, ?, 0, 0, ?)"
)
_BODY = (
    '{"boot":2882400001,"device":"greenhouse","sensor":"temperature","sequence":%d,"time":"%s",'
    '"type":"reading","unit":"C","value":%.2f}'
)


async def run(options: Options) -> list[Row]:
    count = QUICK_READINGS if options.quick else READINGS
    options.note(f"making {count:,} readings")
    data = options.folder / "hub"
    data.mkdir()
    path = data / f"{DATABASE}.sqlite"
    await asyncio.to_thread(_make, path, count)
    rows = []
    async with running_agent("hub", "--data", str(data), "--listen", "127.0.0.1:0") as hub:
        with connected(f"{hub.url}/{DATABASE}") as connection, closing(_opened(path)) as db:
            for days in (_DAYS, 1):
                for cold in (False, True):
                    ours, peer = await _measure(options, connection, db, path, days, count, cold)
                    what = f"{count:,} readings, {'the month' if days > 1 else 'the last day'}"
                    name = f"{what}, {'cold' if cold else 'warm'}"
                    rows.append(Row(name, "ms", ours, peer, "SQL, count alone", TARGET))
        opened, month = await _in_chromium(options, hub.url)
    return [
        *rows,
        Row(f"{count:,} readings, the sensor opened in Chromium", "ms", opened, target=TARGET),
        Row("  and its month drawn after a click", "ms", month),
    ]


def _make(path: Path, count: int) -> None:
    chance = random.Random(7)
    with closing(open_writer(path, create=True)) as db:
        # Nobody else has the file yet, and nobody needs it after a crash.
        db.execute("PRAGMA journal_mode = OFF")
        db.execute("PRAGMA synchronous = OFF")
        db.execute("BEGIN")
        times = (timestamp(_START + n * _DAYS * _DAY // count) for n in range(count))
        db.executemany(
            _INSERT,
            (
                (
                    n + 1,
                    f"greenhouse:temperature:{at}:{n:010d}",
                    f"{n:032x}",
                    _BODY % (n, at, 20 + 5 * chance.random()),
                )
                for n, at in enumerate(times)
            ),
        )
        db.execute("UPDATE meta SET value = ? WHERE key = 'doc_count'", (count,))
        db.execute("COMMIT")
    with path.open("rb") as file:
        os.fsync(file.fileno())  # what is dirty stays in memory


def _opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, check_same_thread=False)


async def _measure(
    options: Options,
    connection: Connection,
    db: sqlite3.Connection,
    path: Path,
    days: int,
    count: int,
    cold: bool,
) -> list[list[float]]:
    """Milliseconds of each round: ours, and the count's."""
    end = _START + _DAYS * _DAY
    start = end - days * _DAY
    asked = "_series?device=greenhouse&sensor=temperature"
    asked += f"&start={timestamp(start)}&end={timestamp(end)}"
    ids = tuple(f"greenhouse:temperature:{timestamp(at)}" for at in (start, end))

    def ours() -> int:
        return sum(connection.ask("GET", asked)["columns"]["count"])

    def by_hand() -> int:
        return int(db.execute(_COUNT, ids).fetchone()[0])

    async def measure(ask: Callable[[], int]) -> float:
        if cold:
            forget(path)
        started = time.perf_counter()
        found = await asyncio.to_thread(ask)
        took = (time.perf_counter() - started) * 1000
        if not 0.98 < found * _DAYS / (count * days) < 1.02:  # ours may be an estimate
            raise BenchError(f"{found} readings are not those of {days} days")
        return took

    if not cold:
        await asyncio.to_thread(by_hand)
        await asyncio.to_thread(ours)
    return await take_turns(options, [ours, by_hand], measure)


async def _in_chromium(options: Options, url: str) -> tuple[list[float], list[float]]:
    """Milliseconds of each round: until the sensor is drawn, and until its month is."""
    program = shutil.which("chromium")
    if program is None or not BUILT.exists():
        raise BenchError("Chromium or the dashboard's build is missing; scripts/bench makes both")
    opened, month = [], []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=CHROMIUM_OPTIONS)
        for number in range(options.rounds):
            options.note(f"Chromium, round {number + 1} of {options.rounds}")
            one, other = await _drawn(browser, url)
            opened.append(one)
            month.append(other)
        await browser.close()
    return opened, month


async def _drawn(browser: Browser, url: str) -> tuple[float, float]:
    context = await browser.new_context()
    page = await context.new_page()
    await page.add_init_script(_DRAWN)
    where = f"#/sensors?db={DATABASE}&device=greenhouse&sensor=temperature"
    await page.goto(f"{url}/_utils/{where}")
    opened = await page.evaluate("drawn('each reading')")
    clicked = await page.evaluate("performance.now()")
    await page.get_by_role("button", name="1 month").click()
    month = await page.evaluate("drawn('least to the greatest')")
    await context.close()
    return float(opened), float(month) - float(clicked)


_DRAWN = """
globalThis.drawn = (legend) => new Promise((resolve) => {
    const look = () => {
        const text = document.querySelector(".legend")?.textContent ?? "";
        if (document.querySelector(".plot canvas") && text.includes(legend)) {
            resolve(performance.now());
        } else requestAnimationFrame(look);
    };
    look();
});
"""
"""Resolves, with milliseconds since the navigation, when the plot stands on the page."""
