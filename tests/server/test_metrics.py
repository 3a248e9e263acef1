"""`_metrics`, read by Prometheus' own client, and who may see it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from agent.attention import attention
from agent.runtime import Agent
from agent.server import metrics
from agent.server.metrics import METRICS, exposition
from tests.server.accounts import auth, quick_access, secure
from tests.server.api import running

DOCS = Path(__file__).resolve().parents[2] / "docs"
DASHBOARD = DOCS / "grafana" / "edge-agent.json"

STATUS: dict[str, Any] = {
    "version": "1.2.3",
    "started": "2026-03-01T00:00:00.000Z",
    "restarts": {"recorder x": 2},
    "attention": [{"level": "error", "what": "a", "do": "b"}],
    "system": dict.fromkeys(
        (
            "cpu_seconds",
            "memory_rss",
            "memory_virtual",
            "open_files",
            "most_files",
            "bytes_written",
            "disk_free",
            "disk_total",
            "load",
        ),
        5,
    ),
}

HOOK: dict[str, Any] = {
    **dict.fromkeys(("processed", "failed", "pending", "dead"), 0),
    "last_error": None,
}
COUNTS = dict.fromkeys(("doc_count", "doc_del_count", "file_size", "update_seq", "conflicts"), 1)


def sensor(name: str, value: Any = 20.5) -> dict[str, Any]:
    return {
        "name": name,
        "readings": 7,
        "suppressed": 1,
        "gaps": 2,
        "errors": 3,
        "last_value": value,
        "last_time": "2026-03-01T00:00:10.500000Z",
        "alarms": ["hot"],
    }


def device(*sensors: dict[str, Any]) -> dict[str, Any]:
    counts = dict.fromkeys(("bytes_received", "errors", "gaps", "missing", "restarts"), 3)
    return {"name": "d", "state": "open", **counts, "sensors": list(sensors)}


def values(status: dict[str, Any]) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """As Prometheus' client reads the exposition."""
    read = {}
    for family in text_string_to_metric_families(exposition(status)):
        for sample in family.samples:
            key = (sample.name, frozenset(sample.labels.items()))
            assert key not in read
            read[key] = sample.value
    return read


def of(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def test_values() -> None:
    read = values({**STATUS, "devices": [device(sensor("t"), sensor("text", "on"))]})
    assert read[of("edge_agent_info", version="1.2.3")] == 1
    assert read[of("edge_agent_attention", level="error")] == 1
    assert read[of("edge_agent_attention", level="warning")] == 0
    assert read[of("edge_agent_task_restarts_total")] == 2
    assert read[of("process_start_time_seconds")] == 1772323200
    labels = {"device": "d", "sensor": "t"}
    assert read[of("edge_agent_sensor_value", **labels)] == 20.5
    assert read[of("edge_agent_sensor_readings_total", **labels)] == 7
    assert read[of("edge_agent_sensor_last_reading_timestamp_seconds", **labels)] == 1772323210.5
    assert read[of("edge_agent_sensor_gaps_total", **labels)] == 2
    assert read[of("edge_agent_sensor_errors_total", **labels)] == 3
    assert of("edge_agent_sensor_value", device="d", sensor="text") not in read
    assert read[of("edge_agent_device_up", device="d")] == 1


def test_conflicts() -> None:
    policies = {"newest": {"resolved": 3, "undecided": 1, "failed": 0}}
    read = values({**STATUS, "conflicts": {"present": 4, "policies": policies}})
    assert read[of("edge_agent_conflicts")] == 4
    assert read[of("edge_agent_conflicts_resolved_total", policy="newest")] == 3
    assert read[of("edge_agent_conflicts_undecided_total", policy="newest")] == 1
    assert read[of("edge_agent_conflicts_failed_total", policy="newest")] == 0


def test_verification() -> None:
    at, labels = "2026-03-01T00:00:00.000Z", {"remote": "cloud"}
    last = {"time": at, "different": 3, "error": None}
    read = values({**STATUS, "remotes": [{"name": "cloud", "verified": last}]})
    assert read[of("edge_agent_remote_different_documents", **labels)] == 3
    assert read[of("edge_agent_remote_verified_timestamp_seconds", **labels)] == 1772323200
    never = {**last, "time": None, "different": 0}
    for verified in (None, never):
        told = exposition({**STATUS, "remotes": [{"name": "cloud", "verified": verified}]})
        assert "verified" not in told
        assert "different" not in told


def test_what_is_not_known_is_left_out() -> None:
    told = exposition({**STATUS, "system": {**STATUS["system"], "memory_rss": None}})
    assert "process_resident_memory_bytes" not in told
    assert "None" not in told


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "ö{}=,", "\\n", " "])
def test_names_of_all_kinds(name: str) -> None:
    read = values({**STATUS, "devices": [device(sensor(name))]})
    assert read[of("edge_agent_sensor_value", device="d", sensor=name)] == 20.5


def test_large_counters_are_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    system = {**STATUS["system"], "bytes_written": 123_456_789_012_345}
    read = values({**STATUS, "system": system})
    assert read[of("edge_agent_written_bytes_total")] == 123_456_789_012_345


def test_sensors_are_bounded() -> None:
    read = values({**STATUS, "devices": [device(*(sensor(f"s{n}") for n in range(250)))]})
    assert sum(name == "edge_agent_sensor_value" for name, _ in read) == metrics.MOST_SENSORS
    assert read[of("edge_agent_sensors_left_out")] == 50


