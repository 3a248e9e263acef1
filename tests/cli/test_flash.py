"""`edge-agent flash`, with the real programmers: they program a real boot loader in a simulated
AVR and a real MicroPython, and refuse where nobody answers."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from agent.config_file import load
from agent.flash.boards import BOARDS
from tests import agents
from tests.agents import Finished, command, edge_agent
from tests.cli.helpers import in_process
from tests.cli.serial_ports import Listed, listing
from tests.devices.building import boot_loader, need, simulated_board
from tests.devices.cable import Board
from tests.patience import PATIENCE, when_true
from tests.sensors.uart import Uart


@pytest.fixture
def silent() -> Iterator[str]:
    """A port that nobody answers at."""
    with Uart(lambda _: b"") as port:
        yield port.path


@pytest.fixture
def micropython_board(tmp_path: Path) -> Iterator[Board]:
    files = tmp_path / "board"
    files.mkdir()
    program = [sys.executable, "-m", "tests.devices.prompt", files]
    with Board(tmp_path / "port", tmp_path / "board.log", program) as board:
        yield board
    when_true(lambda: not processes_in(files))


def processes_in(folder: Path) -> list[int]:
    """Those that have it as their working directory."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cwd").readlink() == folder:
                found.append(int(process.name))
    return found


def on_terminal(*arguments: object) -> tuple[Finished, str]:
    """Run `edge-agent` with standard error on a terminal; returns what was shown there, too. What
    hangs is interrupted."""
    near, far = os.openpty()
    shown = bytearray()

    def watch() -> None:
        try:
            while data := os.read(near, 4096):
                shown.extend(data)
        except OSError:  # nobody has the terminal open any more
            return

    watching = threading.Thread(target=watch)
    with subprocess.Popen(
        command(*arguments), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=far, text=True
    ) as process:
        os.close(far)
        watching.start()
        try:
            stdout, _ = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)  # which ends the programmer, too
            stdout, _ = process.communicate(timeout=PATIENCE)
    watching.join()
    os.close(near)
    return Finished(process.returncode, stdout, ""), shown.decode()


def test_an_arduino(tmp_path: Path) -> None:
    need("avrdude", "avrdude")
    need("avr-gcc", "gcc-avr avr-libc")
    command_line = [simulated_board(tmp_path), boot_loader()]
    with Board(tmp_path / "port", tmp_path / "board.log", command_line) as board:
        board.resets = True
        # On a busy machine the board's answer may be a quarter of a second late: avrdude then takes
        # it for that to its next question, and refuses, or asks on and on.
        for _ in range(3):
            done, shown = on_terminal(
                *("flash", "uno", "--port", board.port, "--name", "greenhouse"),
                *("--seconds", PATIENCE / 2),
            )
            if done.status == 0:
                break
    assert done.status == 0, shown[-300:]
    assert re.search(r"^first reading: a[01] = \d+ mV$", done.stdout, re.MULTILINE)
    table = done.stdout[done.stdout.index("[[device]]") :]
    config = agents.gateway_config(tmp_path / "gateway.toml", table)
    (device,) = load(config).device
    assert (device.name, device.port) == ("greenhouse", str(board.port))
    for doing in ("build the firmware", "write the firmware: writing", "firmware: reading"):
        assert doing in shown
    assert re.search(r"\b[1-9]\d%", shown)


def test_a_board_with_micropython(tmp_path: Path, micropython_board: Board) -> None:
    flash = ("flash", "micropython", "--seconds", PATIENCE / 2, "--port", micropython_board.port)
    done, shown = on_terminal(*flash)
    assert done.status == 0, shown
    assert "first reading: " in done.stdout
    assert "copy the firmware: copying" in shown
    # The firmware, which lets nobody interrupt it, makes way for the next one.
    script = tmp_path / "own.py"
    script.write_text((tmp_path / "board" / "main.py").read_text() + "\n# mine\n")
    again = in_process(*flash, "--script", script, "--json").json()
    assert again["reading"]["unit"] in ("C", "%", None)
    assert again["device"].startswith("[[device]]\n")
    assert (tmp_path / "board" / "main.py").read_text() == script.read_text()


def test_a_script_that_says_nothing(tmp_path: Path, micropython_board: Board) -> None:
    script = tmp_path / "silent.py"
    script.write_text("x = 1\n")
    done = in_process(
        *("flash", "micropython", "--port", micropython_board.port),
        *("--script", script, "--seconds", 0.5),
    )
    assert done.status == 1
    assert "the firmware was written, but no reading came in 0.5 s" in done.stderr


