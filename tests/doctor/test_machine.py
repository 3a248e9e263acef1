"""The gateway itself: disk, clock, card, ports and groups, files, the server. Each fault is made
real where this machine has what it takes."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import socket
import sqlite3
import subprocess
import tty
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from agent.doctor.account import account_of
from agent.doctor.machine import card, clock
from agent.store.connection import marker
from agent.store.schema import SCHEMA_VERSION
from tests import agents
from tests.agents import AgentProcess
from tests.cli.helpers import documents, in_process, make_store, query
from tests.doctor.examined import certificate, examined, tmpfs
from tests.patience import when_true

root = pytest.mark.skipif(os.getuid() != 0, reason="only root can do that to a machine")
NOBODY = 65534


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return agents.gateway_config(tmp_path / "gateway.toml")


@pytest.fixture
def device() -> Iterator[str]:
    """A device file like that of a port."""
    ours, theirs = pty.openpty()
    tty.setraw(theirs)
    name = os.ttyname(theirs)
    os.close(theirs)
    yield name
    os.close(ours)


def with_device(tmp_path: Path, port: str) -> Path:
    table = agents.table("device", name="node", port=port, adapter="json-lines")
    return agents.gateway_config(tmp_path / "gateway.toml", table)


def test_nothing_is_wrong_and_nothing_is_changed(config: Path, tmp_path: Path) -> None:
    store = make_store(tmp_path / "gateway" / "edge.sqlite", documents(3))
    (tmp_path / "gateway" / "edge.sqlite.lock").unlink()
    before = {file: file.read_bytes() for file in store.parent.iterdir()}
    found = examined(config)
    assert (found.status, found.errors) == (0, [])
    assert found.of("store") == ("ok", "has 3 documents", None)
    assert found.of("data")[0] == found.of("disk")[0] == found.of("listen")[0] == "ok"
    assert found.of("config") == ("ok", "has no mistakes", None)
    assert {file: file.read_bytes() for file in store.parent.iterdir()} == before


def test_as_people_see_it(config: Path, tmp_path: Path) -> None:
    (tmp_path / "gateway").write_text("in the way")
    done = in_process("doctor", "--config", config)
    assert done.status == 1
    assert "error    data" in done.stdout
    assert "mend: " in done.stdout
    assert done.stdout.splitlines()[-1].startswith("1 error, ")


@root
def test_a_full_disk(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "card") as folder:
        config = agents.gateway_config(folder / "gateway.toml")
        (folder / "gateway").mkdir()
        assert examined(config).of("disk")[0] == "ok"
        with (folder / "filler").open("wb", buffering=0) as file, suppress(OSError):
            while file.write(bytes(4096)):
                pass
        found = examined(config)
        level, text, mend = found.of("disk")
        assert (level, found.status) == ("error", 1)
        assert "0.0 bytes of 1.0 MiB are free" in text
        assert f"on {folder}" in text
        assert mend is not None
        assert str(folder) in mend


@root
def test_a_disk_without_inodes(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "card", "nr_inodes=4") as folder:
        config = agents.gateway_config(folder / "gateway.toml")
        (folder / "gateway").mkdir()
        (folder / "last").touch()
        level, text, _ = examined(config).of("disk")
        assert level == "error"
        assert "has no inodes left" in text


@root
def test_a_disk_that_became_read_only(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "card") as folder:
        config = agents.gateway_config(folder / "gateway.toml")
        (folder / "gateway").mkdir()
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        level, text, mend = examined(config).of("disk")
        assert level == "error"
        assert "is mounted read-only" in text
        assert mend is not None
        assert mend.endswith(f"mount -o remount,rw {folder}")


def test_a_clock_that_cannot_be_right() -> None:
    [found] = clock(0)
    assert (found.level, found.mend) == ("error", "sudo timedatectl set-ntp true")
    assert "1970-01-01 00:00:00 UTC, which cannot be" in found.text
    [now] = clock()
    assert now.level in ("ok", "warning")


def test_a_clock_that_the_configuration_trusts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container, where the kernel does not know of whoever keeps it."""
    monkeypatch.setattr("agent.doctor.machine.kernel_synchronised", lambda: False)
    config = agents.gateway_config(tmp_path / "gateway.toml")
    level, _, mend = examined(config).of("clock")
    assert level == "warning"
    assert mend is not None
    assert 'trust = "system" below [clock]' in mend
    trusting = agents.gateway_config(tmp_path / "trusting.toml", '[clock]\ntrust = "system"\n')
    level, text, mend = examined(trusting).of("clock")
    assert (level, mend) == ("ok", None)
    assert text.endswith('trusted (trust = "system" below [clock])')
    assert clock(0, trusted=True)[0].level == "error"


