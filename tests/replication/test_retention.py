"""Retention: what may go goes, the file shrinks, and nothing goes silently or comes back."""

from __future__ import annotations

import asyncio
import json
import random
import tempfile
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any, Literal
from unittest.mock import Mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.documents.revision import first_revision
from agent.errors import StoreError, StoreWriteError
from agent.peers.local import LocalPeer
from agent.peers.peer import WriteResult
from agent.peers.retained import RetainedPeer
from agent.replication.confirmations import Pushed
from agent.replication.replicator import Replicator
from agent.replication.retention import Options, Retention, Rule
from agent.replication.verification import Verification
from agent.store import retention as remembering
from agent.store.retention import space
from agent.store.store import Store
from tests.patience import until
from tests.replication.retaining import (
    START,
    Confirmed,
    bodies,
    counted,
    fill,
    reading,
    readings_in,
    timestamp,
    window,
)
from tests.store.helpers import put, revision, rows

_MEMORY = "/dev/shm" if Path("/dev/shm").is_dir() else None
"""Where the property's files are: what is tested does not depend on the disk."""

NOW = 1_000_000.0
"""Seconds after START."""


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "edge.sqlite")
    yield store
    await store.close()


@pytest.fixture
async def hub(tmp_path: Path) -> AsyncIterator[Store]:
    store = await Store.open(tmp_path / "hub.sqlite")
    yield store
    await store.close()


async def retention(store: Store, options: Options, *confirmations: Any) -> Retention:
    made = Retention(store, options, confirmations, clock=lambda: START.timestamp() + NOW)
    await made.load()
    return made


# --- by age --------------------------------------------------------------------------------


async def test_by_age_what_is_confirmed_goes(store: Store) -> None:
    old, new = NOW - 5000, NOW - 500
    await store.graft([reading(old), reading(new), reading(old, sensor="kept")])
    await store.graft([reading(old + n, device="other") for n in range(1200)])
    await put(store, "device:dev", None, type="device")
    confirmed_until = store.update_seq
    await store.graft([reading(old + 1)])
    rules = [Rule("*", "kept", 1e6), Rule("*", "*", 1000)]
    cloud = Confirmed(confirmed_until)
    await (await retention(store, Options(rules=rules), cloud)).once()
    left = {reading(new).id, reading(old, sensor="kept").id, reading(old + 1).id, "device:dev"}
    assert set(bodies(store.path)) == left
    info = await store.info()
    assert (info.doc_count, info.update_seq) == (4, confirmed_until + 1)

    cloud.upto += 1
    again = await retention(store, Options(rules=rules), cloud)
    await again.once()
    assert set(bodies(store.path)) == left - {reading(old + 1).id}
    sensors = {(e["device"], e["sensor"]): e["deleted"] for e in again.status()["sensors"]}
    assert sensors == {("dev", "temp"): 2, ("other", "temp"): 1200}


async def test_the_newest_sequence_is_not_used_twice(store: Store) -> None:
    await store.graft([reading(0)])
    await (await retention(store, Options(rules=[Rule("*", "*", 1000)]))).once()
    assert bodies(store.path) == {}
    page = await store.changes(0, limit=10)
    assert (page.documents, page.last_seq) == ([], 1)
    await put(store, "next", None)
    assert store.update_seq == 2


async def test_changed_readings_go_with_their_history_conflicts_and_tombstones_stay(
    store: Store,
) -> None:
    await store.graft([reading(n) for n in range(4)])
    changed, deleted, conflict, newer = (reading(n) for n in range(4))
    at = {"type": "reading", "device": "dev", "sensor": "temp", "time": timestamp(0)}
    await put(store, changed.id, str(changed.rev), **at, note="seen")
    await put(store, deleted.id, str(deleted.rev), _deleted=True)
    await put(store, conflict.id, str(conflict.rev), **at)
    await store.graft([revision(conflict.id, "f" * 32, conflict.path[0])])
    await put(store, newer.id, str(newer.rev), **{**at, "time": timestamp(NOW - 10)})
    await (await retention(store, Options(rules=[Rule("*", "*", 1000)]))).once()
    left = {deleted.id, conflict.id, newer.id}
    assert set(rows(store.path, "SELECT id FROM docs")) == left
    assert changed.id not in rows(store.path, "SELECT id FROM revisions")