def test_the_programmers_refusals(tmp_path: Path) -> None:
    """Where nobody answers each of them gives up, some of them after a while."""
    need("avrdude", "avrdude")
    image = tmp_path / "image"
    image.write_bytes(b":00000001FF\n")
    ports = [tmp_path / name for name in ("a", "b", "c")]
    with contextlib.ExitStack() as stack:
        for port in ports:
            # By a name of another kind: of /dev/pts mpremote waits for an answer without an end.
            port.symlink_to(stack.enter_context(Uart(lambda _: b"")).path)
        uno, esp, pico = stack.enter_context(ThreadPoolExecutor()).map(
            lambda arguments: edge_agent("flash", *arguments),
            (
                ("uno", "--port", ports[0], "--image", image),
                ("esp32", "--port", ports[1], "--image", image),
                ("pico", "--port", ports[2]),
            ),
        )
    expected = (
        (uno, f"avrdude error: unable to open programmer arduino on port {ports[0]}; is it that"),
        (esp, "Failed to connect to ESP32: No serial data received; hold the board's"),
        (pico, "mpremote.transport.TransportError: could not enter raw repl; is MicroPython on"),
    )
    for done, words in expected:
        assert done.status == 1
        assert words in done.stderr.splitlines()[-1]
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("board", BOARDS)
def test_the_commands_without_running_them(board: str, silent: str) -> None:
    done = in_process("flash", board, "--port", silent, "--dry-run", "--json")
    assert (done.status, done.stderr) == (0, "")
    told = done.json()
    assert (told["board"], told["port"]) == (board, silent)
    assert all(shlex.split(line)[0] in ("make", "avrdude", "mpremote") for line in told["commands"])
    assert silent in told["commands"][-1]
    text = in_process("flash", board, "--port", silent, "--dry-run").stdout
    assert len(text.splitlines()) == len(told["commands"])


def test_micropython_is_written_where_its_chip_starts(tmp_path: Path, silent: str) -> None:
    image = tmp_path / "micropython.bin"
    image.touch()
    for board, place in (("esp32", "0x1000"), ("esp32c3", "0x0")):
        arguments = ("flash", board, "--port", silent, "--image", image, "--dry-run", "--json")
        write, copy = in_process(*arguments).json()["commands"]
        assert write.startswith(f"esptool --chip {board} --port {silent} ")
        assert write.endswith(f" {place} {image}")
        assert copy.startswith(f"mpremote sleep 5 connect {silent} ")


def test_the_port_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    with Uart(lambda _: b"") as first, Uart(lambda _: b"") as second:
        uno = Listed(first.path, "Arduino Uno", 0x2341, 0x0043, "A1")
        other = Listed(second.path, "GPS", 0x1546, 0x01A7, location="1-1.3")

        def found(*there: Listed) -> str | None:
            listing(monkeypatch)(there)
            done = in_process("flash", "uno", "--dry-run", "--json")
            told = done.json()
            assert told.get("port") or done.status == 1
            return told.get("port") or told["error"]

        assert found(Listed("/dev/ttyS0"), uno, other) == first.path
        assert found(Listed("/dev/ttyS0"), other) == second.path
        assert "check the cable" in str(found(Listed("/dev/ttyS0")))
        twin = Listed(second.path, "Arduino Uno", 0x2341, 0x0043, "A2")
        said = str(found(uno, twin))
        assert said.startswith("2 ports may be the board's; write --port serial:A")
        assert all(f"serial:{each} (Arduino Uno)" in said for each in ("A1", "A2"))


def test_a_port_in_use(tmp_path: Path, silent: str) -> None:
    descriptor = os.open(silent, os.O_RDWR | os.O_NOCTTY)
    try:
        done = in_process("flash", "uno", "--port", silent, "--dry-run")
    finally:
        os.close(descriptor)
    assert f"(process {os.getpid()}) uses it; stop that first" in done.complaint()


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("uno", "--port", "/dev/no-such"), "/dev/no-such"),
        (("uno", "--port", "rfc2217://127.0.0.1:1"), "avrdude knows no RFC 2217"),
        (("pico", "--port", "socket://127.0.0.1:1", "--image", __file__), "--image is for"),
        (("uno", "--port", "socket://127.0.0.1:1", "--script", __file__), "--script is for"),
    ],
)
def test_what_cannot_be(arguments: tuple[str, ...], complaint: str) -> None:
    assert complaint in in_process("flash", *arguments).complaint()


def test_a_port_at_the_end_of_a_network() -> None:
    done = in_process("flash", "nano-old", "--port", "socket://127.0.0.1:4000", "--dry-run")
    assert "-P net:127.0.0.1:4000 -b 57600 " in done.stdout


def test_a_name_that_no_device_can_have(silent: str) -> None:
    done = in_process("flash", "uno", "--port", silent, "--name", "a/b", "--dry-run")
    assert done.status == 2
    assert "--name" in done.stderr


@pytest.mark.parametrize(
    ("board", "missing", "cure"),
    [
        ("uno", "make", "sudo apt install gcc-avr avr-libc make"),
        ("pico", "mpremote", "pip install 'edge-sync-agent[flash]'"),
    ],
)
def test_a_missing_programmer(
    board: str, missing: str, cure: str, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("sys.executable", "/no/python")
    started = time.monotonic()
    done = in_process("flash", board, "--port", silent, "--seconds", 120)
    assert time.monotonic() - started < 60  # nobody has waited for a reading
    assert done.complaint() == f"the program {missing} is missing; install it: {cure}"
