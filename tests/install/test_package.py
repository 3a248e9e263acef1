"""The Debian package in a Debian system of its own: installed, run, brought up to date, removed."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tests.install.machine import CHECKOUT, CONFIG, Machine, in_memory, missing, rebuild
from tests.patience import PATIENCE, when_true

_LACKING = missing()
needs_machine = pytest.mark.skipif(_LACKING is not None, reason=f"this needs {_LACKING}")
needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="this needs systemd-analyze"
)
UNIT = CHECKOUT / "scripts/debian/edge-agent.service"
UPDATE_UNIT = UNIT.with_name("edge-agent-update.service")


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    root = tmp_path_factory.mktemp("machine") / "root"
    with in_memory(root), Machine.make(root) as made:
        yield made


@pytest.fixture(scope="module")
def broken(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A newer version that does not start."""
    return rebuild(package, tmp_path_factory.mktemp("broken"), version="7.2.0", broken=True)


def bring(machine: Machine, package: Path) -> str:
    """Copy a package into the machine; returns its path there."""
    (machine.root / "tmp").mkdir(exist_ok=True)
    shutil.copy(package, machine.root / "tmp" / package.name)
    return f"/tmp/{package.name}"


@needs_systemd
def test_the_unit_is_exposed_little() -> None:
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(UNIT)],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    found = re.search(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert found, done.stderr
    assert float(found[1]) <= 2.5


@needs_systemd
@pytest.mark.parametrize("source", [UNIT, UPDATE_UNIT], ids=lambda unit: unit.stem)
def test_the_units_are_valid(tmp_path: Path, source: Path) -> None:
    # The programs of the installed package, which is not here.
    unit = tmp_path / source.name
    unit.write_text(re.sub(r"(?m)^ExecStart=\S+", "ExecStart=/bin/true", source.read_text()))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(unit)],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    complaints = [line for line in done.stderr.splitlines() if source.name in line]
    assert complaints == []