async def test_what_is_still_to_be_corrected_is_not_old(store: Store) -> None:
    await store.graft([reading(0, clock="unset"), reading(1), reading(2, clock="corrected")])
    correcting = [True]
    made = Retention(
        store,
        Options(rules=[Rule("*", "*", 20)]),
        [],
        clock=lambda: START.timestamp() + NOW,
        correcting=lambda: correcting[0],
    )
    await made.once()
    assert set(bodies(store.path)) == {reading(0).id}
    correcting[0] = False
    made = Retention(store, Options(rules=[Rule("*", "*", 20)]), [])
    await made.once()
    assert bodies(store.path) == {}


async def test_nothing_is_old_until_the_time_is_known(store: Store) -> None:
    """A battery-backed clock may begin years ahead."""
    await store.graft([reading(0)])
    known = [False]
    rules = Options(rules=[Rule("*", "*", 20)])
    made = Retention(store, rules, [], known=lambda: known[0])
    await made.once()
    assert set(bodies(store.path)) == {reading(0).id}
    known[0] = True
    await made.once()
    assert bodies(store.path) == {}


async def test_ids_that_are_ahead_of_their_times_make_nothing_young(store: Store) -> None:
    """A clock that was years ahead leaves such ids, also to what is recorded afterwards."""
    ahead = 20 * 365 * 86400
    ids = [reading(ahead + n).id for n in range(1200)]
    for start in range(0, 1200, 400):
        old = [(id, NOW - 1999 + n) for n, id in enumerate(ids)][start : start + 400]
        await store.graft([first_revision(id, json.loads(reading(at).body)) for id, at in old])
    made = await retention(store, Options(rules=[Rule("*", "*", 1000)]))
    await made.once()
    assert set(bodies(store.path)) == set(ids[999:])
    await store.graft([reading(0), reading(NOW - 1)])
    await (await retention(store, Options(rules=[Rule("*", "*", 1000)]))).once()
    assert set(bodies(store.path)) == {*ids[999:], reading(NOW - 1).id}


async def test_what_was_refused_was_not_confirmed(store: Store) -> None:
    await store.graft([reading(0), reading(1)])
    cloud = Confirmed(2)
    cloud.refused.add(reading(0).id)
    await (await retention(store, Options(rules=[Rule("*", "*", 1000)]), cloud)).once()
    assert set(bodies(store.path)) == {reading(0).id}


# --- by size -------------------------------------------------------------------------------

BUDGET = 1_000_000


def size(store: Store) -> int:
    """What the store's files take, in bytes."""
    return sum(file.stat().st_size for file in store.path.parent.glob(f"{store.path.name}*"))


async def overfilled(store: Store, count: int = 5000) -> list[str]:
    """Readings of four sensors that take more than the budget; returns their ids."""
    made = [reading(n, sensor=f"s{n % 4}", note="x" * 150) for n in range(count)]
    await fill(store, made)
    assert (await store.info()).file_size > BUDGET
    return [revision.id for revision in made]


async def test_the_file_shrinks_into_the_budget_from_the_oldest_on(store: Store) -> None:
    ids = await overfilled(store)
    made = await retention(store, Options(BUDGET), Confirmed(store.update_seq))
    await made.once()
    there = bodies(store.path)
    left = [id for id in ids if id in there]
    assert left == ids[-len(left) :]
    assert size(store) <= BUDGET
    assert size(store) > BUDGET / 2
    assert store.refusal is None
    assert made.status()["dropped"] == 0


