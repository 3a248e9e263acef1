"""The figures of a running agent: rates, backlogs, and what the machine has left."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from agent.documents.readings import readings_of
from agent.errors import TransientError
from agent.peers.peer import Announcing, Peer, PresenceFigures, traffic_of
from agent.rates import Passages, Rates
from agent.replication.job import Job, State
from agent.sensors.recorder import Recorder
from agent.store.store import Store, Tally

_PAGE = resource.getpagesize()
_ANNOUNCED = 60.0


class Figures:
    """Of an agent with a store; `run` keeps what rates are made of."""

    def __init__(
        self,
        store: Store,
        recorders: Sequence[Recorder],
        remotes: Mapping[str, tuple[Peer, Mapping[str, Job]]],
        processed: Callable[[], int] = lambda: 0,
    ) -> None:
        """`remotes` by name: the peer, and the jobs by direction, "push" and "pull". `processed`
        counts the documents that hooks are done with."""
        self._store = store
        self._recorders = recorders
        self._remotes = remotes
        self._processed = processed
        self._passages = Passages()
        self._rates = Rates(self._counters)
        self._first_seq = store.update_seq

    async def run(self) -> None:
        """Take samples until it is cancelled."""
        await self._rates.run(lambda: self._passages.note(self._store.update_seq))

    async def announce(self) -> None:
        """Tell how the gateway is with its presence on brokers, whenever that has changed, and not
        more often than once a minute, until it is cancelled."""
        peers = [peer for peer, _ in self._remotes.values() if isinstance(peer, Announcing)]
        told: PresenceFigures | None = None
        while peers:
            await asyncio.sleep(_ANNOUNCED)
            now = await self._presence()
            if now != told:
                for peer in peers:
                    with suppress(TransientError):  # which its replication tells; it is told later
                        await peer.announce(now)
                told = now

    async def _presence(self) -> PresenceFigures:
        """Rounded, and 0 for what is only on its way, so that there is little to tell."""
        info = await self._store.info()
        backlog = 0
        lags: list[float | None] = [0.0]
        for _, jobs in self._remotes.values():
            job = jobs.get("push")
            if job is not None and job.state is not State.LIVE:
                backlog += await job.pending() or 0
                lags.append(job.lag())
        known = [lag for lag in lags if lag is not None]
        lag = _rounded(max(known)) if len(known) == len(lags) else None
        return PresenceFigures(lag, round(_rounded(backlog)), info.conflict_count)

    def _counters(self) -> dict[str, float]:
        jobs = [job.progress for _, jobs in self._remotes.values() for job in jobs.values()]
        told: dict[str, float] = {
            "changes": self._store.update_seq,
            "readings": sum(
                stats.readings
                for recorder in self._recorders
                for stats in recorder.sensors.values()
            ),
            "transferred": sum(progress.docs_written for progress in jobs),
            "confirmed": sum(self._confirmed()),
            "processed": self._processed(),
        }
        for name, (peer, by_direction) in self._remotes.items():
            told[f"push bytes {name}"], told[f"pull bytes {name}"] = traffic_of(peer)
            for direction, job in by_direction.items():
                told[f"{direction} {name}"] = job.progress.changes_confirmed
        return told

    def _confirmed(self) -> Iterator[int]:
        for _, jobs in self._remotes.values():
            for direction, job in jobs.items():
                # What a push has brought there a pull is told of, too: that is no news.
                progress = job.progress
                news = progress.changes_confirmed if direction == "push" else progress.docs_written
                yield news

    def pipeline(self) -> dict[str, Any]:
        """The four stages: `count` since the start and `rate`, per second. A detected change is one
        of the store, wherever it came from; `readings` are those that devices told."""
        counts, rates = self._counters(), self._rates.now()
        told = _stages(counts, rates)
        told["detect"]["count"] -= self._first_seq
        told["detect"]["readings"] = round(counts["readings"])
        told["detect"]["readings_rate"] = round(rates["readings"], 3)
        told["transfer"]["bytes"] = sum(sum(traffic_of(peer)) for peer, _ in self._remotes.values())
        moved = (rate for name, rate in rates.items() if " bytes " in name)
        told["transfer"]["bytes_rate"] = round(sum(moved), 1)
        return told

    async def of_remote(self, told: dict[str, Any]) -> dict[str, Any]:
        """A remote's status as it was `told`, with these figures in each of its directions.

        `rate` in changes and `bytes_rate` in bytes per second; `backlog_seconds` is the age of the
        oldest change that is not confirmed, `drain_seconds` until all are, as things go: None where
        it is not known, or never. `confirmed` changes and `errors` count since the start.
        """
        rates = self._rates.now()
        name = told["name"]
        added = {}
        for direction, job in self._remotes[name][1].items():
            pending = told[direction]["pending"]
            rate = rates[f"{direction} {name}"]
            # What a pull will bring is not known before it comes.
            coming = rates["changes"] if direction == "push" else 0.0
            added[direction] = {
                **told[direction],
                "rate": round(rate, 3),
                "bytes_rate": round(rates[f"{direction} bytes {name}"], 1),
                "backlog_seconds": await self._age(job, direction, pending),
                "drain_seconds": _time_to_drain(pending, rate - coming),
                "confirmed": job.progress.changes_confirmed,
                "errors": job.errors,
            }
        return {**told, **added}

    async def _age(self, job: Job, direction: str, pending: int | None) -> float | None:
        """Seconds; None where it is not known."""
        confirmed = job.progress.confirmed_seq
        if pending == 0:
            return 0.0
        if pending is None or direction != "push" or not isinstance(confirmed, int):
            return None
        age = self._passages.age(confirmed)
        if age is None:
            # From before the start; but a reading tells its time.
            page = await self._store.changes(confirmed, limit=1)
            found = readings_of(page.documents[0].body) if page.documents else None
            age = None if found is None else time.time() - found.times[0] / 1_000_000
        return None if age is None else round(max(0.0, age), 1)


class HubFigures:
    """Of a hub, which sends nothing by itself: what comes into its databases."""

    def __init__(self, tally: Tally, processed: Callable[[], int]) -> None:
        """`processed` counts the documents that hooks are done with."""
        self._tally = tally
        self._processed = processed
        self._rates = Rates(self._counters)

    async def run(self) -> None:
        """Take samples until it is cancelled."""
        await self._rates.run()

    def _counters(self) -> dict[str, float]:
        return {
            "changes": self._tally.changes,
            "transferred": self._tally.arrived,
            "confirmed": self._tally.durable,
            "processed": self._processed(),
        }

    def pipeline(self) -> dict[str, Any]:
        """The four stages, as `Figures.pipeline`: changes of all databases, the revisions that
        gateways and others brought, those of them that are on the disk, and what hooks did."""
        return _stages(self._counters(), self._rates.now())


def _stages(counts: Mapping[str, float], rates: Mapping[str, float]) -> dict[str, Any]:
    names = {"detect": "changes", "transfer": "transferred", "confirm": "confirmed"}
    return {
        stage: {"count": round(counts[name]), "rate": round(rates[name], 3)}
        for stage, name in {**names, "process": "processed"}.items()
    }


def _time_to_drain(pending: int | None, rate: float) -> float | None:
    """Seconds, at a rate that may be below zero; None for never, or if nobody knows."""
    if pending == 0:
        return 0.0
    return None if pending is None or rate <= 0 else round(pending / rate, 1)


def system(folder: Path | None) -> dict[str, Any]:
    """What the process takes, and what the machine has; sizes in bytes. Reads files.

    `folder` is where the data are; without it nothing is told of the disk.
    `bytes_written` since the process started, as the kernel sends them to the disk: what a card
    wears out by. `load` is that of the last minute, `uptime` the machine's in seconds. What the
    system does not tell is None.
    """
    told: dict[str, Any] = dict.fromkeys(
        ("memory_rss", "memory_virtual", "bytes_written", "uptime", "open_files")
    )
    with suppress(OSError, ValueError):
        size, resident, *_ = _words("/proc/self/statm")
        told["memory_rss"] = int(resident) * _PAGE
        told["memory_virtual"] = int(size) * _PAGE
    with suppress(OSError, ValueError):
        lines = dict(line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
        told["bytes_written"] = int(lines["write_bytes"]) - int(lines["cancelled_write_bytes"])
    with suppress(OSError, ValueError):
        told["uptime"] = float(_words("/proc/uptime")[0])
    with suppress(OSError):
        told["open_files"] = len(list(Path("/proc/self/fd").iterdir()))
    disk = None if folder is None else shutil.disk_usage(folder)
    return {
        **told,
        "disk_free": disk and disk.free,
        "disk_total": disk and disk.total,
        "load": round(os.getloadavg()[0], 2),
        "cpu_seconds": round(time.process_time(), 3),
        "most_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    }


def _words(path: str) -> list[str]:
    return Path(path).read_text("ascii").split()


def _rounded(number: float) -> float:
    """To two digits."""
    return float(f"{number:.1e}")
