"""What needs attention: each thing alone, and their order."""

from __future__ import annotations

from typing import Any

import pytest

from agent.attention import attention

MIB = 2**20

JOB: dict[str, Any] = {"state": "live", "last_error": None, "failures": []}
LARGE = {"id": "big", "rev": "1-a", "error": "too_large", "reason": "413"}
DEVICE: dict[str, Any] = {
    "name": "greenhouse",
    "port": "/dev/ttyUSB0",
    "state": "open",
    "last_error": None,
    "missing_since_start": 0,
    "sensors": [{"name": "t", "last_value": 20, "alarms": []}],
}
HEALTHY: dict[str, Any] = {
    "data": "/var/lib/edge-agent",
    "restarts": {},
    "system": {"disk_free": 20_000 * MIB, "disk_total": 30_000 * MIB},
    "database": {"conflicts": 0},
    "devices": [DEVICE],
    "remotes": [{"name": "cloud", "push": JOB, "pull": JOB}],
    "telemetry": [{"name": "ha", "last_error": None}],
    "clock": {"state": "sure"},
    "hooks": [{"name": "mail", "dead": 0, "last_error": None}],
    "mqtt": {"broker": "mqtt://b", "last_error": None},
    "gateways": [{"name": "g1", "status": "online", "since": "2026-03-01T00:00:00Z"}],
    "conflicts": {"present": 0, "policies": {"winner": {"resolved": 5, "failed": 0}}},
}


def told(**other: Any) -> list[tuple[str, str]]:
    found = attention({**HEALTHY, **other})
    assert all(each["do"] for each in found)
    return [(each["level"], each["what"]) for each in found]


def test_where_all_is_well_there_is_nothing() -> None:
    assert told() == []
    assert attention({}) == []


def job(**members: Any) -> dict[str, Any]:
    return {"remotes": [{"name": "cloud", "push": {**JOB, **members}, "pull": JOB}]}


GONE: dict[str, Any] = {"database": "a", "file": "a.damaged", "salvaged": None}


def device(**members: Any) -> dict[str, Any]:
    return {"devices": [{**DEVICE, **members}]}


def salvaged(*, before: int) -> dict[str, Any]:
    return {
        "damaged": [
            {
                "database": "edge",
                "file": "edge.damaged",
                "reason": None,
                "salvaged": {
                    "time": "2026",
                    "reason": "malformed",
                    "documents": 5,
                    "before": before,
                },
            }
        ]
    }


def disk(free: int, total: int) -> dict[str, Any]:
    return {"system": {"disk_free": free * MIB, "disk_total": total * MIB}}


def verified(**members: Any) -> dict[str, Any]:
    last = {"time": "2026", "different": 0, "error": None, **members}
    return {"remotes": [{"name": "cloud", "push": JOB, "verified": last}]}


def away(number: int) -> dict[str, Any]:
    names = [f"g{each}" for each in range(1, number + 1)]
    return {"gateways": [{"name": name, "status": "offline", "since": "2026"} for name in names]}


ALARM = [{"name": "t", "last_value": 99, "alarms": ["hot"]}]


