"""Serial links on pseudo-terminals: they vanish, come back, are refused, busy, slow and full."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import os
import random
import termios
import tty
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import serial

from agent.backoff import Backoff
from agent.errors import PortError
from agent.sensors import ports
from agent.sensors.link import SerialLink
from agent.sensors.opening import LineFormat
from agent.sensors.port_errors import explain_failure
from agent.sensors.ports import PortInfo
from tests.patience import PATIENCE, until


class Port:
    """A port that can be plugged in and out; the path is a link, as with by-id names."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.device = -1

    def plug_in(self) -> None:
        self.device, port = os.openpty()
        tty.setraw(port)
        os.set_blocking(self.device, False)
        self.path.symlink_to(os.ttyname(port))
        os.close(port)

    def unplug(self) -> None:
        if self.device >= 0:
            os.close(self.device)
            self.path.unlink()
        self.device = -1


@pytest.fixture
def port(tmp_path: Path) -> Iterator[Port]:
    port = Port(tmp_path / "port")
    yield port
    port.unplug()


def quick(path: Path, **options: float) -> SerialLink:
    return SerialLink(str(path), backoff=Backoff(0.01, 0.05), **options)


@asynccontextmanager
async def running(
    link: SerialLink,
    on_data: Callable[[bytes], object] = lambda data: None,
    on_open: Callable[[], None] = lambda: None,
) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(link.run(on_data, on_open))  # type: ignore[arg-type]
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert link.state == "waiting"


async def test_bytes_go_both_ways_unchanged(port: Port) -> None:
    every_byte = bytes(range(256)) * 4
    received = bytearray()
    sent = bytearray()
    port.plug_in()
    link = quick(port.path)
    async with running(link, received.extend):
        await until(lambda: link.state == "open")
        os.write(port.device, every_byte)
        await until(lambda: len(received) == len(every_byte))
        await link.write(every_byte)
        while len(sent) < len(every_byte):
            sent += os.read(port.device, 65536)
    assert received == sent == every_byte
    assert (link.opens, link.bytes_received, link.bytes_sent) == (1, 1024, 1024)


async def test_the_port_vanishes_and_comes_back(port: Port) -> None:
    seen: list[bytes | str] = []
    link = quick(port.path)
    async with running(link, seen.append, lambda: seen.append("open")):
        for opening in (1, 2, 3):
            await until(lambda: link.last_error and "no such port" in link.last_error)
            assert link.state == "waiting"
            port.plug_in()
            await until(lambda: link.state == "open")
            assert link.opens == opening
            assert link.last_error is None
            os.write(port.device, b"x%d" % opening)
            await until(lambda: seen[-1] == b"x%d" % opening)  # noqa: B023 - awaited here
            port.unplug()
            await until(lambda: link.state == "waiting")
    assert seen == ["open", b"x1", "open", b"x2", "open", b"x3"]


