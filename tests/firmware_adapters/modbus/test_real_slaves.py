"""Slaves made with libmodbus and pymodbus, at the other end of a serial line made by socat."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from tests.agents import CHECKOUT, gateway, gateway_config
from tests.cli.helpers import query, request
from tests.patience import when_true

HERE = Path(__file__).parent


@contextmanager
def running(*command: object) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [*map(str, command)],
        cwd=CHECKOUT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def ready(*command: object) -> Iterator[None]:
    with running(*command) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        yield


@pytest.fixture
def line(tmp_path: Path) -> Iterator[tuple[Path, Path]]:
    """The two ends of a serial line."""
    if shutil.which("socat") is None:
        pytest.skip("socat is missing (Debian package socat)")
    ends = tmp_path / "gateway-end", tmp_path / "slave-end"
    with running("socat", *(f"pty,raw,echo=0,link={end}" for end in ends)):
        when_true(lambda: all(end.exists() for end in ends))
        yield ends


@pytest.fixture(scope="module")
def slave(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program slave.c."""
    program = tmp_path_factory.mktemp("slave") / "slave"
    if not Path("/usr/include/modbus/modbus.h").exists() or shutil.which("gcc") is None:
        pytest.skip("libmodbus or gcc is missing (Debian packages libmodbus-dev and gcc)")
    options = ["-Wall", "-Wextra", "-Werror", "-I/usr/include/modbus"]
    source = HERE / "slave.c"
    subprocess.run(["gcc", *options, "-o", program, source, "-lmodbus"], check=True)
    return program


def device(
    port: Path,
    slaves: dict[str, int],
    registers: list[str],
    interval: float,
    *,
    timeout: float = 1.0,
) -> str:
    """`timeout`, in seconds, is a long one where nobody is to be silent."""
    tables = [
        f'[[device]]\nname = "line"\nport = "{port}"\nadapter = "modbus-rtu"',
        f"[device.settings]\ntimeout = {timeout}",
        '[[device.settings.map]]\nname = "meter"',
        *(f"[[device.settings.map.register]]\n{register}" for register in registers),
        *(
            f'[[device.settings.slave]]\naddress = {address}\nname = "{name}"\nmap = "meter"\n'
            f"interval = {interval}"
            for name, address in slaves.items()
        ),
    ]
    return "\n".join(tables)


def events_at(url: str) -> dict[str, int]:
    """The events that a gateway with one device counts."""
    [shown] = request("GET", f"{url}/_status")["devices"]
    events: dict[str, int] = shown["events"]
    return events


READINGS = "SELECT sensor, value FROM readings ORDER BY time, sensor"


def test_pymodbus_is_read_and_recorded(line: tuple[Path, Path], tmp_path: Path) -> None:
    registers = [
        'name = "voltage"\naddress = 0\ntype = "float32"\nunit = "V"',
        'name = "balance"\naddress = 2\ntype = "int32"',
        'name = "frequency"\naddress = 4\nscale = 0.01',
        'name = "pump"\naddress = 3\ntable = "coil"',
        'name = "absent"\naddress = 900',
    ]
    config = gateway_config(
        tmp_path / "gateway.toml", device(line[0], {"a": 17}, registers, 0.2, timeout=10)
    )
    store = tmp_path / "gateway" / "edge.sqlite"
    with (
        ready(sys.executable, HERE / "server.py", line[1], 17),
        gateway(config) as agent,
    ):
        url = agent.wait_until_ready()
        when_true(lambda: len(query(store, READINGS)) >= 12)
        events = events_at(url)
        assert agent.stop().status == 0
    found = set(query(store, READINGS))
    assert found == {("a.voltage", 230.5), ("a.balance", -7), ("a.frequency", 23.51), ("a.pump", 1)}
    # It is the register that pymodbus does not have.
    assert events.keys() == {"refused"}
    units = query(store, "SELECT DISTINCT body ->> 'unit' FROM docs WHERE body ->> 'unit' != ''")
    assert units == [("V",)]


EXPECTED = {"present.level": -2, "present.flow": 4711}


def test_a_silent_slave_does_not_hold_up_the_others(
    line: tuple[Path, Path], slave: Path, tmp_path: Path
) -> None:
    """libmodbus answers for its own address only: the other one is silent."""
    registers = ['name = "level"\naddress = 0\ntype = "int16"', 'name = "flow"\naddress = 1']
    registers.append('name = "answered"\naddress = 0\ntable = "input"')
    slaves = {"present": 3, "absent": 4}
    config = gateway_config(tmp_path / "gateway.toml", device(line[0], slaves, registers, 0.1))
    store = tmp_path / "gateway" / "edge.sqlite"

    def answered() -> list[int]:
        return [value for sensor, value in query(store, READINGS) if sensor == "present.answered"]

    with ready(slave, line[1], 3, 0xFFFE, 4711), gateway(config) as agent:
        url = agent.wait_until_ready()
        when_true(lambda: len(answered()) >= 15)
        events = events_at(url)
        agent.stop()
    readings = query(store, READINGS)
    assert {sensor for sensor, _ in readings} == set(EXPECTED) | {"present.answered"}
    answers = 0
    for sensor, value in readings:
        if sensor == "present.answered":
            # Of what the slave says it has answered, nothing is lost or there twice.
            assert answers <= value <= answers + events["no-answer"]
        else:
            assert value == EXPECTED[sensor]
        answers += sensor != "present.flow"  # which comes with present.level
    assert events.keys() == {"no-answer"}
    # Asked every 0.1 s it would have been silent nearly as often as the other one answered.
    assert events["no-answer"] <= 8


