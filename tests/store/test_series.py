"""Series of readings, compared with what one reads of the same documents by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.documents.revision import Revision, canonical, first_revision
from agent.documents.times import microseconds, timestamp
from agent.sensors.packing import Row, Window, shared
from agent.store import series as module
from agent.store.reading_range import Sensor, Steps, Work, _apart
from agent.store.sensors import KnownSensor, sensors
from agent.store.series import Series, series
from agent.store.store import Store
from tests.store.helpers import edit, put

BASE = microseconds("2026-03-01T00:00:00Z")
SECOND = 1_000_000


async def done(store: Store, work: Work[Any]) -> Any:
    steps = Steps(work)
    while not await store.query(steps.step):
        pass
    return steps.result


async def read(
    store: Store, start: float | None, end: float | None, points: int = 600, sensor: str = "t"
) -> Series:
    """Of the device `d`; times are in seconds from BASE on."""
    bounds = [None if at is None else BASE + round(at * SECOND) for at in (start, end)]
    made: Series = await done(store, series(Sensor("d", sensor), *bounds, points))
    return made


def id_of(seconds: float, sensor: str = "t", number: int = 0) -> str:
    return f"d:{sensor}:{timestamp(BASE + round(seconds * SECOND))}:{number:010d}"


def body_of(seconds: float, value: Any, sensor: str = "t", **members: Any) -> dict[str, Any]:
    at = timestamp(BASE + round(seconds * SECOND))
    return {
        "type": "reading",
        "device": "d",
        "sensor": sensor,
        "time": at,
        "value": value,
        **members,
    }


def single(seconds: float, value: Any, sensor: str = "t", **members: Any) -> Revision:
    return first_revision(id_of(seconds, sensor), body_of(seconds, value, sensor, **members))


def window(at: list[float], values: list[Any], quality: str | None = None) -> Window:
    rows = tuple(
        Row(BASE + round(seconds * SECOND), value)
        for seconds, value in zip(at, values, strict=True)
    )
    common = shared("d", "t", "C", quality, None, rows[0])
    return Window(id_of(at[0]), common, rows)


async def correct(store: Store, recorded: float, true: float, value: Any) -> None:
    """A reading whose time became known later."""
    rev = await put(store, id_of(recorded), **body_of(recorded, value, clock="unset"))
    await put(store, id_of(recorded), rev, **body_of(true, value, clock="corrected"))


def times(made: Series) -> list[float]:
    """In seconds from BASE on."""
    return [(at - BASE // 1000) / 1000 for at in made.columns()["time"]]


async def test_few_readings_are_points(store: Store) -> None:
    await store.graft([single(second, 20 + second, unit="C") for second in range(10)])
    made = await read(store, 2, 6)
    assert (made.width, made.sampled, made.unit) == (0, False, "C")
    assert times(made) == [2, 3, 4, 5]
    columns = made.columns()
    assert columns["min"] == columns["max"] == columns["mean"] == [22, 23, 24, 25]
    assert (columns["count"], columns["flags"]) == ([1] * 4, [0] * 4)


async def test_without_ends_it_is_everything(store: Store) -> None:
    await store.graft([single(second, second) for second in (3, 5, 9)])
    made = await read(store, None, None)
    assert times(made) == [3, 5, 9]
    assert made.range.start == BASE + 3 * SECOND
    assert times(await read(store, 4, None)) == [5, 9]
    assert times(await read(store, None, 9)) == [3, 5]


async def test_nothing(store: Store) -> None:
    assert (await read(store, None, None)).points == []
    await store.graft([single(1, 1)])
    assert (await read(store, 2, 9)).points == []
    assert (await read(store, 5, None)).points == []


async def test_buckets_have_the_extremes(store: Store) -> None:
    values = [math.sin(second / 50) for second in range(1000)]
    values[777] = 99
    await store.graft([single(second, value) for second, value in enumerate(values)])
    made = await read(store, 0, 1000, points=10)
    columns = made.columns()
    assert (made.width, made.sampled) == (100 * SECOND, False)
    assert times(made) == [100 * number for number in range(10)]
    for number in range(10):
        part = values[100 * number : 100 * number + 100]
        assert columns["min"][number] == min(part)
        assert columns["max"][number] == max(part)
        assert columns["mean"][number] == pytest.approx(sum(part) / 100)
    assert columns["count"] == [100] * 10


async def test_what_is_no_number_is_counted(store: Store) -> None:
    await store.graft([single(second, "open") for second in range(100)])
    await store.graft([single(100 + second, second % 2 == 0) for second in range(100)])
    columns = (await read(store, 0, 200, points=2)).columns()
    assert columns["count"] == [100, 100]
    assert (columns["min"], columns["max"]) == ([None, 0], [None, 1])
    assert columns["mean"] == [None, 0.5]
    raw = (await read(store, 99, 101)).columns()
    assert (raw["mean"], raw["count"]) == ([None, 1], [1, 1])


async def test_flags(store: Store) -> None:
    await store.graft(
        [
            *(single(second, 1) for second in range(100)),
            *(single(100 + second, 1, quality="good") for second in range(100)),
            *(single(200 + second, 1, quality="out-of-range") for second in range(100)),
            *(single(300 + second, 1, clock="unset") for second in range(100)),
        ]
    )
    assert (await read(store, 0, 400, points=4)).columns()["flags"] == [0, 0, 1, 4]
    assert (await read(store, 199, 201)).columns()["flags"] == [0, 1]
    assert (await read(store, 350, 351)).columns()["flags"] == [4]


@pytest.mark.parametrize("points", [4, 600])
async def test_other_documents_are_no_readings(store: Store, points: int) -> None:
    await store.graft([single(second, 1) for second in range(20)])
    other = body_of(5, 77)
    await store.graft(
        [
            first_revision(id_of(5, number=1), {**other, "type": "note"}),
            first_revision(id_of(5, number=2), {"value": 77}),
            first_revision(id_of(5, number=3), {**other, "sensor": "elsewhere"} | {"type": "x"}),
            first_revision(id_of(5, number=4), {"type": "readings", "device": "d"}),
        ]
    )
    [gone] = await store.edit([edit(id_of(7, number=5), **body_of(7, 77))])
    await store.edit([edit(id_of(7, number=5), gone, _deleted=True)])
    made = await read(store, 0, 20, points)
    assert sum(made.columns()["count"]) == 20
    assert max(made.columns()["max"]) == 1


async def test_names_with_colons(store: Store) -> None:
    await store.graft([single(second, 1, "a") for second in range(5)])
    await store.graft([single(second, 2, "a:b") for second in range(7)])
    assert len((await read(store, None, None, sensor="a")).points) == 5
    assert len((await read(store, None, None, sensor="a:b")).points) == 7


@pytest.mark.parametrize("points", [5, 600])
async def test_windows(store: Store, points: int) -> None:
    early = window([0.5 * n for n in range(100)], list(range(100)))
    late = window([50 + 0.5 * n for n in range(100)], [1000 + n for n in range(100)], "bad")
    await store.graft([early.document(), late.document()])
    made = await read(store, 25, 75, points)
    columns = made.columns()
    assert sum(columns["count"]) == 100
    assert (min(columns["min"]), max(columns["max"])) == (50, 1049)
    assert times(made)[0] == 25
    assert columns["flags"][0] == 0
    assert columns["flags"][-1] == 1
    if points == 5:
        assert columns["count"] == [20] * 5
        assert columns["max"] == [69, 89, 1009, 1029, 1049]


@pytest.mark.parametrize("points", [3, 600])
async def test_windows_that_are_not_finished(store: Store, points: int) -> None:
    closed = window([0, 1, 2], [1, 2, 3]).document()
    open_window = window([10, 12, 11], [5, 7, 6])
    await store.graft([closed])

    def append(transaction: Any) -> None:
        body = open_window.body(open_window.rows)
        transaction.parts.append("d", open_window.id, canonical(body).decode())

    await store.write(append)
    made = await read(store, None, None, points)
    assert sum(made.columns()["count"]) == 6
    assert made.columns()["max"][-1] == 7
    if points == 600:
        assert made.columns()["mean"] == [1, 2, 3, 5, 6, 7]


@pytest.mark.parametrize("points", [10, 600])
async def test_corrected_times_count_wherever_the_id_is(store: Store, points: int) -> None:
    """The gateway was off from 100 on, and began at 10000, taking it for 101."""
    await store.graft([single(second, 1) for second in range(100)])
    for second in range(101, 300):
        await correct(store, second, 10_000 + second, 2)
    await store.graft([single(second, 3) for second in range(10_301, 10_400)])
    before = (await read(store, 0, 1000, points)).columns()
    assert (sum(before["count"]), max(before["max"])) == (100, 1)
    after = (await read(store, 10_000, 11_000, points)).columns()
    assert sum(after["count"]) == 298
    assert {2, 3} == set(after["min"]) | set(after["max"])
    assert after["flags"][0] == 2
    assert after["flags"][-1] == 0
    some = (await read(store, 10_150, 10_160, points)).columns()
    assert sum(some["count"]) == 10
    assert set(some["max"]) == {2}


async def test_a_clock_that_was_ahead(store: Store) -> None:
    for second in range(20):
        await correct(store, 5000 + second, 100 + second, 2)
    await store.graft([single(6000 + second, 3) for second in range(10)])
    assert len((await read(store, 100, 110)).points) == 10
    assert len((await read(store, 5000, 5100)).points) == 0


async def test_a_clock_that_was_set_back(store: Store) -> None:
    """Ids went on from where they were, a thousand seconds ahead of the times."""
    await store.graft([single(second, 1) for second in range(1100, 1200)])
    await store.graft(
        [first_revision(id_of(1200 + second), body_of(200 + second, 2)) for second in range(300)]
    )
    for points in (600, 30):
        made = (await read(store, 250, 350, points)).columns()
        assert (sum(made["count"]), min(made["min"])) == (100, 2)
        assert sum((await read(store, 1250, 1300, points)).columns()["count"]) == 0
        assert sum((await read(store, 1150, 1300, points)).columns()["count"]) == 50


async def test_of_very_many_that_were_corrected_some_are_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXACT_DOCUMENTS", 300)
    bodies = [body_of(50_000 + second, second % 5, clock="corrected") for second in range(1000)]
    await store.graft(
        [first_revision(id_of(1200 + second), body) for second, body in enumerate(bodies)]
    )
    made = await read(store, 50_100, 50_900, 20)
    assert made.sampled
    assert len(made.points) == 20
    assert set(made.columns()["max"]) == {4}
    assert set(made.columns()["flags"]) == {2}


@given(
    st.tuples(st.integers(0, 20), st.integers(0, 20)).filter(lambda pair: pair[0] < pair[1]),
    st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=3),
)
def test_ranges_apart(one: tuple[int, int], others: list[tuple[int, int]]) -> None:
    made = _apart(one, others)
    assert one in made
    assert made == sorted(made)
    covered = [at for begin, stop in made for at in range(begin, stop)]
    assert len(covered) == len(set(covered))
    assert set(covered) == {at for begin, stop in [one, *others] for at in range(begin, stop)}


async def test_gaps(store: Store) -> None:
    await store.graft([single(second, 1) for second in range(100) if not 40 <= second < 60])
    start = BASE // 1000
    for points in (600, 20):
        assert (await read(store, 0, 100, points)).gaps() == [[start + 39_000, start + 60_000]]
    assert (await read(store, 60, 100)).gaps() == []


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(st.tuples(st.integers(0, 5000), st.integers(-50, 50)), max_size=80),
    st.integers(0, 5000),
    st.integers(1, 5000),
    st.integers(2, 40),
)
async def test_nothing_is_lost_in_buckets(
    tmp_path_factory: pytest.TempPathFactory,
    told: list[tuple[int, int]],
    start: int,
    length: int,
    points: int,
) -> None:
    store = await Store.open(tmp_path_factory.mktemp("series") / "db.sqlite")
    try:
        readings = dict(told)
        await store.graft([single(at / 10, value) for at, value in readings.items()])
        made = await read(store, start / 10, (start + length) / 10, points)
    finally:
        await store.close()
    inside = {at: value for at, value in readings.items() if start <= at < start + length}
    columns = made.columns()
    assert len(columns["time"]) <= points
    assert sum(columns["count"]) == len(inside)
    assert columns["time"] == sorted(columns["time"])
    if inside:
        assert min(columns["min"]) == min(inside.values())
        assert max(columns["max"]) == max(inside.values())
        total = sum(
            mean * count for mean, count in zip(columns["mean"], columns["count"], strict=True)
        )
        assert total == pytest.approx(sum(inside.values()), abs=1e-6)


async def test_of_very_many_some_are_read(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "EXACT_DOCUMENTS", 500)
    await store.graft([single(second, second % 7) for second in range(2000)])
    made = await read(store, 0, 2000, points=10)
    columns = made.columns()
    assert made.sampled
    assert columns["count"] == [200] * 10
    assert columns["min"] == [0] * 10
    assert columns["max"] == [6] * 10
    few = (await read(store, 1990, 2600, points=2)).columns()  # not sampled, and no estimate
    assert few["count"] == [10]
    assert not (await read(store, 0, 400, points=10)).sampled


async def test_of_very_many_windows_some_are_read(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_EXACT_READINGS", 1000)
    await store.graft(
        [
            window([minute * 60 + n for n in range(60)], [minute] * 60).document()
            for minute in range(100)
        ]
    )
    made = await read(store, 0, 6000, points=10)
    assert made.sampled
    assert made.columns()["count"] == [600] * 10


async def test_sensors(store: Store) -> None:
    assert await done(store, sensors(100)) == []
    await store.graft([single(second, second, "a", unit="C") for second in range(200)])
    await store.graft([single(second, "open", "a:b") for second in range(3)])
    await store.graft([window([0, 1, 2], [1, 2, 3], "out-of-range").document()])
    for name in ("_design/x", "note", "alarm:d:a:hot:2026-03-01T00:00:00.000000Z:1", "x:y:z"):
        await put(store, name, type="alarm", value=1)
    await put(store, "d:zz:2026-03-01T00:00:00.000000Z:1", type="note")
    found = await done(store, sensors(100))
    assert found == [
        KnownSensor(Sensor("d", "a"), "C", timestamp(BASE + 199 * SECOND), 199, None),
        KnownSensor(Sensor("d", "a:b"), None, timestamp(BASE + 2 * SECOND), "open", None),
        KnownSensor(Sensor("d", "t"), "C", timestamp(BASE + 2 * SECOND), 3, "out-of-range"),
    ]
    assert len(await done(store, sensors(2))) == 2


async def test_the_queries_search_in_the_index_of_ids(store: Store) -> None:
    def plans(db: Any) -> list[str]:
        bounds = ("d:t:0", "d:t::")
        asked: list[tuple[str, Any]] = [
            (module._SUMMED_UP, (*bounds, -1)),
            (module._OTHERS, (*bounds, -1)),
            (module._ENDS, bounds),
        ]
        return [
            row[3]
            for sql, parameters in asked
            for row in db.execute(f"EXPLAIN QUERY PLAN {sql}", parameters)
            if "docs" in row[3]
        ]

    found = await store.query(plans)
    ids = "docs_1 (id>? AND id<?)"
    assert found == [
        f"SEARCH docs USING INDEX sqlite_autoindex_{ids}",
        f"SEARCH docs USING INDEX sqlite_autoindex_{ids}",
        *[f"SEARCH docs USING COVERING INDEX sqlite_autoindex_{ids}"] * 2,
    ]