async def test_a_device_is_found_again_under_another_device_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two devices that swap their device files, as they do when they are plugged in once more."""
    ends = [os.openpty() for _ in range(2)]
    paths = [os.ttyname(line) for _, line in ends]
    for device, line in ends:
        tty.setraw(line)
        os.set_blocking(device, False)
    plugged = dict(zip(("A", "B"), paths, strict=True))
    monkeypatch.setattr(
        ports,
        "local_ports",
        lambda: [PortInfo(path, "", serial=number) for number, path in plugged.items()],
    )
    received: dict[str, bytearray] = {"A": bytearray(), "B": bytearray()}
    links = {n: SerialLink(f"serial:{n}", backoff=Backoff(0.01, 0.05)) for n in received}
    async with running(links["A"], received["A"].extend), running(links["B"], received["B"].extend):
        await until(lambda: all(link.state == "open" for link in links.values()))
        for (device, _), name in zip(ends, b"AB", strict=True):
            os.write(device, bytes([name]))
        await until(lambda: received == {"A": b"A", "B": b"B"})

        plugged.clear()
        for device, line in ends:
            os.close(device)
            os.close(line)
        await until(
            lambda: all("no such port" in (link.last_error or "") for link in links.values())
        )
        ends = [os.openpty() for _ in range(2)]
        for device, line in ends:
            tty.setraw(line)
            os.set_blocking(device, False)
        plugged.update(zip(("B", "A"), (os.ttyname(line) for _, line in ends), strict=True))
        await until(lambda: all(link.opens == 2 for link in links.values()))
        for (device, _), name in zip(ends, b"BA", strict=True):
            os.write(device, bytes([name]))
        await until(lambda: received == {"A": b"AA", "B": b"BB"})
    for end in (*ends[0], *ends[1]):
        os.close(end)


async def test_what_was_sent_just_before_unplugging_is_read_or_lost_but_not_fatal(
    port: Port,
) -> None:
    link = quick(port.path)
    async with running(link):
        for opening in range(1, 21):
            port.plug_in()
            await until(lambda: link.opens == opening)  # noqa: B023 - awaited here
            os.write(port.device, b"x" * 100)
            port.unplug()
            await until(lambda: link.last_error)


async def test_a_vanished_port_says_so(port: Port, caplog: pytest.LogCaptureFixture) -> None:
    port.plug_in()
    link = SerialLink(str(port.path), backoff=Backoff(30, 30, random.Random(1)))
    async with running(link):
        await until(lambda: link.state == "open")
        port.unplug()
        await until(lambda: link.last_error)
        assert link.last_error == (
            f"{port.path}: the port has vanished; was the device unplugged or reset?"
        )
    assert [record.message for record in caplog.records] == [link.last_error]


async def test_waiting_for_a_missing_port_logs_once(
    port: Port, caplog: pytest.LogCaptureFixture
) -> None:
    class Counted(Backoff):
        tries = 0

        def next_delay(self) -> float:
            self.tries += 1
            return super().next_delay()

    backoff = Counted(0.001, 0.001)
    async with running(SerialLink(str(port.path), backoff=backoff)):
        await until(lambda: backoff.tries > 5)
    assert [record.message for record in caplog.records] == [
        f"{port.path}: no such port; is the device plugged in, and the path right?"
    ]


async def test_a_busy_port_is_waited_for(port: Port) -> None:
    port.plug_in()
    link = quick(port.path)
    with serial.Serial(str(port.path), exclusive=True):
        async with running(link):
            await until(lambda: link.last_error)
            assert link.last_error == (
                f"{port.path}: another program has the port open; stop it, or give it another port"
            )
    async with running(link):
        await until(lambda: link.state == "open")


async def test_what_is_no_serial_port_is_named(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.touch()
    link = quick(path)
    async with running(link):
        await until(lambda: link.last_error)
    assert link.last_error == f"{path}: not a serial port; check the path"


async def test_a_slow_reader_stops_the_reading(port: Port) -> None:
    """What is not taken stays in the kernel, until the sender has to wait."""
    resume = asyncio.Event()
    received = bytearray()

    async def slow(data: bytes) -> None:
        received.extend(data)
        await resume.wait()

    port.plug_in()
    link = quick(port.path)
    async with running(link, slow):
        await until(lambda: link.state == "open")
        sent = os.write(port.device, b"x")
        await until(lambda: received)
        with contextlib.suppress(BlockingIOError):  # no more room
            while sent < 10_000_000:
                sent += os.write(port.device, b"x" * 4096)
                await asyncio.sleep(0)
        assert sent < 10_000_000
        assert len(received) == 1
        resume.set()
        await until(lambda: len(received) == sent)


async def test_errors_of_the_reader_are_not_hidden(port: Port) -> None:
    def fail(data: bytes) -> None:
        raise LookupError("of the reader")

    port.plug_in()
    link = quick(port.path)
    async with running(link, fail) as task:
        await until(lambda: link.state == "open")
        os.write(port.device, b"x")
        with pytest.raises(LookupError, match="of the reader"):
            await task
    assert link.state == "waiting"
    # The port is free again.
    serial.Serial(str(port.path), exclusive=True).close()


async def test_an_answer_that_cannot_be_written_opens_the_port_again(port: Port) -> None:
    async def answer(data: bytes) -> None:
        await link.write(b"x" * 1_000_000)

    port.plug_in()
    link = quick(port.path, write_timeout=0.05)
    async with running(link, answer):
        await until(lambda: link.state == "open")
        os.write(port.device, b"?")
        await until(lambda: link.opens == 2)


async def test_cancelling_frees_the_port_whenever_it_comes(port: Port) -> None:
    port.plug_in()
    for pause in [0, 0, 0.0001, 0.0005, 0.001, 0.002, 0.005]:
        async with running(quick(port.path)):
            await asyncio.sleep(pause)
        serial.Serial(str(port.path), exclusive=True).close()


async def test_writers_wait_for_room_and_are_not_mixed(port: Port) -> None:
    port.plug_in()
    link = quick(port.path)
    size = 200_000
    async with running(link):
        await until(lambda: link.state == "open")
        writers = [asyncio.create_task(link.write(bytes([letter]) * size)) for letter in b"abc"]
        await asyncio.sleep(0.05)
        assert not any(writer.done() for writer in writers)
        got = bytearray()
        while len(got) < 3 * size:
            try:
                got += os.read(port.device, 65536)
            except BlockingIOError:
                await asyncio.sleep(0)
        await asyncio.gather(*writers)
    assert got == b"".join(bytes([letter]) * size for letter in b"abc")
    assert link.bytes_sent == 3 * size


async def test_a_device_that_takes_nothing_is_given_up_on(port: Port) -> None:
    port.plug_in()
    link = quick(port.path, write_timeout=0.1)
    async with running(link):
        await until(lambda: link.state == "open")
        with pytest.raises(PortError, match=r"took no bytes for 0\.1 s"):
            await link.write(b"x" * 1_000_000)


async def test_sending_never_waits_and_is_bounded(port: Port) -> None:
    link = quick(port.path)
    assert not link.send(b"nobody is there")
    async with running(link):
        port.plug_in()
        await until(lambda: link.state == "open")
        accepted = 0
        while link.send(b"%07d\n" % accepted):
            accepted += 1
        assert accepted == 512
        # What was accepted is written, in order, as fast as it is taken.
        got = bytearray()
        while len(got) < 8 * accepted:
            with contextlib.suppress(BlockingIOError):
                got += os.read(port.device, 65536)
            await asyncio.sleep(0)
        assert got == b"".join(b"%07d\n" % number for number in range(accepted))
        assert link.send(b"x")


async def test_what_waits_for_a_device_that_takes_nothing_is_forgotten(port: Port) -> None:
    port.plug_in()
    link = quick(port.path, write_timeout=0.1)
    async with running(link):
        await until(lambda: link.state == "open")
        while link.opens == 1:
            link.send(b"x" * 100)
            await asyncio.sleep(0)
        await until(lambda: link.state == "open")
        assert link.send(b"y" * 4096)


async def test_what_is_sent_does_not_hold_up_what_is_received(port: Port) -> None:
    port.plug_in()
    received = bytearray()
    link = quick(port.path)
    async with running(link, received.extend):
        await until(lambda: link.state == "open")
        while link.send(b"x" * 1000):  # until nobody takes any more
            await asyncio.sleep(0.001)
        os.write(port.device, b"still listening")
        await until(lambda: received == b"still listening")


async def test_closing_leaves_the_modem_lines_as_they_are(port: Port) -> None:
    """Otherwise each start of the agent would reset the board, with all that it holds."""
    port.plug_in()
    link = quick(port.path)
    async with running(link):
        await until(lambda: link.state == "open")
        assert not termios.tcgetattr(port.device)[2] & termios.HUPCL


async def test_writers_learn_that_the_port_has_vanished(port: Port) -> None:
    link = quick(port.path)
    with pytest.raises(PortError, match="not open yet"):
        await link.write(b"x")
    async with running(link):
        port.plug_in()
        await until(lambda: link.state == "open")
        writers = [asyncio.create_task(link.write(b"x" * 1_000_000)) for _ in range(3)]
        await asyncio.sleep(0.05)
        port.unplug()
        async with asyncio.timeout(PATIENCE):
            results = await asyncio.gather(*writers, return_exceptions=True)
        assert all(isinstance(result, PortError) for result in results)
        await until(lambda: link.last_error)
        with pytest.raises(PortError, match=r"no such port|vanished"):
            await link.write(b"x")


async def test_a_writer_on_an_old_port_does_not_write_on_the_new_one(port: Port) -> None:
    link = quick(port.path)
    async with running(link):
        port.plug_in()
        await until(lambda: link.state == "open")
        writer = asyncio.create_task(link.write(b"old" * 300_000))
        await asyncio.sleep(0.05)
        port.unplug()
        port.plug_in()
        await until(lambda: link.opens == 2)
        with pytest.raises(PortError):
            await writer
        await link.write(b"new")
        assert os.read(port.device, 65536) == b"new"


async def test_the_format_of_the_line(port: Port) -> None:
    port.plug_in()
    line = LineFormat(data_bits=7, parity="odd", stop_bits=2)
    link = SerialLink(str(port.path), 9600, line=line)
    async with running(link):
        await until(lambda: link.state == "open")
        # A pseudo-terminal keeps neither the size nor whether there is a parity.
        flags = termios.tcgetattr(port.device)[2]
        assert flags & termios.PARODD
        assert flags & termios.CSTOPB


async def test_a_port_that_cannot_switch_a_driver_says_so(port: Port) -> None:
    port.plug_in()
    link = SerialLink(str(port.path), line=LineFormat(rs485=True), backoff=Backoff(0.01, 0.05))
    async with running(link):
        await until(lambda: link.last_error)
    assert link.last_error
    assert "RS485" in link.last_error
    assert "check the baud rate, the parity and rs485" in link.last_error
    # The port is free again.
    serial.Serial(str(port.path), exclusive=True).close()


@pytest.mark.parametrize("baud", [-1, 0, 2**31])
def test_baud_rates_that_cannot_be(baud: int) -> None:
    with pytest.raises(ValueError, match="baud rate"):
        SerialLink("/dev/null", baud)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOENT, ""), "no such port; is the device plugged in"),
        (OSError(errno.ENXIO, ""), "no such port"),
        (OSError(errno.EBUSY, ""), "another program has the port open"),
        (OSError(errno.EIO, "I/O error"), "I/O error; check the device and its cable"),
        (termios.error(errno.EIO, "I/O error"), "I/O error'); check the device"),
        (termios.error(errno.ENOTTY, ""), "not a serial port"),
        (serial.SerialException("odd"), "odd; check the device and its cable"),
        (ValueError("Invalid baud rate: 1"), "check the baud rate"),
        (PermissionError(errno.EACCES, ""), "a user that may read and write it"),
    ],
)
def test_what_failures_say(error: Exception, expected: str) -> None:
    message = explain_failure("/no/such/port", error)
    assert message.startswith("/no/such/port: ")
    assert expected in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("group", "mode", "expected"),
    [
        ("dialout", 0o660, "add the agent's user to the group 'dialout' (sudo usermod -aG dialout"),
        ("dialout", 0o640, "with a udev rule"),
        ("root", 0o660, "with a udev rule"),
    ],
)
def test_permission_denied_names_the_group_that_helps(
    monkeypatch: pytest.MonkeyPatch, group: str, mode: int, expected: str
) -> None:
    fields = (mode, 0, 0, 1, 0, grp.getgrnam(group).gr_gid, 0, 0, 0, 0)
    monkeypatch.setattr(Path, "stat", lambda self: os.stat_result(fields))
    error = PermissionError(errno.EACCES, "Permission denied")
    assert expected in explain_failure("/dev/ttyUSB0", error)


@pytest.mark.skipif(os.geteuid() == 0, reason="everything is permitted to root")
async def test_permission_denied(port: Port) -> None:
    port.plug_in()
    port.path.chmod(0)
    link = quick(port.path)
    async with running(link):
        await until(lambda: link.last_error)
    assert link.last_error
    assert "permission denied" in link.last_error
