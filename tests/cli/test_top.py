"""`edge-agent top`: one frame, and on a terminal of 80 by 24."""

from __future__ import annotations

import contextlib
import fcntl
import io
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from agent.cli.top import Frames
from tests import agents
from tests.agents import edge_agent
from tests.cli.helpers import request, serving
from tests.patience import when_true
from tests.rig.network import find_free_port
from tests.sensors.uart import Uart, json_line

SIZE = {"COLUMNS": "80", "LINES": "24", "TERM": "xterm"}


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file of a running gateway, whose readings have come to its hub."""
    folder = tmp_path_factory.mktemp("top")
    with Uart(json_line) as device, agents.hub(folder / "hub") as hub:
        config = agents.gateway_config(
            folder / "gateway.toml",
            agents.table("device", name="greenhouse", port=device.path, adapter="json-lines"),
            agents.table("device", name="silent", port=str(folder / "gone"), adapter="json-lines"),
            agents.table("remote", name="cloud", url=f"{hub.wait_until_ready()}/top", create=True),
            port=find_free_port(),
        )
        with agents.gateway(config) as gateway:
            url = gateway.wait_until_ready()

            def confirmed() -> Any:
                return request("GET", f"{url}/_status")["remotes"][0]["push"]["confirmed"]

            when_true(confirmed)
            yield config


def check_size(lines: list[str]) -> None:
    assert len(lines) <= 23  # and the line of the prompt, or the cursor
    assert max(map(len, lines)) <= 80


def test_once(config: Path) -> None:
    result = edge_agent("top", "--once", "--config", config, environment=SIZE)
    assert (result.status, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    check_size(lines)
    assert lines[0].startswith("gateway-1  up ")
    assert any("Device silent is not heard" in line for line in lines)
    for stage in ("detect", "transfer", "confirm", "process"):
        assert any(line.startswith(stage) for line in lines)
    [push] = [line for line in lines if re.match("cloud +push ", line)]
    assert re.search(r"(live|catching up) +[0-9.,]+/s +[0-9,]+ left", push)
    assert any(line.startswith("greenhouse ") for line in lines)


def test_of_a_hub(tmp_path: Path) -> None:
    with agents.hub(tmp_path / "hub") as hub:
        result = edge_agent("top", "--once", "--url", hub.wait_until_ready(), environment=SIZE)
    assert result.status == 0
    assert result.stdout.startswith("hub  up ")


def test_in_a_pipe_it_wants_once(config: Path) -> None:
    assert "--once" in edge_agent("top", "--config", config).complaint()


def test_without_an_agent() -> None:
    url = f"http://127.0.0.1:{find_free_port()}"
    assert "no agent answers" in edge_agent("top", "--once", "--url", url).complaint()


@contextlib.contextmanager
def on_a_terminal(*arguments: object) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in SIZE}
    with subprocess.Popen(
        agents.command("top", *arguments),
        cwd=agents.CHECKOUT,
        stdin=theirs,
        stdout=theirs,
        stderr=subprocess.PIPE,
        env={**environment, "TERM": "xterm"},
    ) as process:
        try:
            yield process, ours
        finally:
            process.kill()
            os.close(ours)
            os.close(theirs)


@pytest.mark.parametrize("end", [b"q", signal.SIGINT])
def test_on_a_terminal(config: Path, end: bytes | signal.Signals) -> None:
    with on_a_terminal("--config", config) as (process, terminal):
        before = termios.tcgetattr(terminal)[3] & termios.ECHO
        seen = b""

        def read() -> None:
            nonlocal seen
            if select.select([terminal], [], [], 1)[0]:
                seen += os.read(terminal, 65536)

        while seen.count(b"greenhouse") < 2:  # the second frame
            read()
        assert not termios.tcgetattr(terminal)[3] & termios.ECHO
        if isinstance(end, bytes):
            os.write(terminal, end)
        else:
            process.send_signal(end)
        while process.poll() is None:
            read()
        assert process.returncode == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert termios.tcgetattr(terminal)[3] & termios.ECHO == before
        while b"\x1b[?1049l" not in seen:  # the screen as it was before
            read()
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", seen.decode(errors="replace"))
    for line in text.replace("\r", "").split("\n"):
        assert len(line) <= 160  # two frames may meet on a line
    assert re.search("cloud +push ", text)


# --- frames ----------------------------------------------------------------------------


def sensor(name: str, **members: Any) -> dict[str, Any]:
    told = {"name": name, "readings": 1, "last_value": 20.5, "unit": "C", "rate": 0.5}
    return {**told, "alarms": [], "quality": None, "gaps": None, "errors": 0, **members}


def job(**members: Any) -> dict[str, Any]:
    told = {"state": "live", "rate": 1234.5, "pending": 12, "drain_seconds": 4.0, "lag": 0.0}
    return {**told, "last_error": None, **members}


def status(**members: Any) -> dict[str, Any]:
    stage = {"rate": 12.0, "count": 1_000_000}
    system = {"load": 0.5, "memory_rss": 5e7, "disk_free": 1e10, "bytes_written": 1e9}
    return {
        "name": "gateway-1",
        "uptime": 5000.0,
        "system": system,
        "pipeline": dict.fromkeys(("detect", "transfer", "confirm", "process"), stage),
        "attention": [],
        "remotes": [],
        "devices": [],
        **members,
    }


def drawn(width: int = 80, height: int = 24, **members: Any) -> list[str]:
    from rich.console import Console

    frames = Frames()
    for _ in range(40):
        frames.add(status(**members))
    console = Console(file=io.StringIO(), width=width, height=height, markup=False, emoji=False)
    console.print(frames.frame(width, height))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue().splitlines()


MUCH: dict[str, Any] = {
    "attention": [
        {"level": "error", "what": "Something is wrong. " * 10, "do": "x"} for _ in range(9)
    ],
    "remotes": [
        {
            "name": f"remote-{n}-with-a-long-name",
            "push": job(),
            "pull": job(last_error="a long story " * 9 if n == 7 else None, state="waiting"),
        }
        for n in range(20)
    ],
    "gateways": [
        {
            "name": f"gateway-{n}",
            "status": "offline" if n == 77 else "online",
            "version": "1",
            "lag": 5.0,
            "backlog": 7,
            "conflicts": 3,
        }
        for n in range(99)
    ],
    "devices": [
        {
            "name": f"device-{n}",
            "state": "open",
            "last_error": None,
            "sensors": [sensor(f"s{m}", alarms=["hot"] if n == m == 8 else []) for m in range(20)],
        }
        for n in range(20)
    ],
}


@pytest.mark.parametrize(("width", "height"), [(80, 24), (40, 12), (20, 5), (200, 60)])
def test_it_fits_whatever_there_is(width: int, height: int) -> None:
    lines = drawn(width, height, **MUCH)
    assert len(lines) < height
    assert max(map(len, lines)) <= width


def test_what_needs_attention_comes_first() -> None:
    lines = drawn(**MUCH)
    assert lines[1].startswith("Something is wrong.")
    assert lines[3].startswith("and 7 more")
    [first_remote] = [n for n, line in enumerate(lines) if "── remotes" in line]
    assert lines[first_remote + 1].startswith("remote-7")
    lines = drawn(**{**MUCH, "remotes": []})
    [first_gateway] = [n for n, line in enumerate(lines) if "── gateways" in line]
    assert lines[first_gateway + 1].startswith("gateway-77")
    lines = drawn(**{**MUCH, "remotes": [], "gateways": []})
    [first_sensor] = [n for n, line in enumerate(lines) if "── sensors" in line]
    assert lines[first_sensor + 1].startswith("device-8 s8")
    assert "alarm hot" in lines[first_sensor + 1]
    assert lines[-1].startswith("… ")


def test_an_agent_that_answers_no_more_is_waited_for(tmp_path: Path) -> None:
    port = find_free_port()
    config = agents.gateway_config(tmp_path / "gateway.toml", port=port)
    with contextlib.ExitStack() as stack:
        with agents.gateway(config) as agent:
            agent.wait_until_ready()
            process, terminal = stack.enter_context(on_a_terminal("--config", config))
            read_until(terminal, b"gateway-1")
        read_until(terminal, b"What is shown is old: ")
        os.write(terminal, b"q")
        read_to_the_end(process, terminal)
        assert process.returncode == 0


def test_a_proxy_without_the_agent_behind_it_is_no_end(config: Path) -> None:
    """As nginx answers meanwhile; when the agent is there again it is shown."""
    shown = edge_agent("status", "--json", "--config", config).stdout.encode()

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = (502, b"<html>Bad Gateway</html>") if down else (200, shown)
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    down = False
    with (
        serving(Proxy) as port,
        on_a_terminal("--url", f"http://127.0.0.1:{port}") as (process, terminal),
    ):
        read_until(terminal, b"gateway-1")
        down = True
        read_until(terminal, b"is busy or out of order (502)")
        down = False
        read_until(terminal, b"gateway-1")
        os.write(terminal, b"q")
        read_to_the_end(process, terminal)
        assert process.returncode == 0


def read_until(terminal: int, text: bytes) -> None:
    seen = b""
    while text not in seen:
        if select.select([terminal], [], [], 1)[0]:
            seen += os.read(terminal, 65536)


def read_to_the_end(process: subprocess.Popen[bytes], terminal: int) -> None:
    while process.poll() is None:
        if select.select([terminal], [], [], 1)[0]:
            os.read(terminal, 65536)


def test_what_is_old_is_said_until_there_is_something_new() -> None:
    from rich.console import Console

    def second_line() -> str:
        console = Console(width=80, file=io.StringIO())
        console.print(frames.frame(80, 24))
        return console.file.getvalue().splitlines()[1]  # type: ignore[attr-defined, no-any-return]

    frames = Frames()
    frames.add(status())
    frames.missed("no agent answers")
    assert second_line() == "What is shown is old: no agent answers"
    frames.add(status())
    assert second_line().startswith("detect")


def test_one_is_not_told_as_several() -> None:
    one = {**MUCH["gateways"][0], "conflicts": 1}
    [line] = [line for line in drawn(gateways=[one]) if line.startswith("gateway-0")]
    assert line.endswith("1 conflict")


def test_directions_are_told_apart_however_long_a_name_is() -> None:
    lines = drawn(remotes=[{"name": "a-long-name-" * 5, "push": job(), "pull": job()}])
    assert [line.split()[1] for line in lines if line.startswith("a-long")] == ["push", "pull"]


def test_what_is_cut_off_and_what_is_no_number() -> None:
    device = {"name": "boiler-room-with-a-long-name", "state": "open", "last_error": None}
    door = sensor("door", last_value=True, unit=None)
    [line] = [line for line in drawn(devices=[{**device, "sensors": [door]}]) if "boiler" in line]
    assert re.match(r"boiler-room-with-a-long-nam…  true  ", line)


def test_names_are_no_styles() -> None:
    device = {"name": "d", "state": "open", "last_error": None}
    strange = sensor("[red]x[/red]\x1b[31m", last_value=":smile:\n")
    lines = drawn(devices=[{**device, "sensors": [strange]}])
    assert "[red]x[/red]" in "".join(lines)
    assert "\x1b" not in "".join(lines)
    assert ":smile:" in "".join(lines)
