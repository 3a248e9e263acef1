"""`edge-agent status`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import click

from agent.cli.options import json_option, print_json
from agent.cli.running import Where, fetch_status, running_options
from agent.cli.showing import ago as _ago
from agent.cli.showing import duration as _duration
from agent.cli.showing import folding_table, measured, plain_console, show_errors, size
from agent.peers.http_errors import one_line
from agent.words import counted, differing

if TYPE_CHECKING:
    from rich.console import Console

_SENSORS = 20
"""That are shown of those with dropped readings, the worst first."""


@click.command()
@running_options
@json_option
def status_command(where: Where, as_json: bool) -> None:
    """Show what a running agent is doing, by remote and by sensor.

    With --config nobody needs to log in, since who may read the agent's files may see its status;
    but a hub's file does not say where these are.
    """
    status = asyncio.run(fetch_status(where.find()))
    if as_json:
        print_json(status)
    else:
        _show(status)


def _show(status: dict[str, Any]) -> None:
    console = plain_console()
    console.print(status.get("name", "hub"), style="bold", end="  ")
    console.print(f"version {status['version']}, up {_duration(status['uptime'])}")
    database = status.get("database")
    if database:
        console.print(
            f"database {database['name']}: {counted(database['doc_count'], 'document')}, "
            f"{counted(database['conflicts'], 'conflict')}, {size(database['file_size'])}"
        )
    conflicts = status.get("conflicts") or {}  # a bridge has none
    if not database and conflicts.get("present"):
        by_name = conflicts.get("databases", {}).items()
        told = ", ".join(f"{one_line(name)} {count}" for name, count in by_name)
        console.print(f"{counted(conflicts['present'], 'conflict')}{told and f': {told}'}")
    if status.get("retention"):
        _show_retention(console, status["retention"])
    if status.get("mqtt"):
        mqtt = status["mqtt"]
        state = mqtt["last_error"] or mqtt["state"]
        answered = f"{counted(mqtt['calls'], 'call')} answered"
        console.print(f"broker {mqtt['broker']}: {state}, {answered}")
    if status.get("gateways"):
        table = folding_table("gateway", "status", "version", "since")
        for gateway in status["gateways"]:
            version = gateway["version"] or "-"
            heard = _ago(gateway["since"])
            table.add_row(one_line(gateway["name"]), gateway["status"], one_line(version), heard)
        console.print(table)
    if status.get("remotes"):
        table = folding_table("remote", "", "state", "pending", "confirmed", "lag")
        errors = []
        for remote in status["remotes"]:
            for direction in ("push", "pull"):
                job = remote.get(direction)
                if job:
                    table.add_row(remote["name"], direction, *_job_cells(job))
                    errors.append((f"{remote['name']} {direction}", _job_error(job)))
        console.print(table)
        show_errors(console, errors)
        for remote in status["remotes"]:
            console.print(_link(remote))
            if remote["verified"]:
                console.print(f"{remote['name']}: {_verified(remote['verified'])}")
            for direction in ("push", "pull"):
                if lanes := _lanes(remote.get(direction)):
                    console.print(f"{remote['name']} {direction}: {lanes}")
    if status.get("telemetry"):
        table = folding_table("telemetry", "broker", "state", "published", "skipped")
        for entry in status["telemetry"]:
            counts = (str(entry["published"]), str(entry["skipped"]))
            table.add_row(entry["name"], entry["broker"], entry["state"], *counts)
        console.print(table)
        show_errors(console, [(each["name"], each["last_error"]) for each in status["telemetry"]])
    if status.get("hooks"):
        show_hooks(console, status["hooks"])
    if status.get("devices"):
        table = folding_table("device", "sensor", "value", "rate", "gaps", "errors", "state")
        for device in status["devices"]:
            rate = f"{sum(sensor['rate'] for sensor in device['sensors']):g}/s"
            counts = str(device["gaps"]), str(device["errors"])
            table.add_row(device["name"], "all", "", rate, *counts, device["state"])
            for sensor in device["sensors"]:
                table.add_row(device["name"], *_sensor_cells(sensor), "")
        console.print(table)
        show_errors(console, [(each["name"], each["last_error"]) for each in status["devices"]])
    for finding in status["attention"]:
        style = "red" if finding["level"] == "error" else "yellow"
        console.print(f"{finding['level']}: {one_line(finding['what'])}", style=style)
        console.print(f"    {one_line(finding['do'])}")


def _show_retention(console: Console, retention: dict[str, Any]) -> None:
    if retention["max_size"] is not None:
        console.print(f"retention: {size(retention['used'])} of {size(retention['max_size'])}")
    worst = sorted(retention["sensors"], key=lambda entry: -entry["dropped"])[:_SENSORS]
    others = retention["dropped"] - sum(entry["dropped"] for entry in worst)
    for entry in worst:
        if entry["dropped"]:
            console.print(
                f"{counted(entry['dropped'], 'reading')} dropped that not every remote had: "
                f"{one_line(entry['device'])} {one_line(entry['sensor'])}",
                style="yellow",
            )
    if others:
        console.print(f"{counted(others, 'reading')} of other sensors dropped, too", style="yellow")
    for said in (retention["refusing"], retention["last_error"]):
        if said:
            console.print(f"retention: {one_line(said)}", style="red")


def show_hooks(console: Console, hooks: list[dict[str, Any]]) -> None:
    """What hooks do, as the status has it."""
    table = folding_table("hook", "calls", "state", "pending", "processed", "failed", "dead")
    for hook in hooks:
        pending = "?" if hook["pending"] is None else str(hook["pending"])
        counts = (pending, *(str(hook[key]) for key in ("processed", "failed", "dead")))
        table.add_row(hook["name"], one_line(hook["target"]), hook["state"], *counts)
    console.print(table)
    show_errors(console, [(hook["name"], hook["last_error"]) for hook in hooks])


def _job_cells(job: dict[str, Any]) -> tuple[str, ...]:
    confirmed = job["last_confirmed"]
    ago = _ago(confirmed) if confirmed else "-"
    lag = job["lag"]
    pending = "?" if job["pending"] is None else str(job["pending"])
    return (job["state"], pending, ago, "?" if lag is None else _duration(lag))


def _job_error(job: dict[str, Any]) -> str:
    refused = counted(len(job["failures"]), "document")
    parts = (f"{refused} refused" if job["failures"] else "", job["last_error"] or "")
    return "; ".join(filter(None, parts))


def _link(remote: dict[str, Any]) -> str:
    """What the link has carried, and how much of the day's bytes is used."""
    text = f"{remote['name']}: {remote['bytes_sent']:,} bytes sent, "
    text += f"{remote['bytes_received']:,} received"
    for unit in ("reading", "document"):
        if each := remote[f"bytes_per_{unit}"]:
            text += f", {each:,.0f} for each {unit}"
            break
    if budget := remote["budget"]:
        text += f"; {budget['used']:,} of today's {budget['bytes_per_day']:,} used"
        text += f", more from {budget['until']}"
    return text


