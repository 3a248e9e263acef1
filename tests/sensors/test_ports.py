"""What ports are called: pure choices, and what this machine really has."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import serial

from agent.errors import PortError
from agent.sensors import ports
from agent.sensors.port_users import users_of
from agent.sensors.ports import PortInfo, choose, find_path, lasting_name, local_ports

BUILT_IN = PortInfo("/dev/ttyAMA0", "")
SENSOR = PortInfo("/dev/ttyUSB0", "FT232R", "usb-FTDI_A1", 0x0403, 0x6001, "A1B2", "1-1.2")
TWIN_1 = PortInfo("/dev/ttyUSB1", "CH340", None, 0x1A86, 0x7523, None, "1-1.3")
TWIN_2 = PortInfo("/dev/ttyUSB2", "CH340", None, 0x1A86, 0x7523, None, "1-1.4")
QUAD_1 = PortInfo("/dev/ttyUSB3", "FT4232H", None, 0x0403, 0x6011, "QUAD", "2-1:1.0")
QUAD_2 = PortInfo("/dev/ttyUSB4", "FT4232H", None, 0x0403, 0x6011, "QUAD", "2-1:1.1")
ALL = [BUILT_IN, SENSOR, TWIN_1, TWIN_2, QUAD_1, QUAD_2]


@pytest.mark.parametrize(
    ("name", "port"),
    [
        ("serial:A1B2", SENSOR),
        ("usb:0403:6001", SENSOR),
        ("usb:1-1.2", SENSOR),
        ("usb:1-1.3", TWIN_1),
        ("usb:2-1:1.1", QUAD_2),
        ("/dev/ttyAMA0", BUILT_IN),
    ],
)
def test_a_name_means_a_port(name: str, port: PortInfo) -> None:
    assert choose(name, ALL) is port


def test_hexadecimal_digits_of_either_case() -> None:
    assert choose("usb:1A86:7523", [SENSOR, TWIN_1]) is TWIN_1
    assert choose("usb:1a86:7523", [SENSOR, TWIN_1]) is TWIN_1


@pytest.mark.parametrize("name", ["serial:a1b2", "usb:0403:6002", "usb:1-1", "usb:1-1.20"])
def test_a_name_that_means_nothing(name: str) -> None:
    with pytest.raises(PortError, match=rf"^{name}: no such port; .* edge-agent ports"):
        choose(name, ALL)


@pytest.mark.parametrize(
    ("name", "way_out"),
    [
        ("usb:1a86:7523", "usb:1-1.3 or usb:1-1.4"),
        ("serial:QUAD", "usb:2-1:1.0 or usb:2-1:1.1"),
        ("usb:2-1", "usb:2-1:1.0 or usb:2-1:1.1"),
    ],
)
def test_a_name_of_several_ports_names_the_way_out(name: str, way_out: str) -> None:
    with pytest.raises(PortError) as caught:
        choose(name, ALL)
    assert str(caught.value) == f"{name}: 2 ports are called that; write {way_out}"


def test_the_most_lasting_name_means_its_port_again() -> None:
    names = [lasting_name(port, ALL) for port in ALL]
    assert names == [
        "/dev/ttyAMA0",
        "serial:A1B2",
        "usb:1-1.3",
        "usb:1-1.4",
        "usb:2-1:1.0",
        "usb:2-1:1.1",
    ]
    assert [choose(name, ALL) for name in names] == ALL
    assert lasting_name(TWIN_1, [TWIN_1]) == "usb:1a86:7523"


def test_paths_and_names_below_by_id_need_no_looking_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody_asks() -> list[PortInfo]:
        raise AssertionError

    monkeypatch.setattr(ports, "local_ports", nobody_asks)
    assert find_path("/dev/ttyS7") == "/dev/ttyS7"
    assert find_path("usb-FTDI_A1") == "/dev/serial/by-id/usb-FTDI_A1"


def test_what_this_machine_has() -> None:
    """Whatever is there: each is a character device whose names lead back to it."""
    found = local_ports()
    for port in found:
        assert Path(port.path).is_char_device()
        assert choose(lasting_name(port, found), found) is port
        assert find_path(port.path) == port.path
    with pytest.raises(PortError, match="no such port"):
        find_path("serial:there is no such number")


def test_names_below_by_id_are_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Listed:
        device, product, description = "/dev/null", "Sensor", "Sensor - if00"
        vid, pid, serial_number, location = 0x0403, 0x6001, "", "1-1"

        def __lt__(self, other: object) -> bool:
            return False

    (tmp_path / "usb-Sensor-if00").symlink_to("/dev/null")
    monkeypatch.setattr(ports, "BY_ID", tmp_path)
    monkeypatch.setattr(ports.list_ports, "comports", lambda: [Listed()])
    assert local_ports() == [
        PortInfo("/dev/null", "Sensor", "usb-Sensor-if00", 0x0403, 0x6001, None, "1-1")
    ]


@pytest.fixture
def terminal() -> Iterator[str]:
    """The path of a port that nobody has open."""
    ours, theirs = pty.openpty()
    path = os.ttyname(theirs)
    os.close(theirs)
    yield path
    os.close(ours)


def test_who_has_a_port_open(terminal: str) -> None:
    assert users_of(terminal) == {}
    with open(terminal, "rb", buffering=0):  # noqa: PTH123
        assert list(users_of(terminal)) == [os.getpid()]
    assert users_of(terminal) == {}
    assert users_of("/no/such/port") == {}


def test_who_has_a_port_locked(terminal: str) -> None:
    program = f"import serial; port = serial.Serial({terminal!r}, exclusive=True); print(); input()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = users_of(terminal)
        process.communicate(b"\n")
    assert list(found) == [process.pid]
    assert "python" in found[process.pid]


def test_a_lock_alone_shows_who_has_it(terminal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of a process whose descriptors only root may see."""
    monkeypatch.setattr("agent.sensors.port_users._openers", lambda device: iter(()))
    with serial.Serial(terminal, exclusive=True):
        assert list(users_of(terminal)) == [os.getpid()]
    assert users_of(terminal) == {}
