"""Retention: a month of ten sensors in compressed time, with an outage of six hours each day.

The gateway is a process of its own (`retention_month.py`), which pushes to a hub over HTTP once in
each hour without an outage. Its budget is that of less than two days, so that the second day has
deleted, too; the hub has to have everything in the end.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from pathlib import Path

import msgspec

from scripts.benchmarks.harness import BenchError, Options, Row, Target
from scripts.benchmarks.processes import run_measured, running_agent
from scripts.benchmarks.retention_month import Day, Month, Plan
from scripts.benchmarks.servers import DATABASE

FULL = Plan(days=30, every=60, budget=8_000_000)
QUICK = Plan(days=8, every=300, budget=1_800_000)


async def run(options: Options) -> list[Row]:
    plan = QUICK if options.quick else FULL
    months = []
    for number in range(options.rounds):
        options.note(f"round {number + 1} of {options.rounds}")
        months.append(await _measure(options.folder / f"round-{number}", plan))
    full = [max(day.size for day in month.days) / plan.budget * 100 for month in months]
    grown = [(month.days[-1].memory / month.days[1].memory - 1) * 100 for month in months]
    settled = [month.days[plan.days // 2 :] for month in months]
    shown = f"{plan.days} days of 10 sensors"
    return [
        Row(f"{shown}: files, at most, of the budget", "%", full, target=Target(at_most=100)),
        Row("  memory of the last day above the second's", "%", grown, target=Target(at_most=5)),
        Row(
            "  written per day, once it deletes",
            "MiB",
            [_mean(days, "written") for days in settled],
        ),
        Row("  payload per day", "MiB", [_mean(days, "payload") for days in settled]),
        Row(
            "  readings that the hub lacks",
            "",
            [month.recorded - month.arrived for month in months],
            target=Target(at_most=0),
        ),
    ]


def _mean(days: list[Day], what: str) -> float:
    return sum(getattr(day, what) for day in days) / len(days) / 2**20


async def _measure(folder: Path, plan: Plan) -> Month:
    (folder / "hub").mkdir(parents=True)
    hub = running_agent("hub", "--data", str(folder / "hub"), "--listen", "127.0.0.1:0")
    async with hub as process:
        command = [sys.executable, "-m", "scripts.benchmarks.retention_month"]
        arguments = [str(folder / "edge.sqlite"), f"{process.url}/{DATABASE}"]
        arguments.append(msgspec.json.encode(plan).decode())
        ended = await asyncio.to_thread(run_measured, [*command, *arguments], folder)
    month = msgspec.json.decode(ended.output, type=Month)
    if month.dropped:
        raise BenchError(f"{month.dropped} readings were dropped: the hub is too slow")
    await asyncio.to_thread(shutil.rmtree, folder)
    return month
