"""`edge-agent init`: some answers make a configuration that works, and nothing is overwritten."""

from __future__ import annotations

import re
import stat
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from agent.config_file import load
from tests import agents
from tests.agents import edge_agent
from tests.cli.helpers import in_process, request
from tests.cli.serial_ports import Listed, listing
from tests.patience import when_true
from tests.sensors.uart import Uart, json_line

Say = Callable[[Iterable[Listed]], None]
SECRET = "hunter2"
QUICK = ("--seconds", "1")


@pytest.fixture(autouse=True)
def listed(monkeypatch: pytest.MonkeyPatch) -> Say:
    """No test opens a port of this machine."""
    say = listing(monkeypatch)
    say([])
    return say


def typed(*answers: str) -> str:
    return "".join(f"{answer}\n" for answer in answers)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_whole_interview_ends_with_a_working_gateway(tmp_path: Path, listed: Say) -> None:
    config = tmp_path / "new" / "gateway.toml"
    with Uart(json_line, 9600) as device:
        listed([Listed(device.path)])
        answers = typed(
            "gateway-7",
            "store",
            "127.0.0.1:0",
            "y",  # listen to the free ports
            "",  # the port that speaks
            "greenhouse",
            "none",  # no more ports
            "http://127.0.0.1:9/edge",
            "anna",
            SECRET,
        )
        done = in_process("init", "--config", config, *QUICK, answers=answers)
        assert (done.status, done.stderr) == (0, "")
        assert device.heard == b""
        checked = in_process("config", "check", "--config", config)
        assert checked.stdout == f"{config}: ok (devices: greenhouse; remotes: cloud)\n"

        with agents.gateway(config) as gateway:
            url = gateway.wait_until_ready()
            when_true(lambda: request("GET", f"{url}/edge")["doc_count"] > 0)
            assert gateway.stop().status == 0

    assert (
        f"  1  {device.path} ({device.path}): json-lines at 9600 8N1: temperature = " in done.stdout
    )
    assert "greenhouse: first reading: temperature = " in done.stdout
    assert done.stdout.endswith(f"next: edge-agent run --config {config}\n")
    read = load(config)
    assert (read.agent.name, read.agent.data) == ("gateway-7", str(config.parent / "store"))
    assert read.server.listen == "127.0.0.1:0"
    (found,) = read.device
    assert (found.name, found.port, found.adapter, found.baud) == (
        "greenhouse",
        device.path,
        "json-lines",
        9600,
    )
    (remote,) = read.remote
    assert (remote.url, remote.user) == ("http://127.0.0.1:9/edge", "anna")
    assert remote.secret() == SECRET
    assert mode(config) == mode(config.parent / "cloud.password") == 0o600
    assert SECRET not in config.read_text() + done.stdout
    assert "# what it speaks" in config.read_text()