@pytest.mark.parametrize(
    ("life", "spare", "level", "words"),
    [
        ("0x01 0x02", "0x01", "ok", "10 to 20 % of its life are used, spare blocks: normal"),
        ("0x09 0x01", "0x01", "warning", "80 to 90 %"),
        ("0x01 0x01", "0x02", "warning", "most spare blocks are used up"),
        ("0x0b 0x01", "0x01", "error", "100 to 100 %"),
        ("0x01 0x01", "0x03", "error", "no spare blocks are left"),
        ("0x00 0x00", "0x00", "ok", "does not tell how worn it is"),
        (None, None, "ok", "does not tell how worn it is"),
    ],
)
def test_a_worn_card(
    life: str | None, spare: str | None, level: str, words: str, tmp_path: Path
) -> None:
    """As the kernel shows it; there is no such card here."""
    sys = tmp_path / "sys"
    block = sys / "devices" / "mmc0" / "block" / "mmcblk0"
    partition = block / "mmcblk0p2"
    partition.mkdir(parents=True)
    (partition / "partition").write_text("2\n")
    (block / "device").mkdir()
    if life is not None and spare is not None:
        (block / "device" / "life_time").write_text(f"{life}\n")
        (block / "device" / "pre_eol_info").write_text(f"{spare}\n")
    number = tmp_path.stat().st_dev
    links = sys / "dev" / "block"
    links.mkdir(parents=True)
    (links / f"{os.major(number)}:{os.minor(number)}").symlink_to(partition)
    [found] = card(tmp_path / "not" / "there", None, None, sys)
    assert (found.subject, found.level) == ("mmcblk0", level)
    assert words in found.text


def test_what_a_process_writes(tmp_path: Path) -> None:
    """By what the kernel counts for this very process, over times that differ."""
    with (tmp_path / "file").open("wb") as file:
        file.write(bytes(2**20))
        os.fsync(file.fileno())
    nothing = tmp_path / "sys"
    assert not [*card(tmp_path, os.getpid(), 10, nothing)]
    if Path(f"/proc/{os.getpid()}/io").read_text().split("\nwrite_bytes: ")[1].startswith("0\n"):
        pytest.skip("this file system is in memory")
    [slow] = card(tmp_path, os.getpid(), 1e9, nothing)
    assert slow.level == "ok"
    [fast] = card(tmp_path, os.getpid(), 601, nothing)
    assert fast.text.startswith("the agent writes ")


# --- ports and groups ------------------------------------------------------------------


def test_a_port_that_may_be_used(device: str, tmp_path: Path) -> None:
    level, text, _ = examined(with_device(tmp_path, device)).of("port")
    assert (level, device in text) == ("ok", True)


@pytest.mark.parametrize(
    ("port", "words"),
    [
        ("/dev/ttyUSB77", "is the device plugged in?"),
        ("serial:NOT-THERE", "no such port"),
        ("/etc/passwd", "is not a serial port"),
    ],
)
def test_a_port_that_is_not_there(port: str, words: str, tmp_path: Path) -> None:
    level, text, mend = examined(with_device(tmp_path, port)).of("port", "device 'node'")
    assert (level, mend) == ("error", "edge-agent ports")
    assert words in text


@root
def test_a_group_is_missing(device: str, tmp_path: Path) -> None:
    """The agent's user is whose the data are, whoever asks."""
    config = with_device(tmp_path, device)
    (tmp_path / "gateway").mkdir()
    os.chown(tmp_path / "gateway", NOBODY, NOBODY)
    user = account_of(NOBODY).name
    Path(device).chmod(0o660)
    shutil.chown(device, "root", "dialout")
    level, text, mend = examined(config).of("port")
    assert level == "error"
    assert text == f"user {user!r} may not use {device}, which takes the group dialout"
    assert mend == f"sudo usermod -aG dialout {user} && sudo systemctl restart edge-agent"
    Path(device).chmod(0o600)
    level, text, mend = examined(config).of("port")
    assert (level, "no group may write it" in text) == ("error", True)
    assert mend is not None
    assert "/etc/udev/rules.d/" in mend
    shutil.chown(device, user, "root")
    assert examined(config).of("port")[0] == "ok"


def test_somebody_else_has_the_port(device: str, tmp_path: Path) -> None:
    config = with_device(tmp_path, device)
    with open(device, "rb", buffering=0) as file:  # noqa: PTH123
        other = subprocess.Popen(["sleep", "1000"], stdin=file)
    try:
        level, text, mend = examined(config).of("port")
        assert level == "error"
        assert text == f"{device} is in use by sleep (process {other.pid})"
        assert mend == f"sudo kill {other.pid}"
    finally:
        other.send_signal(signal.SIGKILL)
        other.wait()


