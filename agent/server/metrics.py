"""The status as metrics, in Prometheus' text format.

Names and units are as Prometheus has them: base units, `_total` for counters. Labels are bounded by
the configuration: remotes, directions, devices, hooks and policies; and of sensors, whose names are
what devices say, so many are told singly.

Source: Prometheus documentation, "Exposition formats > Text-based format", "Metric and label
naming", "Writing client libraries > Process metrics".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, TypeAlias

from aiohttp import web

from agent.server.answers import BASIC_HEADERS

MOST_SENSORS = 200

_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPES = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})

Status: TypeAlias = Mapping[str, Any]
_Sample: TypeAlias = tuple[str, dict[str, str], Any]
"""A name, labels, and a value; one that is None is left out."""

# What each metric is called, its type, and what it says.
METRICS: Mapping[str, tuple[str, str]] = {
    "edge_agent_info": ("gauge", "1, with the program's version."),
    "edge_agent_attention": ("gauge", "Things that need attention, by level."),
    "edge_agent_task_restarts_total": ("counter", "Parts of the program that failed."),
    "process_start_time_seconds": ("gauge", "When the process started, since the epoch."),
    "process_cpu_seconds_total": ("counter", "Processor time of the process."),
    "process_resident_memory_bytes": ("gauge", "Memory of the process."),
    "process_virtual_memory_bytes": ("gauge", "Address space of the process."),
    "process_open_fds": ("gauge", "Open files."),
    "process_max_fds": ("gauge", "Files that may be open."),
    "edge_agent_written_bytes_total": ("counter", "Bytes that the process wrote to the disk."),
    "edge_agent_disk_free_bytes": ("gauge", "Free on the disk with the data."),
    "edge_agent_disk_size_bytes": ("gauge", "Size of the disk with the data."),
    "edge_agent_load_average": ("gauge", "The machine's load over a minute."),
    "edge_agent_store_documents": ("gauge", "Documents, deleted ones not counted."),
    "edge_agent_store_deleted_documents": ("gauge", "Deleted documents."),
    "edge_agent_store_size_bytes": ("gauge", "Size of the database's file."),
    "edge_agent_store_sequence": ("gauge", "The sequence of the newest change."),
    "edge_agent_conflicts": ("gauge", "Documents in conflict."),
    "edge_agent_conflicts_resolved_total": ("counter", "Conflicts that a policy resolved."),
    "edge_agent_conflicts_undecided_total": ("counter", "Conflicts that a policy left."),
    "edge_agent_conflicts_failed_total": ("counter", "Failures of a policy."),
    "edge_agent_changes_detected_total": ("counter", "Changes of the database; a hub: of all."),
    "edge_agent_documents_transferred_total": (
        "counter",
        "Revisions that targets have stored; a hub: received.",
    ),
    "edge_agent_changes_confirmed_total": ("counter", "Changes that targets, or a hub, confirmed."),
    "edge_agent_documents_processed_total": ("counter", "Documents that hooks are done with."),
    "edge_agent_replication_up": ("gauge", "1 while a direction of a remote works."),
    "edge_agent_replication_confirmed_total": ("counter", "Changes that the target confirmed."),
    "edge_agent_replication_written_total": ("counter", "Revisions that the target stored."),
    "edge_agent_replication_refused_total": ("counter", "Revisions that could not be carried."),
    "edge_agent_replication_errors_total": ("counter", "Failures of the replication."),
    "edge_agent_replication_pending_changes": ("gauge", "Changes that are not confirmed."),
    "edge_agent_replication_backlog_seconds": ("gauge", "Age of the oldest of these."),
    "edge_agent_replication_drain_seconds": ("gauge", "Until there are none, as things go."),
    "edge_agent_replication_lag_seconds": ("gauge", "Since the target last had everything."),
    "edge_agent_replication_last_confirmed_timestamp_seconds": ("gauge", "Since the epoch."),
    "edge_agent_remote_sent_bytes_total": ("counter", "Bytes sent to a remote."),
    "edge_agent_remote_received_bytes_total": ("counter", "Bytes received from a remote."),
    "edge_agent_remote_different_documents": ("gauge", "Found by the latest verification."),
    "edge_agent_remote_verified_timestamp_seconds": ("gauge", "When that ended, since the epoch."),
    "edge_agent_device_up": ("gauge", "1 while a device's port is open."),
    "edge_agent_device_received_bytes_total": ("counter", "Bytes that came from a device."),
    "edge_agent_device_errors_total": ("counter", "Damaged frames and the like."),
    "edge_agent_device_gaps_total": ("counter", "Gaps in a device's sequence numbers."),
    "edge_agent_device_missing_readings_total": ("counter", "Frames that did not come."),
    "edge_agent_device_restarts_total": ("counter", "Restarts of a device."),
    "edge_agent_sensor_readings_total": ("counter", "Readings of a sensor."),
    "edge_agent_sensor_suppressed_total": ("counter", "Of these, those that told nothing new."),
    "edge_agent_sensor_gaps_total": ("counter", "Missing frames between two readings of a sensor."),
    "edge_agent_sensor_errors_total": ("counter", "Values that a device did not say."),
    "edge_agent_sensor_value": ("gauge", "The newest reading, where it is a number."),
    "edge_agent_sensor_last_reading_timestamp_seconds": ("gauge", "Since the epoch."),
    "edge_agent_sensor_alarms": ("gauge", "Alarms that are raised."),
    "edge_agent_sensors_left_out": ("gauge", f"Sensors beyond the first {MOST_SENSORS}."),
    "edge_agent_retention_used_bytes": ("gauge", "What counts against the budget."),
    "edge_agent_retention_max_bytes": ("gauge", "The budget of the database."),
    "edge_agent_retention_refusing": ("gauge", "1 while nothing is recorded for want of room."),
    "edge_agent_retention_deleted_total": ("counter", "Deleted readings that all remotes have."),
    "edge_agent_retention_dropped_total": ("counter", "Deleted readings that not all have."),
    "edge_agent_telemetry_published_total": ("counter", "Readings that were published."),
    "edge_agent_telemetry_skipped_total": ("counter", "Readings that were not."),
    "edge_agent_hook_processed_total": ("counter", "Documents that a hook is done with."),
    "edge_agent_hook_failures_total": ("counter", "Calls of a hook that failed."),
    "edge_agent_hook_pending_changes": ("gauge", "Changes that a hook has not seen."),
    "edge_agent_hook_dead_documents": ("gauge", "Documents that a hook has given up."),
    "edge_agent_clock_sure": ("gauge", "1 while the time is known for sure."),
    "edge_agent_clock_offset_seconds": ("gauge", "What the system clock lacks."),
    "edge_agent_mqtt_up": ("gauge", "1 while the responder is connected to its broker."),
    "edge_agent_mqtt_calls_total": ("counter", "Calls that the responder answered."),
    "edge_agent_mqtt_refused_total": ("counter", "Calls that it refused."),
    "edge_agent_gateways": ("gauge", "Gateways on the broker, by their status."),
}


def metrics_answer(status: Status) -> web.Response:
    """The answer to `GET /_metrics`."""
    return web.Response(
        body=exposition(status).encode(),
        headers={**BASIC_HEADERS, "Content-Type": _TYPE, "Cache-Control": "no-cache"},
    )


def exposition(status: Status) -> str:
    """A status, as `Agent.status` or `Bridge.status` gives it, in the text format."""
    lines: dict[str, list[str]] = {}
    for name, labels, value in _samples(status):
        if value is not None:
            lines.setdefault(name, []).append(f"{name}{_labels(labels)} {float(value):.15g}")
    parts = []
    for name, (kind, text) in METRICS.items():
        if name in lines:
            parts += [f"# HELP {name} {text}", f"# TYPE {name} {kind}", *lines[name]]
    return "\n".join([*parts, ""])


def _labels(labels: Mapping[str, str]) -> str:
    told = ",".join(f'{name}="{value.translate(_ESCAPES)}"' for name, value in labels.items())
    return f"{{{told}}}" if told else ""


def _samples(status: Status) -> Iterator[_Sample]:
    yield from _program(status)
    yield from _store(status)
    for remote in status.get("remotes", ()):
        yield from _remote(remote)
    yield from _devices(status)
    yield from _retention(status)
    for entry in status.get("telemetry", ()):
        labels = {"telemetry": entry["name"]}
        yield "edge_agent_telemetry_published_total", labels, entry["published"]
        yield "edge_agent_telemetry_skipped_total", labels, entry["skipped"]
    for hook in status.get("hooks", ()):
        labels = {"hook": hook["name"]}
        yield "edge_agent_hook_processed_total", labels, hook["processed"]
        yield "edge_agent_hook_failures_total", labels, hook["failed"]
        yield "edge_agent_hook_pending_changes", labels, hook["pending"]
        yield "edge_agent_hook_dead_documents", labels, hook["dead"]
    clock = status.get("clock")
    if clock is not None:
        yield "edge_agent_clock_sure", {}, clock["state"] == "sure"
        yield "edge_agent_clock_offset_seconds", {}, clock["offset"]
    yield from _broker(status)


def _program(status: Status) -> Iterator[_Sample]:
    yield "edge_agent_info", {"version": status["version"]}, 1
    levels = [finding["level"] for finding in status["attention"]]
    for level in ("error", "warning"):
        yield "edge_agent_attention", {"level": level}, levels.count(level)
    yield "edge_agent_task_restarts_total", {}, sum(status["restarts"].values())
    yield "process_start_time_seconds", {}, _seconds(status["started"])
    system = status["system"]
    yield "process_cpu_seconds_total", {}, system["cpu_seconds"]
    yield "process_resident_memory_bytes", {}, system["memory_rss"]
    yield "process_virtual_memory_bytes", {}, system["memory_virtual"]
    yield "process_open_fds", {}, system["open_files"]
    yield "process_max_fds", {}, system["most_files"]
    yield "edge_agent_written_bytes_total", {}, system["bytes_written"]
    yield "edge_agent_disk_free_bytes", {}, system["disk_free"]
    yield "edge_agent_disk_size_bytes", {}, system["disk_total"]
    yield "edge_agent_load_average", {}, system["load"]


def _store(status: Status) -> Iterator[_Sample]:
    database = status.get("database")
    if database is not None:
        yield "edge_agent_store_documents", {}, database["doc_count"]
        yield "edge_agent_store_deleted_documents", {}, database["doc_del_count"]
        yield "edge_agent_store_size_bytes", {}, database["file_size"]
        yield "edge_agent_store_sequence", {}, database["update_seq"]
    conflicts = status.get("conflicts", {})
    present = conflicts.get("present", None if database is None else database["conflicts"])
    yield "edge_agent_conflicts", {}, present
    for name, policy in conflicts.get("policies", {}).items():
        for outcome in ("resolved", "undecided", "failed"):
            metric = f"edge_agent_conflicts_{outcome}_total"
            yield metric, {"policy": name}, policy.get(outcome)
    pipeline = status.get("pipeline")
    if pipeline is not None:
        yield "edge_agent_changes_detected_total", {}, pipeline["detect"]["count"]
        yield "edge_agent_documents_transferred_total", {}, pipeline["transfer"]["count"]
        yield "edge_agent_changes_confirmed_total", {}, pipeline["confirm"]["count"]
        yield "edge_agent_documents_processed_total", {}, pipeline["process"]["count"]


def _remote(remote: Mapping[str, Any]) -> Iterator[_Sample]:
    name = remote["name"]
    yield "edge_agent_remote_sent_bytes_total", {"remote": name}, remote.get("bytes_sent")
    yield "edge_agent_remote_received_bytes_total", {"remote": name}, remote.get("bytes_received")
    verified = remote.get("verified")
    if verified and verified["time"]:
        different = verified["different"]
        yield "edge_agent_remote_different_documents", {"remote": name}, different
        at = _seconds(verified["time"])
        yield "edge_agent_remote_verified_timestamp_seconds", {"remote": name}, at
    for direction in ("push", "pull"):
        job = remote.get(direction)
        if job is None:
            continue
        labels = {"remote": name, "direction": direction}
        confirmed = job["last_confirmed"]
        told: dict[str, Any] = {
            "up": job["state"] in ("live", "catching up"),
            "confirmed_total": job["confirmed"],
            "written_total": job["docs_written"],
            "refused_total": job["doc_write_failures"],
            "errors_total": job["errors"],
            "pending_changes": job["pending"],
            "backlog_seconds": job["backlog_seconds"],
            "drain_seconds": job["drain_seconds"],
            "lag_seconds": job["lag"],
            "last_confirmed_timestamp_seconds": confirmed and _seconds(confirmed),
        }
        for what, value in told.items():
            yield f"edge_agent_replication_{what}", labels, value


def _devices(status: Status) -> Iterator[_Sample]:
    sensors = 0
    for device in status.get("devices", ()):
        labels = {"device": device["name"]}
        yield "edge_agent_device_up", labels, device["state"] == "open"
        yield "edge_agent_device_received_bytes_total", labels, device["bytes_received"]
        yield "edge_agent_device_errors_total", labels, device["errors"]
        yield "edge_agent_device_gaps_total", labels, device["gaps"]
        yield "edge_agent_device_missing_readings_total", labels, device["missing"]
        yield "edge_agent_device_restarts_total", labels, device["restarts"]
        for sensor in device["sensors"]:
            sensors += 1
            if sensors <= MOST_SENSORS:
                yield from _sensor({**labels, "sensor": sensor["name"]}, sensor)
    if "devices" in status:
        yield "edge_agent_sensors_left_out", {}, max(0, sensors - MOST_SENSORS)


def _retention(status: Status) -> Iterator[_Sample]:
    retention = status.get("retention")
    if not retention:
        return
    yield "edge_agent_retention_used_bytes", {}, retention["used"]
    yield "edge_agent_retention_max_bytes", {}, retention["max_size"]
    yield "edge_agent_retention_refusing", {}, retention["refusing"] is not None
    for entry in retention["sensors"][:MOST_SENSORS]:
        labels = {"device": entry["device"], "sensor": entry["sensor"]}
        yield "edge_agent_retention_deleted_total", labels, entry["deleted"]
        yield "edge_agent_retention_dropped_total", labels, entry["dropped"]


def _sensor(labels: dict[str, str], sensor: Mapping[str, Any]) -> Iterator[_Sample]:
    value, at = sensor["last_value"], sensor["last_time"]
    yield "edge_agent_sensor_readings_total", labels, sensor["readings"]
    yield "edge_agent_sensor_suppressed_total", labels, sensor["suppressed"]
    yield "edge_agent_sensor_gaps_total", labels, sensor["gaps"]
    yield "edge_agent_sensor_errors_total", labels, sensor["errors"]
    number = value if isinstance(value, int | float) else None
    yield "edge_agent_sensor_value", labels, number
    yield "edge_agent_sensor_last_reading_timestamp_seconds", labels, at and _seconds(at)
    yield "edge_agent_sensor_alarms", labels, len(sensor["alarms"])


def _broker(status: Status) -> Iterator[_Sample]:
    mqtt = status.get("mqtt")
    if mqtt is None:
        return
    yield "edge_agent_mqtt_up", {}, mqtt["state"] == "connected"
    yield "edge_agent_mqtt_calls_total", {}, mqtt["calls"]
    yield "edge_agent_mqtt_refused_total", {}, mqtt["refused"]
    states = [gateway["status"] for gateway in status["gateways"]]
    for state in ("online", "offline"):
        yield "edge_agent_gateways", {"status": state}, states.count(state)


def _seconds(text: str) -> float:
    """RFC 3339 as seconds since the epoch."""
    return datetime.fromisoformat(text).timestamp()