def _verified(verified: dict[str, Any]) -> str:
    """How the latest verification ended."""
    if verified["time"]:
        text = (
            f"verified {_ago(verified['time'])}, "
            f"{counted(verified['documents'], 'document')} compared by "
        )
        text += f"{verified['by']}, {differing(verified['different'])}"
    else:
        text = "not verified yet"
    return text if verified["error"] is None else f"{text}; {one_line(verified['error'])}"


def _lanes(job: dict[str, Any] | None) -> str:
    """What waits in which lane, if one is behind or has to wait."""
    lanes = job["lanes"] if job else {}
    shown = [
        f"{lane['pending']} {name}{' (until there are bytes)' if lane['waits_for_budget'] else ''}"
        for name, lane in lanes.items()
    ]
    behind = lanes and (lanes["backlog"]["pending"] or any("(" in text for text in shown))
    return f"{', '.join(shown)} to go" if behind else ""


def _sensor_cells(sensor: dict[str, Any]) -> tuple[str, ...]:
    marks = [f"alarm {name}" for name in sensor["alarms"]]
    if sensor["quality"] is not None:
        marks.append(sensor["quality"])
    last = measured(sensor["last_value"], sensor["unit"])
    value = one_line(last + (f" ({', '.join(marks)})" if marks else ""))
    gaps = "-" if sensor["gaps"] is None else str(sensor["gaps"])
    return one_line(sensor["name"]), value, f"{sensor['rate']:g}/s", gaps, str(sensor["errors"])