@pytest.mark.parametrize(
    ("status", "level", "words"),
    [
        (disk(300, 30_000), "warning", "300 MiB left, 1 %"),
        (disk(50, 30_000), "error", "50 MiB left"),
        (disk(50, 200), None, ""),
        (disk(15, 200), "warning", "15 MiB left, 8 %"),
        (disk(3, 200), "error", "3 MiB left, 2 %"),
        ({"system": {"disk_free": None, "disk_total": None}}, None, ""),
        (job(state="failed", last_error="wrong password"), "error", "wrong password"),
        (job(state="waiting", last_error="no route"), "warning", "Remote cloud, push: nothing"),
        (job(state="waiting for its budget"), "warning", "bytes of today"),
        (job(failures=[LARGE]), "error", "1 document could not be carried, the latest big (413)."),
        (job(failures=[LARGE, LARGE]), "error", "2 documents could"),
        (verified(), None, ""),
        (verified(different=1), "error", "cloud: 1 document differs from those there, as of 2026"),
        (verified(different=2), "error", "2 documents differ from"),
        (verified(error="no route"), "warning", "cloud could not be verified: no route."),
        (device(state="waiting", last_error="permission denied"), "error", "permission denied"),
        (device(state="waiting"), "error", "Device greenhouse is not heard"),
        (device(last_error="the disk is full"), "error", "the disk is full"),
        (device(missing_since_start=1200), "warning", "1,200 readings of device greenhouse"),
        (
            device(settings={"refused": {"interval_ms": {"value": 0, "reason": "too short"}}}),
            "warning",
            "refuses the setting interval_ms: too short.",
        ),
        (
            device(settings={"refused": {}, "last_error": "another's"}),
            "warning",
            "Settings of device greenhouse: another's.",
        ),
        (device(sensors=ALARM), "warning", "Alarm hot: greenhouse t is 99"),
        ({"clock": {"state": "unsure"}}, "warning", "No source has told the time"),
        (
            {"clock": {"state": "unsure"}, "retention": {"max_size": None}},
            "warning",
            "none is deleted for its age",
        ),
        ({"restarts": {"recorder x": 2}}, "warning", "recorder x, has failed 2 times"),
        ({"hooks": [{"name": "m", "dead": 3, "last_error": None}]}, "error", "3 documents"),
        ({"hooks": [{"name": "m", "dead": 0, "last_error": "no"}]}, "warning", "Hook m"),
        ({"telemetry": [{"name": "ha", "last_error": "no"}]}, "warning", "Telemetry ha"),
        ({"mqtt": {"broker": "mqtt://b", "last_error": "no"}}, "error", "mqtt://b"),
        (salvaged(before=0), "warning", "damaged on 2026 (malformed); 5 documents could"),
        (salvaged(before=6000), "warning", "(malformed); 5 of 6,000 documents could"),
        (
            {"damaged": [{**GONE, "reason": "it is gone"}]},
            "warning",
            "The database a was damaged: it is gone.",
        ),
        ({"conflicts": {"present": 1, "policies": {}}}, "warning", "1 document;"),
        ({"conflicts": {}, "database": {"conflicts": 2}}, "warning", "2 documents;"),
        ({"conflicts": {"present": 0, "policies": {"p": {"failed": 1}}}}, None, ""),
        ({"conflicts": {"stuck": ["edge"]}}, "error", "not come to an end in edge;"),
        (
            {"gateways": [{"name": "g2", "status": "offline", "since": "2026"}]},
            "warning",
            "Gateway g2 is offline since 2026",
        ),
        (away(2), "warning", "2 gateways are offline: g1 and g2."),
        (away(3), "warning", "3 gateways are offline: g1, g2 and g3."),
        (away(50), "warning", "50 gateways are offline: g1, g2, g3 and 47 more."),
    ],
)
def test_one_thing(status: dict[str, Any], level: str | None, words: str) -> None:
    if level is None:
        assert told(**status) == []
    else:
        [(found, what)] = told(**status)
        assert found == level
        assert words in what


def test_a_policy_that_has_failed_is_told_while_there_are_conflicts() -> None:
    [error, warning] = told(conflicts={"present": 1, "policies": {"p": {"failed": 1}}})
    assert error == ("error", "The conflict policy p has failed 1 time.")
    assert warning[0] == "warning"


def test_both_directions_of_a_remote_are_one_thing() -> None:
    failed = {**JOB, "state": "failed", "last_error": "is the password right?"}
    [(_, what)] = told(remotes=[{"name": "cloud", "push": failed, "pull": failed}])
    assert what == "Remote cloud, push and pull: nothing is replicated. is the password right?"


@pytest.mark.parametrize(
    ("status", "page"),
    [
        (job(state="failed", last_error="x"), None),
        (job(failures=[{**LARGE, "id": "a/b c&d"}]), "documents?id=a%2Fb%20c%26d"),
        ({"remotes": [{"name": "cloud", "pull": {**JOB, "failures": [LARGE]}}]}, None),
        (device(state="waiting"), None),
        (device(settings={"refused": {"i": {"reason": "no"}}}), "sensors?device=greenhouse"),
        (device(settings={"refused": {}, "last_error": "no"}), "sensors?device=greenhouse"),
        (device(sensors=ALARM), "sensors?device=greenhouse&sensor=t"),
        ({"conflicts": {"present": 1}}, "conflicts"),
        ({"gateways": [{"name": "g", "status": "offline", "since": "2026"}]}, "gateways"),
    ],
)
def test_where_one_can_act(status: dict[str, Any], page: str | None) -> None:
    [found] = attention({**HEALTHY, **status})
    assert found.get("page") == (page and f"/_utils/#/{page}")


def test_errors_come_first() -> None:
    found = told(
        **job(state="failed", last_error="x"), clock={"state": "unsure"}, **disk(300, 30_000)
    )
    assert [level for level, _ in found] == ["error", "warning", "warning"]


def test_retention() -> None:
    kept = {"refusing": None, "last_error": None, "dropped": 4000, "dropped_at": None}
    assert told(retention=kept) == []  # what was dropped before the start is in the status
    assert told(retention={**kept, "refusing": "the database is full"}) == [
        ("error", "Nothing is recorded: the database is full.")
    ]
    assert told(retention={**kept, "dropped_at": "2026-03-01T00:00:00Z"}) == [
        (
            "warning",
            "4,000 readings had to be dropped unconfirmed, the last at 2026-03-01T00:00:00Z.",
        )
    ]
    assert told(retention={**kept, "last_error": "the disk is full"}) == [
        ("warning", "Retention: the disk is full.")
    ]