# --- files -----------------------------------------------------------------------------


@root
@pytest.mark.parametrize("name", ["edge.sqlite", "session.secret"])
def test_the_data_are_somebody_elses(config: Path, tmp_path: Path, name: str) -> None:
    store = make_store(tmp_path / "gateway" / "edge.sqlite")
    for each in (store.parent, *store.parent.iterdir()):
        os.chown(each, NOBODY, NOBODY)
    file = store.with_name(name)
    file.touch()
    file.chmod(0o600)
    os.chown(file, 0, 0)
    found = examined(config)
    level, text, mend = found.of("data")
    user = account_of(NOBODY).name
    assert (level, str(file) in text) == ("error", True)
    assert mend is not None
    assert mend.startswith(f"sudo chown -R {user}: {tmp_path / 'gateway'} && ")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"not a database, whatever else it may be" * 100,
            "cannot be read (file is not a database)",
        ),
        (None, "another program"),
    ],
)
def test_a_store_that_is_none(
    content: bytes | None, words: str, config: Path, tmp_path: Path
) -> None:
    file = tmp_path / "gateway" / "edge.sqlite"
    file.parent.mkdir()
    if content is None:
        with closing(sqlite3.connect(file)) as db:
            db.execute("CREATE TABLE theirs (a)")
    else:
        file.write_bytes(content)
    found = examined(config)
    assert (found.of("store")[0], found.errors) == ("error", [("store", str(file))])
    assert words in found.of("store")[1]


def test_a_store_that_was_found_to_be_damaged(config: Path, tmp_path: Path) -> None:
    """And one with pages that cannot be read; looking at it leaves no mark."""
    file = make_store(tmp_path / "gateway" / "edge.sqlite", documents(100))
    marker(file).write_text("database disk image is malformed")
    assert "was found to be damaged" in examined(config).of("store")[1]
    marker(file).unlink()
    with file.open("r+b") as damaged:
        damaged.seek(4096)
        damaged.write(b"\xff" * (file.stat().st_size - 4096))
    assert "cannot be read" in examined(config).of("store")[1]
    assert not marker(file).exists()


def test_a_database_of_which_the_schema_is_no_text(tmp_path: Path, config: Path) -> None:
    file = make_store(tmp_path / "gateway" / "edge.sqlite")
    content = file.read_bytes()
    file.write_bytes(content.replace(b"docs_conflicts ON docs", b"docs_conflicts ON d\xffcs"))
    assert "cannot be read" in examined(config).of("store")[1]


def test_a_store_of_a_newer_version(config: Path, tmp_path: Path) -> None:
    file = make_store(tmp_path / "gateway" / "edge.sqlite")
    with closing(sqlite3.connect(file)) as db:
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    level, text, mend = examined(config).of("store")
    assert (level, mend) == ("error", "sudo scripts/install, from the newer version")
    assert f"schema {SCHEMA_VERSION + 1}" in text