@pytest.mark.parametrize("name", METRICS)
def test_names_are_conventional(name: str) -> None:
    kind, text = METRICS[name]
    assert re.fullmatch(r"(edge_agent|process)(_[a-z0-9]+)+", name)
    assert (kind == "counter") == name.endswith("_total")
    assert "\n" not in text
    assert text.endswith(".")
    for unit in ("milliseconds", "kb", "mib", "ms", "minutes"):
        assert unit not in name.split("_")


def test_every_sample_has_a_type() -> None:
    """Of all that `_samples` can give, as far as its source names it."""
    source = Path(metrics.__file__).read_text()
    named = set(re.findall(r'yield "((?:edge_agent|process)_[a-z0-9_]+)"', source))
    assert named <= set(METRICS)
    assert len(named) > 40


def test_the_dashboard_uses_metrics_that_exist() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    expressions = [
        target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())
    ] + [variable["query"] for variable in dashboard["templating"]["list"] if "query" in variable]
    used = set(re.findall(r"\b(?:edge_agent|process)_[a-z0-9_]+", " ".join(expressions)))
    assert len(used) > 15
    assert used <= set(METRICS)
    legends = [
        target["legendFormat"]
        for panel in dashboard["panels"]
        for target in panel.get("targets", ())
    ]
    labels = set(re.findall(r"{{(\w+)}}", " ".join(legends)))
    labels |= set(re.findall(r"(\w+)=~?\"", " ".join(expressions)))
    assert labels == {
        "instance",
        "remote",
        "direction",
        "device",
        "sensor",
        "policy",
        "hook",
        "level",
    }
    assert all("{{instance}}" in legend for legend in legends if legend)  # there may be several
    for expression in expressions:
        for counter in re.findall(r"\b(?:edge_agent|process)_[a-z0-9_]+_total\b", expression):
            assert re.search(rf"(rate|increase)\({counter}", expression), expression


def test_the_page_names_metrics_that_exist() -> None:
    page = (DOCS / "monitoring.md").read_text()
    named = set(re.findall(r"\b(?:edge_agent|process)_[a-z0-9_]+", page))
    assert len(named) > 4
    assert named - {"process_"} <= set(METRICS)


async def test_who_may_see_it(tmp_path: Path) -> None:
    async def status() -> dict[str, Any]:
        return {**STATUS, "database": {"name": "db", **COUNTS}}

    async with running(tmp_path, access=quick_access(), status=status) as api:
        assert (await api.put("/db", **auth("anna"))).status == 201
        await secure(api, "db", {"members": {"names": ["mia"]}})
        for path in ("/_metrics", "/_status"):
            assert (await api.get(path, **auth("anna"))).status == 200
            assert (await api.get(path, **auth("mia"))).status == 200
            assert (await api.get(path, **auth("otto"))).status == 403
            assert (await api.get(path, **auth(None))).status == 401
        answer = await api.get("/_metrics", **auth("mia"))
        assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
        assert list(text_string_to_metric_families(answer.text))


async def test_the_names_of_other_databases_are_for_administrators(tmp_path: Path) -> None:
    gone = {"file": "x", "reason": None, "salvaged": None}
    damaged = [{**gone, "database": name} for name in ("db", "secret")]
    hooks = [{**HOOK, "name": f"of {name}", "database": name} for name in ("db", "secret")]

    async def status() -> dict[str, Any]:
        conflicts = {
            "present": 2,
            "databases": {"secret": 2},
            "policies": {},
            "stuck": ["secret"],
        }
        told = {**STATUS, "conflicts": conflicts, "damaged": damaged, "hooks": hooks}
        told["database"] = {"name": "db", **COUNTS}
        told["restarts"] = {"conflicts of secret": 1}
        return {**told, "attention": attention(told)}

    async with running(tmp_path, access=quick_access(), status=status) as api:
        assert (await api.put("/db", **auth("anna"))).status == 201
        await secure(api, "db", {"members": {"names": ["mia"]}})
        assert (await api.get("/_status", **auth("anna"))).text.count('"secret"') == 6
        answer = await api.get("/_status", **auth("mia"))
        told = answer.json
        assert told["conflicts"] == {"present": 2, "policies": {}}
        assert told["damaged"] == damaged[:1]
        assert [each["what"] for each in told["attention"] if "damaged" in each["what"]] == [
            "The database db was damaged."
        ]
        assert [(each["name"], each["database"]) for each in told["hooks"]] == [
            ("of db", "db"),
            ("of secret", None),
        ]
        assert told["restarts"] == {}
        assert answer.text.count("secret") == 1  # in the name of a hook, which somebody has chosen
        # How much needs attention is no secret: who is to be told by Prometheus is told of all.
        metrics = (await api.get("/_metrics", **auth("mia"))).text
        assert 'edge_agent_attention{level="warning"} 4' in metrics


async def test_a_hub(tmp_path: Path) -> None:
    from agent.config import ServerConfig

    agent = Agent(tmp_path, ServerConfig())
    read = values(await agent.status())
    assert read[of("process_resident_memory_bytes")] > 2**20
    assert read[of("edge_agent_disk_free_bytes")] > 0