async def test_stop_refuses_until_there_is_room(store: Store) -> None:
    ids = await overfilled(store)
    cloud = Confirmed(0)
    made = await retention(store, Options(BUDGET, "stop"), cloud)
    await made.once()
    assert set(bodies(store.path)) == set(ids)
    for write in (store.graft([reading(NOW)]), put(store, "x", None)):
        with pytest.raises(StoreWriteError, match="remote 'cloud' has not confirmed"):
            await write
    await store.put_local("checkpoint", None, "{}")  # or nothing would ever be confirmed
    cloud.upto = store.update_seq
    await made.once()
    await store.graft([reading(NOW)])
    assert size(store) <= BUDGET


@pytest.mark.parametrize("when_full", ["stop", "drop-oldest", "thin"])
async def test_a_flood_is_noticed_before_it_is_far_beyond_the_budget(
    store: Store, when_full: Literal["stop", "drop-oldest", "thin"]
) -> None:
    """As when a pull brings a backlog: that takes less time than there is between two looks."""
    made = await retention(store, Options(BUDGET, when_full), Confirmed(0))
    running = asyncio.create_task(made.run())
    most, refusals = 0, set()
    for start in range(0, 20_000, 100):
        flood = [reading(start + n, note="x" * 200) for n in range(100)]
        while True:
            try:
                await store.graft(flood)
                break
            except StoreWriteError as error:
                refusals.add("room is being made" in str(error))
                if when_full == "stop" and False in refusals:
                    break
            await asyncio.sleep(0.01)
        most = max(most, (await store.info()).file_size)
        if False in refusals:
            break
    running.cancel()
    assert (False in refusals) == (when_full == "stop")
    assert (made.status()["dropped"] > 10_000) == (when_full != "stop")
    assert most <= 2 * BUDGET  # and not ten times as much


@pytest.mark.parametrize("when_full", ["drop-oldest", "thin"])
async def test_what_is_dropped_is_counted_and_leaves_gaps(
    store: Store, when_full: Literal["drop-oldest", "thin"]
) -> None:
    await put(store, "alarm:dev:s1:hot:1", None, type="alarm", device="dev", sensor="s1")
    ids = await overfilled(store)
    confirmed = 1 + len(ids) // 4
    made = await retention(store, Options(BUDGET, when_full), Confirmed(confirmed))
    await made.once()
    left = bodies(store.path)
    assert "alarm:dev:s1:hot:1" in left
    assert not left.keys() & set(ids[: confirmed - 1])
    gaps = {body["sensor"]: body for body in left.values() if body["type"] == "gap"}
    assert len(gaps) == 4  # one for each sensor
    _, gone = counted(left)
    for number in range(4):
        sensor = f"s{number}"
        missing = [
            id
            for n, id in enumerate(ids)
            if n % 4 == number and n >= confirmed - 1 and id not in left
        ]
        assert gone[sensor] == gaps[sensor]["count"] == len(missing) > 0
        times = [id.removeprefix(f"dev:{sensor}:").rpartition(":")[0] for id in missing]
        assert (gaps[sensor]["from"], gaps[sensor]["to"]) == (times[0], times[-1])
        assert gaps[sensor]["reason"] == when_full
    dropped = {entry["sensor"]: entry["dropped"] for entry in made.status()["sensors"]}
    assert dropped == dict(gone)
    assert size(store) <= BUDGET
    if when_full == "thin":  # what was old is still there in part
        assert sum(id in left for id in ids[confirmed : confirmed + 400]) >= 90


