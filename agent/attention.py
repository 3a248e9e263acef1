"""What needs somebody's attention, in words, with what to do: a function of the status alone."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from typing import Any, Literal
from urllib.parse import quote, urlencode

import msgspec
from msgspec.structs import asdict, replace

from agent.words import counted

_LOW_DISK, _FULL_DISK = 500 * 2**20, 100 * 2**20
_LOW_PART, _FULL_PART = 0.1, 0.02
"""Too little is less than both, the bytes and the part of the disk: small disks are nearly full
all the time, and of large ones a small part is enough."""

_MOST_NAMES = 3

CLOCK_ADVICE = (
    'If this machine\'s clock is right at any time, write trust = "system" below [clock] in the '
    "configuration and restart; if not: sudo timedatectl set-ntp true."
)
"""In a container, or beside another time daemon, the kernel may not know that it is right."""

Status = Mapping[str, Any]


class Finding(msgspec.Struct, frozen=True):
    """`what` is so, and what to `do` about it; on which `page`, if the dashboard has one for it.

    `database` is the one of several that it is about, whose name is not for everybody; `part` is
    the part of the program, whose name may have another database's in it.
    """

    level: Literal["warning", "error"]
    what: str
    do: str
    page: str | None = None
    database: str | None = None
    part: str | None = None

    def as_json(self) -> dict[str, str]:
        return {name: value for name, value in asdict(self).items() if value is not None}


def attention(status: Status) -> list[dict[str, str]]:
    """What a `Finding` has, as JSON, for each thing, errors first; see `Agent.status`."""
    checks = (
        _disk,
        _store,
        _retention,
        _devices,
        _remotes,
        _broker,
        _clock,
        _hooks,
        _telemetry,
        _conflicts,
        _gateways,
    )
    found = [finding for check in checks for finding in check(status)]
    found += _restarts(status)
    return [each.as_json() for each in sorted(found, key=lambda each: each.level != "error")]


def _disk(status: Status) -> Iterator[Finding]:
    system = status.get("system") or {}
    free, total = system.get("disk_free"), system.get("disk_total")
    if free is None or total is None:
        return
    what = f"The disk with the data has {free / 2**20:,.0f} MiB left, {100 * free / total:.0f} %."
    do = f"Free some space, or move {status.get('data', 'the data')} to a larger disk."
    if free < min(_FULL_DISK, _FULL_PART * total):
        yield Finding("error", what, do)
    elif free < min(_LOW_DISK, _LOW_PART * total):
        yield Finding("warning", what, do)


def _store(status: Status) -> Iterator[Finding]:
    for damaged in status.get("damaged", ()):
        file, salvaged = damaged["file"], damaged["salvaged"]
        what = f"The database {damaged['database']} was damaged"
        if salvaged:
            what += f" on {salvaged['time']} ({salvaged['reason']}); {copied(salvaged)}"
        elif damaged["reason"]:
            what += f": {damaged['reason']}"
        do = "Check the card. When the remotes have sent the rest, or there are none: "
        do += f"rm {shlex.quote(file)}*"
        yield Finding("warning", f"{what}.", do, database=damaged["database"])


def copied(salvaged: Status) -> str:
    """How much of a damaged database is in the one that there is now."""
    number, before = salvaged["documents"], salvaged["before"]
    told = f"{number:,} of {before:,} documents" if before else counted(number, "document")
    return f"{told} could be copied"


def _retention(status: Status) -> Iterator[Finding]:
    retention = status.get("retention") or {}
    if retention.get("refusing"):
        do = "See to the remotes, or raise max_size in [retention]."
        yield Finding("error", f"Nothing is recorded: {_ended(retention['refusing'])}", do)
    if retention.get("last_error"):
        what = f"Retention: {_ended(retention['last_error'])}"
        yield Finding("warning", what, "Check the disk; it is tried again by itself.")
    if retention.get("dropped_at"):
        what = f"{counted(retention['dropped'], 'reading')} had to be dropped unconfirmed, the last"
        what += f" at {retention['dropped_at']}."
        yield Finding("warning", what, "See to the remotes, or raise max_size in [retention].")


def _devices(status: Status) -> Iterator[Finding]:
    for device in status.get("devices", ()):
        name = device["name"]
        page = _page("sensors", device=name)
        if device["state"] != "open":
            reason = device["last_error"] or "its port is not open yet"
            do = f"Check the cable and the port, {device['port']}; edge-agent ports lists them all."
            yield Finding("error", f"Device {name} is not heard: {_ended(reason)}", do)
        elif device["last_error"]:
            do = "Check the disk; what was read stays in memory for now."
            yield Finding("error", f"Device {name}: {_ended(device['last_error'])}", do)
        if device.get("missing_since_start"):
            lost = device["missing_since_start"]
            yield Finding(
                "warning",
                f"{counted(lost, 'reading')} of device {name} did not arrive since the start.",
                "Check the cable and the baud rate; edge-agent status counts damage on the line.",
            )
        settings = device.get("settings") or {}
        for setting, refused in settings.get("refused", {}).items():
            what = f"Device {name} refuses the setting {setting}: {_ended(refused['reason'])}"
            do = f"edge-agent device set {name} {setting}=VALUE"
            yield Finding("warning", what, do, page)
        if settings.get("last_error"):
            what = f"Settings of device {name}: {_ended(settings['last_error'])}"
            yield Finding("warning", what, f"See edge-agent device show {name}.", page)
        for sensor in device["sensors"]:
            for alarm in sensor["alarms"]:
                what = f"Alarm {alarm}: {name} {sensor['name']} is {sensor['last_value']}."
                page = _page("sensors", device=name, sensor=sensor["name"])
                yield Finding("warning", what, "See to what the sensor measures.", page)


def _remotes(status: Status) -> Iterator[Finding]:
    for remote in status.get("remotes", ()):
        jobs = {each: remote[each] for each in ("push", "pull") if remote.get(each)}
        problems: dict[Finding, list[str]] = {}
        for direction, job in jobs.items():
            for finding in _job(job, direction):
                problems.setdefault(finding, []).append(direction)
        for finding, directions in problems.items():
            named = f"Remote {remote['name']}, {' and '.join(directions)}"
            yield replace(finding, what=f"{named}: {finding.what}")
        yield from _verified(remote["name"], remote.get("verified") or {})


def _verified(name: str, verified: Status) -> Iterator[Finding]:
    if verified.get("different"):
        number = verified["different"]
        differ = f"{counted(number, 'document')} differ{'s' if number == 1 else ''}"
        what = f"Remote {name}: {differ} from those there, as of {verified['time']}."
        do = "See `verified` in edge-agent status --json; edge-agent doctor has the command for it."
        yield Finding("error", what, do)
    if verified.get("error"):
        what = f"Remote {name} could not be verified: {_ended(verified['error'])}"
        yield Finding("warning", what, "Check the other side; it is tried again by itself.")


def _job(job: Status, direction: str) -> Iterator[Finding]:
    error = job["last_error"]
    if job["state"] == "failed":
        do = "Mend what the error names, here or there; it is tried again by itself."
        yield Finding("error", f"nothing is replicated. {_ended(error)}", do)
    elif error:
        do = "Check the network and the other side; it is tried again by itself."
        yield Finding("warning", f"nothing gets through at present. {_ended(error)}", do)
    elif job["state"] == "waiting for its budget":
        do = "Nothing, or raise the remote's bytes_per_day."
        yield Finding("warning", "the bytes of today are used up.", do)
    if job.get("clone_seen"):
        yield Finding(
            "error",
            "another agent with this one's identity replicates with it, too; one of the two runs "
            "on a copy of the other's data.",
            "Once it has sent everything, stop one of them, give it a name of its own, move its "
            "data folder away and start it: it makes a new store and pulls everything.",
        )
    if job["failures"]:
        latest = job["failures"][-1]
        kept = counted(len(job["failures"]), "document")
        what = f"{kept} could not be carried, the latest {latest['id']} "
        what += f"({_ended(latest['reason'] or latest['error'])[:-1]})."
        do = (
            "Change or delete it, or raise the limit that it meets and run edge-agent verify "
            "--repair; edge-agent status --json has all (`failures`)."
        )
        # What could not be pulled is not here.
        page = _page("documents", id=latest["id"]) if direction == "push" else None
        yield Finding("error", what, do, page)


def _broker(status: Status) -> Iterator[Finding]:
    mqtt = status.get("mqtt")
    if mqtt and mqtt["last_error"]:
        what = f"The broker {mqtt['broker']} is not reached: {_ended(mqtt['last_error'])}"
        yield Finding(
            "error", what, "Check the broker and the network; it is tried again by itself."
        )


def _clock(status: Status) -> Iterator[Finding]:
    clock = status.get("clock")
    if clock and clock["state"] != "sure":
        what = "No source has told the time yet; readings are marked, to be corrected later"
        what += ", and none is deleted for its age." if status.get("retention") else "."
        yield Finding("warning", what, CLOCK_ADVICE)


def _hooks(status: Status) -> Iterator[Finding]:
    for hook in status.get("hooks", ()):
        name = hook["name"]
        if hook["dead"]:
            what = f"Hook {name} has given up {counted(hook['dead'], 'document')}."
            do = f"edge-agent hooks dead {name} lists them, retry tries again."
            yield Finding("error", what, do, _page("hooks", name=name))
        if hook["last_error"]:
            what = f"Hook {name} does not get through: {_ended(hook['last_error'])}"
            yield Finding("warning", what, "Check what it calls; it is tried again by itself.")


def _telemetry(status: Status) -> Iterator[Finding]:
    for entry in status.get("telemetry", ()):
        if entry["last_error"]:
            what = f"Telemetry {entry['name']} is not published: {_ended(entry['last_error'])}"
            yield Finding("warning", what, "Check the broker; it is tried again by itself.")


def _conflicts(status: Status) -> Iterator[Finding]:
    conflicts = status.get("conflicts") or {}
    present = conflicts.get("present", (status.get("database") or {}).get("conflicts", 0))
    if present:
        what = f"Conflicts: {counted(present, 'document')}; all sides are kept."
        of_hub = "" if "database" in status else " --database NAME"
        do = f"edge-agent conflicts list{of_hub} shows them, and resolve decides."
        yield Finding("warning", what, do, _page("conflicts"))
    for name in conflicts.get("stuck", ()):
        what = f"Policies do not come to an end in {name}; no conflict is resolved there."
        do = "See whether a function of a package (entry_point) hangs, and restart the agent."
        yield Finding("error", what, do, _page("conflicts", db=name), database=name)
    for name, policy in conflicts.get("policies", {}).items():
        if present and policy.get("failed"):
            what = f"The conflict policy {name} has failed {counted(policy['failed'], 'time')}."
            do = "edge-agent conflicts list says why; mend the policy."
            yield Finding("error", what, do, _page("conflicts"))


def _gateways(status: Status) -> Iterator[Finding]:
    away = [each for each in status.get("gateways", ()) if each["status"] != "online"]
    if len(away) == 1:
        what = f"Gateway {away[0]['name']} is offline since {away[0]['since']}."
        yield Finding("warning", what, "Check its power and its network.", _page("gateways"))
    elif away:
        names = [each["name"] for each in away[:_MOST_NAMES]]
        names += [f"{len(away) - len(names)} more"] if len(away) > len(names) else []
        what = f"{len(away)} gateways are offline: {', '.join(names[:-1])} and {names[-1]}."
        yield Finding("warning", what, "Check their power and network.", _page("gateways"))


def _restarts(status: Status) -> Iterator[Finding]:
    for name, count in status.get("restarts", {}).items():
        if count:
            what = f"A part of the program, {name}, has failed {counted(count, 'time')}."
            yield Finding("warning", what, "The log says why; please report it.", part=name)


def _page(name: str, /, **shown: str) -> str:
    """A page of the dashboard, as a path on the server."""
    query = urlencode(shown, quote_via=quote)
    return f"/_utils/#/{name}{query and '?'}{query}"


def _ended(text: str) -> str:
    """An error as a sentence."""
    return text if text.endswith((".", "?", "!")) else f"{text}."