def test_a_package_for_a_machine_that_nobody_can_build_for_here_is_refused(tmp_path: Path) -> None:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("this needs dpkg-deb")
    done = subprocess.run(
        [CHECKOUT / "scripts/build-deb", "--arch", "sparc64", tmp_path],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "a package for sparc64 can be built on such a machine only" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_clock_that_is_behind_does_not_cost_the_copy_of_the_data(tmp_path: Path) -> None:
    """The function alone, out of the script."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "edge.sqlite").write_text("readings")
    for date in ("20300101T000000Z", "20300102T000000Z", "20300103T000000Z"):
        (tmp_path / "backups" / f"1.0-{date}").mkdir(parents=True)
    [function] = re.findall(
        r"(?ms)^back_up\(\) \{$.*?^\}$", (CHECKOUT / "scripts/install").read_text()
    )
    script = f"say() {{ :; }}; data=$1/data backups=$1/backups kept_backups=2\n{function}\n"
    copy = tmp_path / "backups" / "1.0-20240101T000000Z"
    subprocess.run(
        ["bash", "-euo", "pipefail", "-c", f'{script} back_up "$2"', "-", tmp_path, copy],
        timeout=PATIENCE, check=True,
    )  # fmt: skip
    assert (copy / "edge.sqlite").read_text() == "readings"
    kept = {folder.name for folder in copy.parent.iterdir()}
    assert kept == {copy.name, "1.0-20300103T000000Z"}


@needs_machine
@pytest.mark.timeout(1200)
def test_installed_updated_rolled_back_and_removed(
    machine: Machine, package: Path, broken: Path, tmp_path: Path
) -> None:
    version = subprocess.run(
        ["dpkg-deb", "--field", package, "Version"], capture_output=True, text=True, check=True
    ).stdout.strip()
    data = machine.root / "var/lib/edge-agent"

    done = machine.install(bring(machine, package))
    assert done.status == 0, done.text
    status = machine.status()
    assert status["version"] == version
    assert status["data"] == "/var/lib/edge-agent"
    assert (data.stat().st_mode & 0o777) == 0o700
    assert (machine.root / CONFIG.lstrip("/")).stat().st_mode & 0o007 == 0
    owner = machine.run("stat", "-c", "%U", "/var/lib/edge-agent/edge.sqlite").text.strip()
    assert owner == "edge-agent"
    assert "dialout" in machine.run("id", "-nG", "edge-agent").text.split()

    written = machine.run("python3", "-c", _PUT)
    assert written.status == 0, written.text

    # What a person adds is readable by the agent, and stays.
    done = machine.run(
        "sh",
        "-c",
        f"echo secret | edge-agent user add anna --role _admin --password-file - --config {CONFIG}",
    )
    assert done.status == 0, done.text
    assert machine.run("stat", "-c", "%a %G", CONFIG).text == "640 edge-agent\n"
    with (machine.root / CONFIG.lstrip("/")).open("a") as config:
        config.write("# mine\n")
    newer = rebuild(package, tmp_path, version="7.1.0")
    done = machine.install(bring(machine, newer))
    assert done.status == 0, done.text
    assert machine.status()["version"] == "7.1.0"
    assert machine.status()["database"]["doc_count"] == 1
    assert "# mine" in (machine.root / CONFIG.lstrip("/")).read_text()
    assert len(list((machine.root / "var/backups/edge-agent").glob(f"{version}-*"))) == 1

    done = machine.install(bring(machine, broken), healthy_within=5)
    assert done.status == 1
    assert "version 7.1.0 runs again, with its data" in done.text, done.text
    assert machine.status()["version"] == "7.1.0"
    assert machine.status()["database"]["doc_count"] == 1
    assert not (data / "spoilt").exists()
    assert list((machine.root / "var/backups/edge-agent").glob("failed-*/spoilt"))

    done = machine.install(bring(machine, package))
    assert done.status == 1
    assert "7.1.0 is installed" in done.text
    assert machine.status()["version"] == "7.1.0"

    done = machine.install("--uninstall")
    assert done.status == 0, done.text
    assert machine.run("systemctl", "is-active", "edge-agent.service").text == "inactive\n"
    assert not (machine.root / "opt/edge-agent/bin/edge-agent").exists()
    assert (data / "edge.sqlite").exists()
    assert "# mine" in (machine.root / CONFIG.lstrip("/")).read_text()

    done = machine.install(bring(machine, newer))
    assert done.status == 0, done.text
    assert machine.status()["database"]["doc_count"] == 1

    done = machine.install("--uninstall", "--purge")
    assert done.status == 0, done.text
    assert not data.exists()
    assert not (machine.root / "etc/edge-agent").exists()


@needs_machine
@pytest.mark.timeout(1200)
def test_the_same_version_again_and_updates_that_cannot_be(
    machine: Machine, package: Path, tmp_path: Path
) -> None:
    assert machine.install(bring(machine, package)).status == 0
    written = machine.run("python3", "-c", _PUT)
    assert written.status == 0, written.text
    done = machine.install(bring(machine, package))
    assert done.status == 0, done.text
    assert machine.status()["database"]["doc_count"] == 1
    # Who has disabled the service finds it so after an update that did not ask for it.
    assert machine.run("systemctl", "disable", "edge-agent.service").status == 0
    done = machine.install(bring(machine, package))
    assert "the service is disabled" in done.text
    assert machine.run("dpkg", "--install", bring(machine, package)).status == 0
    assert machine.run("systemctl", "is-enabled", "edge-agent.service").text == "disabled\n"
    assert machine.run("systemctl", "is-active", "edge-agent.service").text == "inactive\n"
    assert machine.run("systemctl", "preset", "edge-agent.service").status == 0
    assert machine.run("systemctl", "start", "edge-agent.service").status == 0
    # A disk without room for the copy, and a package that is not for here, change nothing.
    assert machine.run("mount", "-t", "tmpfs", "-o", "size=50m", "x", "/var/backups").status == 0
    done = machine.install(bring(machine, package))
    assert done.status == 1
    assert "nothing was changed" in done.text, done.text
    assert machine.run("umount", "/var/backups").status == 0
    # So does what ends an update before it has begun: here the copy's place cannot be cleared.
    unfinished = "/var/backups/edge-agent/unfinished"
    assert machine.run("mkdir", unfinished).status == 0
    assert machine.run("mount", "-t", "tmpfs", "x", unfinished).status == 0
    done = machine.install(bring(machine, package))
    assert done.status == 1
    assert "the update was not begun" in done.text, done.text
    assert machine.status()["database"]["doc_count"] == 1
    assert machine.run("umount", unfinished).status == 0
    # The copy of the script that is kept there can be used like any other.
    done = machine.run("/var/backups/edge-agent/install", bring(machine, package))
    assert done.status == 0, done.text
    done = machine.install(bring(machine, rebuild(package, tmp_path, version="9", needs="3.99")))
    assert done.status == 1
    assert "python3 (>= 3.99)" in done.text, done.text
    assert machine.status()["database"]["doc_count"] == 1
    # One that dpkg cannot unpack, as on a full disk, leaves the old one running.
    refused = rebuild(package, tmp_path, version="9.1", refuses=True)
    assert machine.run("dpkg", "--install", bring(machine, refused)).status == 1
    assert machine.run("systemctl", "is-active", "edge-agent.service").text == "active\n"
    # Two at a time would be in each other's way; one may have begun with the machine.
    # The other one goes on as soon as somebody waits for it.
    other = (
        "exec 9>/run/edge-agent-update.lock; flock 9; touch /tmp/held; for i in $(seq 600); do"
        " ! grep -q -e '->.*FLOCK' /proc/locks || break; sleep 0.1; done"
    )
    with ThreadPoolExecutor(1) as running:
        running.submit(machine.run, "sh", "-c", other)
        when_true((machine.root / "tmp/held").exists)
        done = machine.install("--uninstall", "--purge")
    assert done.status == 0, done.text
    assert "waiting for another run" in done.text


# Ends a script at once, between taking the data away and putting others in their place.
_CUT = r"""
set -T
trap '[[ ${FUNCNAME[0]-} != exchange_data || ! $BASH_COMMAND =~ ^(mv|find)\ .\$restored ]] ||
    kill -9 $$' DEBUG
"""


@needs_machine
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("partition", "by_hand"), [(False, True), (True, False)])
def test_a_power_cut_while_going_back_is_made_good_at_the_next_start(
    machine: Machine, package: Path, broken: Path, partition: bool, by_hand: bool
) -> None:
    """Or by the next run, which is the same, should somebody be faster."""
    data = "/var/lib/edge-agent"
    if partition:
        assert machine.run("mkdir", "-p", data).status == 0
        assert machine.run("mount", "-t", "tmpfs", "-o", "mode=700", "data", data).status == 0
    done = machine.install(bring(machine, package))
    assert done.status == 0, done.text
    written = machine.run("python3", "-c", _PUT)
    assert written.status == 0, written.text
    newer = bring(machine, broken)
    (machine.root / "tmp/cut").write_text(_CUT)
    script = "/usr/src/edge-sync-agent/scripts/install"
    cut = machine.run("env", "BASH_ENV=/tmp/cut", script, newer, healthy_within=5)
    assert cut.status == -signal.SIGKILL, cut.text
    assert "going back to" in cut.text
    assert machine.run("test", "-e", f"{data}/edge.sqlite").status == 1

    # As a machine does that starts again: nothing begins anew where the data were.
    assert machine.run("systemctl", "start", "edge-agent.service").status == 0
    assert machine.run("systemctl", "is-active", "edge-agent.service").text == "inactive\n"
    assert machine.run("test", "-e", f"{data}/spoilt").status == 1
    if by_hand:
        said = machine.install(newer, healthy_within=5).text
    else:
        machine.run("systemctl", "default", healthy_within=5)
        said = machine.log("edge-agent-update.service")
    assert "an update was cut short" in said
    assert "runs again, with its data" in said, said
    assert machine.status()["database"]["doc_count"] == 1
    left = machine.run("ls", "/var/backups/edge-agent").text
    assert not re.search("under-way|next|going-back", left), left

    assert machine.install("--uninstall", "--purge").status == 0
    if partition:
        assert machine.run("umount", data).status == 0


_PUT = """
import urllib.request
request = urllib.request.Request(
    "http://127.0.0.1:5984/edge/note", method="PUT", data=b'{"kept": true}',
    headers={"Content-Type": "application/json"})
assert urllib.request.urlopen(request).status == 201
"""


@needs_machine
@pytest.mark.timeout(1200)
def test_the_package_brings_the_list_of_what_is_in_it(package: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    subprocess.run(["dpkg-deb", "--extract", package, root], check=True)
    told = json.loads((root / "usr/share/doc/edge-sync-agent/sbom.json").read_text())
    folders = (root / "opt/edge-agent/lib").glob("python*/site-packages/*.dist-info")
    there = {
        (canonicalize_name(found[1]), found[2])
        for folder in folders
        if (found := re.fullmatch(r"(.+?)-([^-]+)\.dist-info", folder.name))
    }
    parts = [told["metadata"]["component"], *told["components"]]
    of_python = [part for part in parts if part["purl"].startswith("pkg:pypi/")]
    assert {(part["name"], part["version"]) for part in of_python} == there
    assert len(there) > 20