def test_a_slave_that_comes_later_is_found(
    line: tuple[Path, Path], slave: Path, tmp_path: Path
) -> None:
    registers = ['name = "level"\naddress = 0']
    config = gateway_config(tmp_path / "gateway.toml", device(line[0], {"a": 3}, registers, 0.1))
    store = tmp_path / "gateway" / "edge.sqlite"

    with gateway(config) as agent:
        url = agent.wait_until_ready()
        when_true(lambda: events_at(url).get("no-answer", 0) >= 2)
        assert query(store, READINGS) == []
        with ready(slave, line[1], 3, 5):
            when_true(lambda: ("a.level", 5) in query(store, READINGS))
        agent.stop()


# --- writing ---------------------------------------------------------------------------


def desire(url: str, **desired: Any) -> None:
    body = {**request("GET", f"{url}/edge/device:line"), "desired": desired}
    request("PUT", f"{url}/edge/device:line", body)


def has_reported(url: str, **expected: Any) -> Callable[[], Any]:
    def check() -> Any:
        body = request("GET", f"{url}/edge/device:line")
        return body if expected.items() <= body["reported"].items() else None

    return check


def known(store: Path) -> Callable[[], Any]:
    """Whether there is a document with what the slaves have said."""
    sql = "SELECT body FROM docs WHERE id = 'device:line' AND body ->> 'reported' <> '{}'"
    return lambda: query(store, sql)


def test_settings_of_pymodbus_are_written(line: tuple[Path, Path], tmp_path: Path) -> None:
    registers = [
        'name = "voltage"\naddress = 0\ntype = "float32"\nwritable = true\nmin = 0\nmax = 400',
        'name = "balance"\naddress = 2\ntype = "int32"\nwritable = true',
        'name = "frequency"\naddress = 4\nscale = 0.01\nwritable = true',
        'name = "fixed"\naddress = 5\nwritable = true',
        'name = "pump"\naddress = 3\ntable = "coil"\nwritable = true',
    ]
    config = gateway_config(
        tmp_path / "gateway.toml", device(line[0], {"a": 17}, registers, 0.2, timeout=10)
    )
    store = tmp_path / "gateway" / "edge.sqlite"
    with (
        ready(sys.executable, HERE / "server.py", line[1], 17),
        gateway(config) as agent,
    ):
        url = agent.wait_until_ready()
        when_true(known(store))
        when_true(has_reported(url, **{"a.voltage": 230.5, "a.pump": True, "a.fixed": 12}))
        wishes = {"a.voltage": 12.25, "a.balance": -70_000, "a.frequency": 50.5, "a.pump": False}
        desire(url, **wishes, **{"a.fixed": 13})
        body = when_true(has_reported(url, **wishes))
        assert body["reported"]["a.fixed"] == 12
        body = when_true(lambda: refused(url))
        assert body["refused"]["a.fixed"]["value"] == 13
        assert body["refused"]["a.fixed"]["reason"] in (
            "illegal data address",
            "illegal data value",
        )
        when_true(lambda: ("a.frequency", 50.5) in query(store, READINGS))
        desire(url, **{"a.voltage": 500, "a.missing": 1})
        reasons = when_true(
            lambda: (body := refused(url)) and "a.missing" in body["refused"] and body["refused"]
        )
        assert reasons["a.voltage"]["reason"] == "it can be from 0 up to 400"
        assert reasons["a.missing"]["reason"] == "no register of this name is writable"
        assert agent.stop().status == 0


def refused(url: str) -> Any:
    body = request("GET", f"{url}/edge/device:line")
    return body if body.get("refused") else None


def test_a_wish_for_a_slave_that_is_silent_waits_for_it(
    line: tuple[Path, Path], slave: Path, tmp_path: Path
) -> None:
    registers = ['name = "level"\naddress = 0\ntype = "int16"\nwritable = true']
    slaves = {"present": 3, "absent": 4}
    config = gateway_config(tmp_path / "gateway.toml", device(line[0], slaves, registers, 0.1))
    store = tmp_path / "gateway" / "edge.sqlite"
    values = "SELECT value FROM readings WHERE sensor = 'present.level' ORDER BY time"
    with gateway(config) as agent:
        url = agent.wait_until_ready()
        with ready(slave, line[1], 3, 5):
            when_true(known(store))
            desire(url, **{"present.level": -2, "absent.level": 4})
            when_true(has_reported(url, **{"present.level": -2}))
            [shown] = request("GET", f"{url}/_status")["devices"]
            assert shown["settings"]["pending"] == ["absent.level"]
        # Started anew it has lost what it was told, and is told again.
        with ready(slave, line[1], 3, 5):
            when_true(
                lambda: [value for (value,), _ in groupby(query(store, values))] == [5, -2, 5, -2]
            )
        agent.stop()