def test_a_secret_that_everybody_may_read(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("hunter2")
    secret.chmod(0o644)
    remote = {"url": "http://127.0.0.1:9/x", "user": "a", "password_file": "secret"}
    config = agents.gateway_config(
        tmp_path / "gateway.toml", agents.table("remote", name="cloud", **remote)
    )
    level, text, mend = examined(config).of("secrets")
    assert (level, "everybody on this machine may read it" in text) == ("warning", True)
    assert mend is not None
    assert mend.endswith(f"chmod 600 {secret}")
    secret.chmod(0o600)
    config.chmod(0o644)
    assert "secrets" not in [finding["check"] for finding in examined(config).findings]
    agents.gateway_config(
        config, agents.table("remote", name="c", url="http://a:hunter2@[::1]:9/x")
    )
    level, _, mend = examined(config).of("secrets")
    assert mend is not None
    assert (level, mend.endswith(f"chmod 600 {config}")) == ("warning", True)


@root
@pytest.mark.parametrize("name", ["secret", "my secret", "anna's $(secret)"])
def test_the_commands_mend_it(name: str, tmp_path: Path) -> None:
    """Whatever files are called."""
    secret = tmp_path / name
    secret.write_text("hunter2")
    secret.chmod(0o644)
    remote = {"url": "http://127.0.0.1:9/x", "user": "a", "password_file": name}
    config = agents.gateway_config(
        tmp_path / "gateway.toml", agents.table("remote", name="cloud", **remote)
    )
    folder = tmp_path / "gateway"
    folder.mkdir(0o500)
    os.chown(folder, NOBODY, NOBODY)
    for check in ("data", "secrets"):
        mend = examined(config).of(check)[2]
        assert mend is not None
        subprocess.run(["bash", "-ec", mend.replace("sudo ", "")], check=True)
    found = examined(config)
    assert found.of("data")[0] == "ok"
    assert "secrets" not in [finding["check"] for finding in found.findings]


# --- the server ------------------------------------------------------------------------


def test_the_port_is_taken(tmp_path: Path, free_port: int) -> None:
    config = agents.gateway_config(tmp_path / "gateway.toml", port=free_port)
    with socket.create_server(("127.0.0.1", free_port)):
        level, text, mend = examined(config).of("listen")
    assert level == "error"
    assert f"(process {os.getpid()})" in text
    assert mend is not None
    assert mend.startswith(f"sudo kill {os.getpid()}")


def test_an_address_that_is_not_ours(tmp_path: Path) -> None:
    config = tmp_path / "hub.toml"
    config.write_text('[server]\nlisten = "192.0.2.1:5984"\n')
    found = examined(config)
    assert found.of("listen")[:2] == ("error", "this machine has no address 192.0.2.1")
    # Who has no user may not listen there in any case.
    assert "loopback only" in found.of("config")[1]


@pytest.mark.parametrize(
    ("days", "level", "words"),
    [
        (365, "ok", "for 365 more days"),
        (5, "warning", "has to be renewed"),
        (-1, "error", "expired"),
    ],
)
def test_our_own_certificate(days: int, level: str, words: str, tmp_path: Path) -> None:
    certificate(tmp_path, days)
    config = tmp_path / "hub.toml"
    config.write_text(
        '[server]\nlisten = "127.0.0.1:0"\ntls_certificate = "server.pem"\ntls_key = "server.key"\n'
    )
    found = examined(config).of("certificate")
    assert (found[0], words in found[1]) == (level, True)


def test_a_running_agent_tells(device: str, tmp_path: Path, free_port: int) -> None:
    config = agents.gateway_config(
        tmp_path / "gateway.toml",
        agents.table("device", name="gone", port="/dev/ttyUSB77", adapter="json-lines"),
        agents.table("device", name="there", port=device, adapter="json-lines"),
        agents.table("remote", name="cloud", url="http://127.0.0.1:9/x"),
        port=free_port,
    )
    with agents.gateway(config) as gateway:
        gateway.wait_until_ready()
        store = tmp_path / "gateway" / "edge.sqlite"
        when_true(lambda: query(store, "SELECT 1 FROM sqlite_master"))

        def told() -> bool:
            subjects = {subject for check, subject in examined(config).errors if check == "agent"}
            return subjects == {"device 'gone'", "remote 'cloud' push", "remote 'cloud' pull"}

        when_true(told)
        found = examined(config)
        assert found.of("agent", "status")[1].startswith(f"runs (process {gateway.pid}, ")
        # The agent itself is no stranger on its port.
        assert found.of("port", "device 'there'")[0] == "ok"
        assert "listen" not in [finding["check"] for finding in found.findings]


def test_a_running_agent_with_a_budget_that_is_spent(tmp_path: Path, free_port: int) -> None:
    make_store(tmp_path / "gateway" / "edge.sqlite", documents(20_000))
    config = agents.gateway_config(
        tmp_path / "gateway.toml", '[retention]\nmax_size = "1 MB"\n', port=free_port
    )
    with agents.gateway(config) as gateway:
        gateway.wait_until_ready()
        when_true(lambda: ("agent", "retention") in examined(config).errors)
        assert "nothing is recorded" in examined(config).of("agent", "retention")[1]


def test_a_hub_with_users_wants_a_log_in(tmp_path: Path, free_port: int) -> None:
    config = tmp_path / "hub.toml"
    config.write_text(f'[server]\nlisten = "127.0.0.1:{free_port}"\n')
    password = tmp_path / "password"
    password.write_text("hunter2")
    added = in_process(
        *("user", "add", "anna", "--role", "_admin", "--config", config),
        *("--password-file", password),
    )
    assert added.status == 0
    with AgentProcess(
        "hub", "--data", tmp_path / "hub", "--config", config, log=tmp_path / "log"
    ) as hub:
        hub.wait_until_ready()
        found = examined(config)
        assert "for the agent's administrators" in found.of("agent")[1]
        options = ("--url", f"http://anna@127.0.0.1:{free_port}")
        found = examined(config, *options, "--password-file", password)
        assert found.errors == []
        assert found.of("data")[0] == "ok"
