#!/usr/bin/python3
"""Stands in for systemctl in the root where the package is installed, which no systemd has booted.

It does with the package's real units what systemd does of them that matters there: runs ExecStart
as User, waits for READY=1 or, of a oneshot service, for the end, counts a service as active while
its main process lives, stops it with SIGTERM; `default` starts what starts with the machine.
Hardening and restarts are systemd's alone.
"""

import configparser
import grp
import os
import pwd
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

UNITS = Path("/lib/systemd/system")
WANTED = Path("/etc/systemd/system/multi-user.target.wants")
RUNTIME = Path("/run/units")
STOP_TIMEOUT = 60.0


def pid_of(name: str) -> int | None:
    try:
        pid = int((RUNTIME / f"{name}.pid").read_text())
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError):
        return None
    return None if state == "Z" else pid


def start(name: str) -> int:
    if pid_of(name) is not None:
        return 0
    text = (UNITS / name).read_text()
    unit = configparser.ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(text)
    service = unit["Service"]
    for kind, negated, path in re.findall(r"(?m)^ConditionPath(\w+)=(!?)(\S+)$", text):
        found = {"Exists": os.path.exists, "IsSymbolicLink": os.path.islink}[kind](path)
        if found == bool(negated):
            return 0
    if service["Type"] == "oneshot":
        with (RUNTIME / f"{name}.log").open("a") as output:
            return subprocess.call(
                service["ExecStart"].split(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
    address = RUNTIME / f"{name}.notify"
    address.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.bind(str(address))
        address.chmod(0o666)
        channel.settimeout(0.2)
        if os.fork() == 0:
            run(name, service, str(address))
        deadline = time.monotonic() + float(service["TimeoutStartSec"])
        while time.monotonic() < deadline:
            try:
                if b"READY=1" in channel.recv(4096).split(b"\n"):
                    return 0
            except TimeoutError:
                if (RUNTIME / f"{name}.pid").exists() and pid_of(name) is None:
                    break
    print(f"Job for {name} failed.", file=sys.stderr)
    return 1


def run(name: str, service: configparser.SectionProxy, address: str) -> None:
    """The forked child: becomes the service."""
    os.setsid()
    user = pwd.getpwnam(service["User"])
    (RUNTIME / f"{name}.pid").write_text(str(os.getpid()))
    log = os.open(RUNTIME / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open("/dev/null", os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    os.closerange(3, 256)
    groups = [grp.getgrnam(group).gr_gid for group in service["SupplementaryGroups"].split()]
    os.setgroups(groups)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    os.umask(int(service["UMask"], 8))
    os.chdir(service["WorkingDirectory"])
    environment = {
        "PATH": "/usr/bin:/bin",
        "NOTIFY_SOCKET": address,
        "WATCHDOG_USEC": str(int(service["WatchdogSec"]) * 1_000_000),
    }
    arguments = service["ExecStart"].split()
    os.execve(arguments[0], arguments, environment)


def stop(name: str) -> int:
    pid = pid_of(name)
    if pid is None:
        return 0
    os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + STOP_TIMEOUT
    while pid_of(name) is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    return 0 if pid_of(name) is None else 1


def main() -> int:
    RUNTIME.mkdir(exist_ok=True)
    action, *names = [word for word in sys.argv[1:] if not word.startswith("-")]
    name = names[0] if names else ""
    if action == "is-active":
        if "--quiet" not in sys.argv:
            print("active" if pid_of(name) is not None else "inactive")
        return 0 if pid_of(name) is not None else 3
    if action == "is-enabled":
        enabled = (WANTED / name).is_symlink()
        if "--quiet" not in sys.argv:
            print("enabled" if enabled else "disabled")
        return 0 if enabled else 1
    if action == "default":
        wanted = {
            unit.name for folder in (UNITS / WANTED.name, WANTED) for unit in folder.iterdir()
        }
        return max(map(start, sorted(wanted)))
    if action == "preset":
        WANTED.mkdir(parents=True, exist_ok=True)
        (WANTED / name).symlink_to(UNITS / name)
        return 0
    if action == "disable":
        (WANTED / name).unlink()
        return 0
    if action == "show" and "--property=MainPID" in sys.argv:
        print(pid_of(name) or 0)
        return 0
    if action == "restart":
        return stop(name) or start(name)
    if action in ("start", "stop"):
        return start(name) if action == "start" else stop(name)
    if action != "daemon-reload":
        print(f"not understood: {sys.argv[1:]}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