def test_what_is_wrong_is_asked_again(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    answers = typed(
        "a b", "gateway-1", "", "localhost", "127.0.0.1:0", "usb:1", "none",
        "ftp://x/y", "http://anna:b@x/y", "http://x/y", "none",
    )  # fmt: skip
    done = in_process("init", "--config", config, answers=answers)
    assert done.status == 0
    for part in (
        'for example name = "greenhouse-1"',
        "expected HOST:PORT",
        "socket://HOST:PORT",
        "expected http(s)://HOST[:PORT]/DATABASE",
        "leave them out",
        "no device yet: plug one in",
    ):
        assert part in done.stdout
    read = load(config)
    assert read.device == []
    assert read.remote[0].user is None
    assert not (tmp_path / "cloud.password").exists()


def test_a_device_that_is_not_there_yet(tmp_path: Path) -> None:
    config, port = tmp_path / "gateway.toml", tmp_path / "gone"
    answers = typed("", "", "", str(port), "", "json-lines", "9600", str(port), "none", "none")
    done = in_process("init", "--config", config, *QUICK, answers=answers)
    assert done.status == 0
    assert f"{port}: no such port; is the device plugged in" in done.stdout
    assert "That port is another device's already." in done.stdout
    assert f"device-1: no reading: {port}: no such port" in done.stdout
    (device,) = load(config).device
    assert (device.port, device.adapter, device.baud) == (str(port), "json-lines", 9600)


def test_what_is_commented_out_is_valid(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    assert in_process("init", "--config", config, "--yes", *QUICK).status == 0
    before = load(config)
    assert before.clock.trust == "sources"
    keys = re.compile(r"^# (?=\[|\w+ = )", re.MULTILINE)
    config.write_text(keys.sub("", config.read_text()))
    read = load(config)
    assert (len(read.device), len(read.remote), read.clock.trust) == (1, 1, "system")


def test_a_device_that_says_nothing(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    with Uart(lambda _: b"") as device:
        answers = typed("", "", "", device.path, "n", "", "json-lines", "", "none", "none")
        done = in_process("init", "--config", config, *QUICK, answers=answers)
    assert done.status == 0
    assert (
        "device-1: no reading in 4 s; check that the device is on, wired and speaks json-lines "
        "at 115200 8N1" in done.stdout
    )


def test_another_port_than_those_listed_is_listened_to(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    with Uart(json_line) as device:
        answers = typed("", "", "", device.path, "y", "", "none", "none")
        done = in_process("init", "--config", config, *QUICK, answers=answers)
    assert done.status == 0
    assert "device-1: first reading: temperature = " in done.stdout
    assert load(config).device[0].adapter == "json-lines"


def test_an_address_for_others_needs_an_administrator(tmp_path: Path) -> None:
    config = tmp_path / "gateway.toml"
    answers = typed("", "", "0.0.0.0:0", "a:b", "anna", SECRET, SECRET, "none", "none")
    done = in_process("init", "--config", config, answers=answers)
    assert done.status == 0
    (user,) = load(config).user
    assert (user.name, user.roles) == ("anna", ["_admin"])
    assert SECRET not in config.read_text()


def test_without_questions(tmp_path: Path, listed: Say) -> None:
    config = tmp_path / "gateway.toml"
    with Uart(json_line) as device, Uart(lambda _: b"") as silent:
        listed([Listed(silent.path), Listed(device.path, None, 0x0403, 0x6001, "A1", "1-1")])
        done = in_process("init", "--yes", "--config", config, *QUICK)
        assert device.heard == silent.heard == b""
    assert (done.status, done.stderr) == (0, "")
    (found,) = load(config).device
    assert (found.name, found.port, found.adapter) == ("device-1", "serial:A1", "json-lines")
    assert "device-1: first reading: temperature = " in done.stdout


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    config, password = tmp_path / "gateway.toml", tmp_path / "cloud.password"
    config.write_text("mine")
    assert "there is such a file" in in_process("init", "--yes", "--config", config).complaint()
    done = in_process("init", "--config", config, answers=typed("n"))
    assert done.status == 1
    password.write_text("mine, too")
    answers = typed("y", "", "", "", "none", "http://x/y", "anna", "n")
    done = in_process("init", "--config", config, answers=answers)
    assert done.status == 1
    assert f"{password} is there already; replace it?" in done.stdout
    assert (config.read_text(), password.read_text()) == ("mine", "mine, too")

    answers = typed("y", "", "", "", "none", "http://x/y", "anna", "y", SECRET)
    done = in_process("init", "--config", config, answers=answers)
    assert done.status == 0
    assert load(config).remote[0].secret() == SECRET


def test_who_ends_the_interview_changes_nothing(tmp_path: Path) -> None:
    done = in_process("init", "--config", tmp_path / "gateway.toml", answers=typed("gateway-1"))
    assert done.status == 1
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_told_before_any_question(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    config = tmp_path / "gateway.toml"
    complaint = edge_agent("init", "--config", config, bound=True).complaint()
    assert complaint.startswith(f"{config}: cannot be written by this user; use sudo")
    assert "cannot be written" in in_process("init", "--config", tmp_path).complaint()