async def test_a_gateway_with_many_sensors_has_one_gap_for_each(store: Store) -> None:
    """Gaps stay: were there one for each reading that is dropped, no room would be made."""
    made = await retention(store, Options(3 * BUDGET, "drop-oldest"), Confirmed(0))
    for turn in range(9):
        for start in range(0, 1200, 400):
            sensors = range(start, start + 400)
            await store.graft(
                [reading(turn + n / 1200, sensor=f"s{n}", note="x" * 100) for n in sensors]
            )
            await made.once()
            while store.refusal is not None and "is being made" in store.refusal:
                await made.once()
    _, gone = counted(bodies(store.path))
    gaps = sum(id.startswith("gap:") for id in bodies(store.path))
    assert gone.total() > 5000
    assert gaps == len(gone)


@pytest.mark.parametrize("when_full", ["drop-oldest", "thin"])
async def test_gaps_of_many_sensors_take_less_than_they_give(
    store: Store, when_full: Literal["drop-oldest", "thin"]
) -> None:
    """Readings that come by turns: each few that are dropped are of all sensors."""
    made = await retention(store, Options(3 * BUDGET, when_full), Confirmed(0))
    await fill(store, [reading(n, sensor=f"s{n % 500}") for n in range(12_000)])
    await made.once()
    assert store.refusal is None
    left = bodies(store.path)
    gaps = [id for id in left if id.startswith("gap:")]
    assert len(gaps) == 500
    assert sum(counted(left)[0].values()) > 8000
    revisions = [(await store.get(id)).rev.generation for id in gaps]
    assert max(revisions) <= 2


@pytest.mark.parametrize("when_full", ["drop-oldest", "thin"])
@pytest.mark.parametrize(("windows", "readings"), [(270, 1000), (520, 200)])
async def test_no_more_is_dropped_than_there_is_need_of(
    store: Store, when_full: Literal["drop-oldest", "thin"], windows: int, readings: int
) -> None:
    """Windows are large: a few hundred of them are all that a small budget holds. Of those that
    are a little over half a page there is one in each."""
    await fill(store, [window(n, readings) for n in range(windows)])
    made = await retention(store, Options(2 * BUDGET, when_full), Confirmed(0))
    await made.once()
    assert made.status()["dropped"] > 0
    assert 0.88 * 2 * BUDGET < (await space(store)).data <= 0.95 * 2 * BUDGET


