"""`_sensors` and `_series`, as JSON and as CSV."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from agent.documents.revision import canonical, first_revision
from agent.server import readings
from agent.server.call import DatabaseCall
from tests.patience import PATIENCE
from tests.server.accounts import auth, guarded
from tests.server.api import Api

JSON = {"Content-Type": "application/json"}
START = 1_772_323_200_000  # 2026-03-01T00:00:00Z


def reading(second: int, value: Any, **members: Any) -> tuple[str, dict[str, Any]]:
    at = f"2026-03-01T00:{second // 60:02}:{second % 60:02}.250000Z"
    body = {"type": "reading", "device": "d", "sensor": "t", "time": at, "value": value, **members}
    return f"{body['device']}:{body['sensor']}:{at}:0", body


async def store(api: Api, *readings: tuple[str, dict[str, Any]]) -> None:
    database = await api.databases.get("db")
    await database.graft([first_revision(id, body) for id, body in readings])


async def test_sensors(api: Api) -> None:
    assert (await api.get("/db/_sensors")).json == {"sensors": []}
    await store(api, reading(1, 20.5, unit="C"), reading(2, 21.5, unit="C", quality="bad"))
    assert (await api.get("/db/_sensors")).json == {
        "sensors": [
            {
                "device": "d",
                "sensor": "t",
                "unit": "C",
                "last_time": "2026-03-01T00:00:02.250000Z",
                "last_value": 21.5,
                "quality": "bad",
            }
        ]
    }


async def test_series(api: Api) -> None:
    await store(api, *(reading(second, second, unit="C") for second in range(100)))
    path = (
        "/db/_series?device=d&sensor=t&start=2026-03-01T00:00:10Z&end=2026-03-01T01:00:12%2B01:00"
    )
    assert (await api.get(path)).json == {
        "device": "d",
        "sensor": "t",
        "unit": "C",
        "start": "2026-03-01T00:00:10.000000Z",
        "end": "2026-03-01T00:00:12.000000Z",
        "bucket_ms": 0,
        "sampled": False,
        "columns": {
            "time": [START + 10_250, START + 11_250],
            "min": [10, 11],
            "max": [10, 11],
            "mean": [10.0, 11.0],
            "count": [1, 1],
            "flags": [0, 0],
        },
        "gaps": [],
    }
    whole = (await api.get("/db/_series?device=d&sensor=t&points=2")).json
    assert whole["bucket_ms"] == 49_501
    assert whole["columns"]["count"] == [50, 50]
    assert whole["columns"]["mean"] == [24.5, 74.5]


async def test_a_sensor_that_is_not_there(api: Api) -> None:
    answer = await api.get("/db/_series?device=d&sensor=nobody")
    assert answer.status == 200
    assert answer.json["columns"]["time"] == []
    assert answer.json["unit"] is None


@pytest.mark.parametrize(
    "query",
    [
        "sensor=t",
        "device=d",
        "device=d&sensor=",
        "device=d&sensor=t&start=yesterday",
        "device=d&sensor=t&start=2026-03-01",
        "device=d&sensor=t&start=2026-03-01T00:00:00",
        "device=d&sensor=t&start=1960-03-01T00:00:00Z",
        "device=d&sensor=t&end=9999-12-31T23:59:59Z",
        "device=d&sensor=t&start=2026-03-01T00:00:00Z&end=2026-03-01T00:00:00Z",
        "device=d&sensor=t&points=1",
        "device=d&sensor=t&points=5001",
        "device=d&sensor=t&points=x",
        "device=d&sensor=t&points=-5",
        "device=d&sensor=t&format=xml",
        "device=%ff&sensor=t%00&start=%ed%a0%80",
    ],
)
async def test_bad_queries(api: Api, query: str) -> None:
    answer = await api.get(f"/db/_series?{query}")
    assert answer.error[:2] == (400, "query_parse_error")


async def test_strange_names(api: Api) -> None:
    await store(api, reading(1, 5, sensor="ö:%_*'\"\\"))
    [sensor] = (await api.get("/db/_sensors")).json["sensors"]
    assert sensor["sensor"] == "ö:%_*'\"\\"
    path = "/db/_series?device=d&sensor=%C3%B6:%25_*%27%22%5C"
    assert (await api.get(path)).json["columns"]["min"] == [5]
    answer = await api.get(f"{path}&format=csv")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="d-___.csv"'


@pytest.mark.parametrize(
    ("kind", "at", "rest"),
    [
        ("reading", "2026-03-01", {"value": 10**400}),
        ("reading", "9999-12-31", {"value": 1}),
        ("reading", "0001-01-01", {"value": 1}),
        ("readings", "2026-03-01", {"columns": {"time": [0, 10**18], "value": [1, 2]}}),
        ("readings", "2026-03-01", {"columns": {"time": [-(10**18), 0], "value": [1, 2]}}),
        ("readings", "2026-03-01", {"columns": {"time": [0, 10**400], "value": [1, 2]}}),
    ],
)
async def test_what_no_device_can_have_told_does_not_hide_the_others(
    api: Api, kind: str, at: str, rest: dict[str, Any]
) -> None:
    """Whoever may write documents may write such ones, too."""
    time = f"{at}T00:00:59.000000Z"
    body = {"type": kind, "device": "d", "sensor": "t", "time": time, **rest}
    document = {"_id": f"d:t:{time}:0", **body}
    # Not msgspec's encoder, which has no such integers.
    told = await api.request("POST", "/db", data=json.dumps(document), headers=JSON)
    assert told.status == 201
    await store(api, reading(1, 20.5), reading(2, 21.5))
    [sensor] = (await api.get("/db/_sensors")).json["sensors"]
    assert sensor["last_value"] == 21.5
    path = "/db/_series?device=d&sensor=t"
    for points in (2, 600):
        columns = (await api.get(f"{path}&points={points}")).json["columns"]
        assert (columns["min"], columns["max"]) == ([20.5, 21.5], [20.5, 21.5])
    lines = (await api.get(f"{path}&format=csv")).text.splitlines()
    assert len(lines) == 3


async def test_csv(api: Api) -> None:
    await store(
        api,
        reading(0, -1.5, unit="C"),
        reading(1, True, quality="out-of-range"),
        reading(2, 'say "hi", then\r\ngo'),
        reading(3, 10**15),
    )
    answer = await api.get("/db/_series?device=d&sensor=t", headers={"Accept": "text/csv"})
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8; header=present"
    assert answer.text.startswith("time,device,sensor,value,unit,quality\r\n")
    assert list(csv.reader(io.StringIO(answer.text, newline="")))[1:] == [
        ["2026-03-01T00:00:00.250000Z", "d", "t", "-1.5", "C", ""],
        ["2026-03-01T00:00:01.250000Z", "d", "t", "true", "", "out-of-range"],
        ["2026-03-01T00:00:02.250000Z", "d", "t", 'say "hi", then\r\ngo', "", ""],
        ["2026-03-01T00:00:03.250000Z", "d", "t", "1000000000000000", "", ""],
    ]
    some = "/db/_series?device=d&sensor=t&format=csv&start=2026-03-01T00:00:03Z"
    assert (await api.get(some)).text.count("\r\n") == 2


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1"])
async def test_a_text_in_csv_is_no_formula(api: Api, text: str) -> None:
    await store(api, reading(0, text, unit=text, quality=text))
    answer = await api.get("/db/_series?device=d&sensor=t&format=csv")
    [_, row] = csv.reader(io.StringIO(answer.text, newline=""))
    assert row[3:] == [f"'{text}"] * 3


async def test_csv_of_windows_and_of_corrected_times(api: Api) -> None:
    """Each reading once, whether its window is finished or open, and with its own time."""
    columns = {"time": [0, 500_000], "value": [1, 2]}
    start = "2026-03-01T00:00:01.000000Z"
    body = {"type": "readings", "device": "d", "sensor": "t", "time": start, "unit": "C"}
    open_body = {**body, "time": "2026-03-01T00:10:00.000000Z", "columns": columns}
    wrong, wrong_body = reading(30, 5)
    right = {**wrong_body, "time": "2026-03-01T00:05:00.000000Z", "clock": "corrected"}
    await store(api, (f"d:t:{start}:0", {**body, "columns": columns}), (wrong, right))
    database = await api.databases.get("db")
    text = canonical(open_body).decode()
    await database.write(lambda transaction: transaction.parts.append("d", "d:t:open:0", text))

    async def told(ends: str = "") -> list[str]:
        answer = await api.get(f"/db/_series?device=d&sensor=t&format=csv{ends}")
        return [line[11:23] + line.split(",")[3] for line in answer.text.splitlines()[1:]]

    whole = ["00:00:01.0001", "00:00:01.5002", "00:05:00.0005", "00:10:00.0001", "00:10:00.5002"]
    assert await told() == whole
    assert await told("&start=2026-03-01T00:04:00Z&end=2026-03-01T00:06:00Z") == whole[2:3]
    assert await told("&start=2026-03-01T00:00:01.2Z&end=2026-03-01T00:10:00.1Z") == whole[1:4]


async def test_csv_of_many(api: Api) -> None:
    """More than a page."""
    await store(api, *(reading(second, second) for second in range(3000)))
    answer = await api.get("/db/_series?device=d&sensor=t&format=csv")
    rows = list(csv.reader(io.StringIO(answer.text, newline="")))[1:]
    assert [row[3] for row in rows] == [str(second) for second in range(3000)]


async def test_it_ends_when_the_client_goes(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, ended = threading.Event(), asyncio.Event()
    check = readings._check_client

    def checked(call: DatabaseCall) -> None:
        try:
            check(call)
        except ConnectionError:
            ended.set()
            raise

    def endless(*_: Any) -> Any:
        while True:
            yield
            begun.set()

    monkeypatch.setattr(readings, "_check_client", checked)
    monkeypatch.setattr(readings, "read_series", endless)
    asking = asyncio.create_task(api.get("/db/_series?device=d&sensor=t&points=10"))
    await asyncio.to_thread(begun.wait)
    assert not ended.is_set()
    asking.cancel()
    await asyncio.wait_for(ended.wait(), PATIENCE)


async def test_it_is_for_members(tmp_path: Path) -> None:
    async with guarded(tmp_path) as api:
        for path in ("_sensors", "_series?device=d&sensor=t"):
            assert (await api.get(f"/db/{path}", **auth("mia"))).status == 200
            assert (await api.get(f"/db/{path}", **auth("otto"))).status == 403
            assert (await api.get(f"/db/{path}", **auth(None))).status == 401