async def test_what_could_not_be_dropped_is_still_the_oldest(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = await overfilled(store)
    made = await retention(store, Options(BUDGET, "drop-oldest"), Confirmed(0))
    with monkeypatch.context() as disk:
        disk.setattr(store, "write", _full_disk)
        with pytest.raises(StoreWriteError):
            await made.once()
    await made.once()
    left = bodies(store.path)
    gone = [id for id in ids if id not in left]
    assert gone
    assert gone == ids[: len(gone)]


async def test_a_full_disk_is_not_asked_all_the_time(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    await overfilled(store)
    made = await retention(store, Options(BUDGET, "drop-oldest"), Confirmed(0))
    store.refusal = "as in a flood, while room was being made"
    writes = Mock(side_effect=_full_disk)
    monkeypatch.setattr(store, "write", writes)
    running = asyncio.create_task(made.run())
    await until(lambda: made.last_error)
    await asyncio.sleep(0.3)
    running.cancel()
    assert writes.call_count == 1


async def _full_disk(operation: object) -> None:
    raise StoreWriteError("the disk is full")


@pytest.mark.parametrize("when_full", ["stop", "drop-oldest", "thin"])
async def test_old_bodies_go_before_what_is_not_confirmed(
    store: Store, when_full: Literal["stop", "drop-oldest", "thin"]
) -> None:
    ids = await overfilled(store, 3000)
    rev = await put(store, "often", None)
    for n in range(100):
        rev = await put(store, "often", rev, n=n, text="x" * 5000)
    made = await retention(store, Options(2 * BUDGET, when_full), Confirmed(0))
    assert (await store.info()).file_size > 0.95 * 2 * BUDGET
    await made.once()
    assert store.refusal is None
    assert set(ids) <= bodies(store.path).keys()
    assert made.status()["dropped"] == 0


async def test_it_ends_with_its_store(store: Store) -> None:
    made = await retention(store, Options(BUDGET), Confirmed(0))
    running = asyncio.create_task(made.run())
    await until(lambda: store._waiting)
    await store.close()
    with pytest.raises(StoreError):
        await running


@pytest.mark.parametrize("keep", [None, 1.0])
async def test_ever_new_names_of_sensors_are_not_remembered_for_ever(
    store: Store, keep: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As noise makes them on a line without checks, among the readings of a real sensor."""
    most = 1000
    monkeypatch.setattr(remembering, "MOST_SENSORS", most)
    many = 3 * most
    for start in range(0, many, 500):
        numbers = range(start, start + 500)
        await fill(store, [reading(n, sensor=f"\u00ff{n:060}") for n in numbers])
        await fill(store, [reading(n + 0.5, sensor="real", note="x" * 300) for n in numbers])
    rules = [] if keep is None else [Rule("*", "*", keep)]
    options = Options(BUDGET, "drop-oldest", rules)
    made = await retention(store, options, *([] if keep else [Confirmed(0)]))
    await made.once()
    left, gone = counted(bodies(store.path))
    status = made.status()
    assert len(status["sensors"]) <= most
    assert "real" in {entry["sensor"] for entry in status["sensors"]}
    kind = "deleted" if keep else "dropped"
    counts = [entry[kind] for entry in (*status["sensors"], status["others"])]
    assert sum(counts) == 2 * many - left.total() > 2000
    if keep is None:
        assert gone.total() == sum(counts) == status["dropped"]
    again = await retention(store, options)
    assert again.status()["others"] == status["others"]


async def test_gaps_grow_until_something_else_lies_between(store: Store) -> None:
    cloud = Confirmed(0)
    made = await retention(store, Options(BUDGET, "drop-oldest"), cloud)
    for turn in range(3):
        await fill(store, [reading(5000 * turn + n, note="x" * 200) for n in range(2500)])
        await made.once()
    gaps = [body for body in bodies(store.path).values() if body["type"] == "gap"]
    assert len(gaps) == 1
    cloud.upto = store.update_seq
    for turn in range(3, 6):
        await fill(store, [reading(5000 * turn + n, note="x" * 200) for n in range(2500)])
        await made.once()
    gaps = sorted(
        (body for body in bodies(store.path).values() if body["type"] == "gap"),
        key=lambda body: str(body["from"]),
    )
    assert len(gaps) == 2
    assert gaps[0]["to"] < gaps[1]["from"]


# --- whatever happens ----------------------------------------------------------------------

_STEP = st.tuples(
    st.sampled_from(["record", "record", "confirm", "retain", "restart"]),
    st.integers(1, 60),
    st.integers(0, 2**32),
)


@settings(max_examples=40)
@given(
    st.lists(_STEP, min_size=5, max_size=25),
    st.sampled_from(["stop", "drop-oldest", "thin"]),
    st.sampled_from([None, 50.0, 5000.0]),
)
async def test_nothing_goes_silently(
    steps: list[tuple[str, int, int]],
    when_full: Literal["stop", "drop-oldest", "thin"],
    keep: float | None,
) -> None:
    """Whatever is missing was confirmed, or is in a gap; and alarms stay."""
    rules = [] if keep is None else [Rule("*", "temp", keep)]
    made: dict[str, tuple[int, str, int]] = {}
    """By id: the sequence, the sensor and the readings of what may be deleted."""
    stays: set[str] = set()
    with tempfile.TemporaryDirectory(dir=_MEMORY) as folder:
        path = Path(folder, "edge.sqlite")
        store = await Store.open(path)
        cloud, seconds = Confirmed(0), 0
        options = Options(150_000, when_full, rules)
        kept = Retention(store, options, [cloud])
        for what, count, seed in steps:
            chance = random.Random(seed)
            if what == "record" and store.refusal is None:
                for _ in range(count):
                    seconds += 1
                    document = chance.choice(
                        [
                            reading(seconds, note="x" * 500),
                            reading(seconds - 20.5, sensor="late", note="x" * 300),
                            window(seconds, chance.randint(1, 30)),
                        ]
                    )
                    await store.graft([document])
                    body = bodies_of(document.body)
                    made[document.id] = (store.update_seq, body[0], body[1])
                alarm = f"alarm:dev:temp:hot:{timestamp(seconds)}:{seed}"
                changed = chance.choice(list(made))
                if (found := await store.get(changed)) is not None:
                    _, sensor, readings = made[changed]
                    made[changed] = (store.update_seq + 1, sensor, readings)
                    await put(
                        store, changed, found.rev, **(json.loads(found.body) | {"seen": seed})
                    )
                await store.graft([first_revision(alarm, {"type": "alarm"})])
                stays.add(alarm)
            elif what == "confirm":
                cloud.upto = chance.randint(cloud.upto, store.update_seq)
            elif what == "retain":
                now = START.timestamp() + seconds
                kept = Retention(store, options, [cloud], clock=partial(float, now))
                await kept.load()
                await kept.once()
            elif what == "restart":
                await store.close()
                store = await Store.open(path)
                kept = Retention(store, options, [cloud])
            left = bodies(path)
            assert stays <= left.keys()
            _, gone = counted(left)
            missing = Counter[str]()
            for id, (seq, sensor, readings) in made.items():
                if id not in left and seq > cloud.upto:
                    missing[sensor] += readings
            for sensor, count in missing.items():
                assert gone[sensor] >= count
        # What is in gaps is missing, whether it has been confirmed since or not.
        lost = Counter[str]()
        for id, (_, sensor, readings) in made.items():
            if id not in left:
                lost[sensor] += readings
        for sensor, count in gone.items():
            assert count <= lost[sensor]
        await kept.load()
        record = kept.retained.record.sensors
        assert {name.split(":")[1]: r.deleted + r.dropped for name, r in record.items()} == dict(
            lost
        )
        assert {name.split(":")[1]: r.dropped for name, r in record.items() if r.dropped} == dict(
            gone
        )
        if when_full == "stop":
            assert not gone
        assert rows(path, "PRAGMA integrity_check") == ["ok"]
        await store.close()


def bodies_of(text: str) -> tuple[str, int]:
    """The sensor and the number of readings of a document."""
    body = json.loads(text)
    return body["sensor"], readings_in(body)


# --- with a hub ----------------------------------------------------------------------------


async def everything_of(hub: Store) -> int:
    return (await hub.info()).doc_count


async def test_nothing_comes_back_and_nothing_is_missed(store: Store, hub: Store) -> None:
    await fill(store, [reading(n, sensor=f"s{n % 3}") for n in range(9000)])
    push = Replicator(LocalPeer(store), LocalPeer(hub), checkpoint_interval=0.1)
    await push.run()
    await store.graft([reading(100.5, sensor="s0")])  # late, and not confirmed
    made = await retention(store, Options(rules=[Rule("*", "*", NOW - 8000)]), Pushed("hub", push))
    await made.once()
    assert len(bodies(store.path)) == 1001

    def unwanted(id: str) -> bool:
        return made.unwanted(id, devices={"dev"})

    pull = Replicator(
        LocalPeer(hub), RetainedPeer(store, unwanted), since_seq=0, use_checkpoints=False
    )
    await put(hub, reading(5, sensor="s2").id, str(reading(5, sensor="s2").rev), note="corrected")
    await hub.graft([reading(7, device="elsewhere")])
    await pull.run()
    left = bodies(store.path)
    assert len(left) == 1002
    assert reading(7, device="elsewhere").id in left

    for source, target in ((store, hub), (hub, store)):
        check = Verification(LocalPeer(source), LocalPeer(target))
        told = [item.id async for item in check.differences(settle=0)]
        assert told == [reading(100.5, sensor="s0").id]
        assert check.by == "ranges"
    await push.run()
    check = Verification(LocalPeer(store), LocalPeer(hub))
    assert [item async for item in check.differences(settle=0)] == []
    await store.graft([reading(9000, sensor="s0")])
    await hub.graft([reading(9001, sensor="s0")])
    assert len([item async for item in check.differences(settle=0)]) == 2


async def test_what_is_deleted_during_a_verification_is_not_missed(
    store: Store, hub: Store
) -> None:
    await fill(store, [reading(n) for n in range(3000)])
    push = Replicator(LocalPeer(store), LocalPeer(hub))
    await push.run()
    made = await retention(store, Options(rules=[Rule("*", "*", NOW - 1500)]), Pushed("hub", push))

    class Deleting(LocalPeer):
        async def ranges(self, *args: Any) -> Any:
            await made.once()
            return await super().ranges(*args)

    check = Verification(Deleting(store), LocalPeer(hub))
    assert [item async for item in check.differences(settle=0)] == []
    assert len(bodies(store.path)) < 3000


async def test_a_remote_that_has_refused_something_is_asked(store: Store, hub: Store) -> None:
    await store.graft([reading(n) for n in range(10)])

    class Refusing(LocalPeer):
        async def store(self, revisions: Any, contents: Any = None) -> Any:
            bad = [item for item in revisions if item.id == reading(3).id]
            good = [item for item in revisions if item.id != reading(3).id]
            results = list(await super().store(good))
            return results + [
                WriteResult(item.id, str(item.rev), "forbidden", "no") for item in bad
            ]

    push = Replicator(LocalPeer(store), Refusing(hub))
    await push.run()
    assert push.progress.doc_write_failures == 1
    rules = [Rule("*", "*", 1000)]
    again = Replicator(LocalPeer(store), Refusing(hub))  # as after a restart, before it runs
    made = await retention(store, Options(rules=rules), Pushed("hub", again))
    await made.once()
    assert set(bodies(store.path)) == {reading(3).id}


@pytest.mark.parametrize("history", ["nonsense", ["nonsense"], [{}]])
async def test_a_checkpoint_that_somebody_has_overwritten_confirms_nothing(
    store: Store, hub: Store, history: Any
) -> None:
    await store.graft([reading(1)])
    push = Replicator(LocalPeer(store), LocalPeer(hub))
    await push.run()
    assert push.checkpoint is not None
    (rev, _) = await store.get_local(push.checkpoint.id) or ("", "")
    await store.put_local(push.checkpoint.id, rev, json.dumps({"history": history}))
    made = await retention(store, Options(rules=[Rule("*", "*", 10)]), Pushed("hub", push))
    await made.once()
    assert len(bodies(store.path)) == 1


async def test_a_remote_that_was_restored_holds_retention_up(
    store: Store, hub: Store, tmp_path: Path
) -> None:
    await store.graft([reading(n) for n in range(5)])
    push = Replicator(LocalPeer(store), LocalPeer(hub), checkpoint_interval=0.1)
    await push.run()
    await hub.purge({reading(n).id: [reading(n).rev] for n in range(5)})
    await hub.put_local(push.checkpoint.id, "0-1", "{}")  # type: ignore[union-attr]
    gate = asyncio.Event()

    class Slow(LocalPeer):
        async def revs_diff(self, revs: Any) -> Any:
            await gate.wait()
            return await super().revs_diff(revs)

    again = Replicator(LocalPeer(store), Slow(hub))
    connected = asyncio.Event()
    running = asyncio.create_task(again.run(connected.set))
    await connected.wait()
    made = await retention(store, Options(rules=[Rule("*", "*", 10)]), Pushed("hub", again))
    await made.once()
    assert len(bodies(store.path)) == 5
    gate.set()
    await running
    assert await everything_of(hub) == 5
