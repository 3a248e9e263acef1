"""`edge-agent sensors watch` beside a running agent: on a terminal, in a pipe and as JSON."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pty
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.cli.showing import measured, sparkline
from tests import agents
from tests.agents import edge_agent
from tests.cli.helpers import request
from tests.patience import PATIENCE, when_true
from tests.rig.network import find_free_port
from tests.sensors.uart import Uart, json_line


@pytest.fixture(scope="module")
def device() -> Iterator[Uart]:
    with Uart(json_line) as device:
        yield device


@pytest.fixture(scope="module")
def config(device: Uart, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The file of a running gateway, which asks who comes by its address to log in."""
    folder = tmp_path_factory.mktemp("gateway")
    config = agents.gateway_config(
        folder / "gateway.toml",
        agents.table("device", name="greenhouse", port=device.path, adapter="json-lines"),
        agents.table("device", name="silent", port=str(folder / "gone"), adapter="json-lines"),
        port=find_free_port(),
    )
    (folder / "password").write_text("hunter2")
    user = ("user", "add", "anna", "--role", "_admin", "--password-file", folder / "password")
    assert edge_agent(*user, "--config", config).status == 0
    with agents.gateway(config) as gateway:
        gateway.wait_until_ready()
        yield config


@contextlib.contextmanager
def watching(
    *arguments: object, stdout: int = subprocess.PIPE
) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        agents.command("sensors", "watch", *arguments),
        cwd=agents.CHECKOUT,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, "COLUMNS": "120", "LINES": "40", "TERM": "xterm"},
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def test_json_is_a_line_for_each_reading(config: Path) -> None:
    with watching("--config", config, "--json") as process:
        assert process.stdout is not None
        documents = [json.loads(process.stdout.readline()) for _ in range(20)]
        process.send_signal(signal.SIGINT)
        rest, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (0, b"")
    documents += [json.loads(line) for line in rest.splitlines()]
    numbers = [document["sequence"] for document in documents]
    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    for document in documents:
        assert document["_id"].startswith("greenhouse:temperature:")
        assert document["value"] == document["sequence"]
        assert document["unit"] == "C"


def test_in_a_pipe_it_is_text(config: Path) -> None:
    with watching("--config", config) as process:
        assert process.stdout is not None
        words = process.stdout.readline().decode().split()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (0, b"")
    assert words[1:3] == ["greenhouse", "temperature"]
    assert words[4] == "C"
    assert words[0].endswith("Z")


def test_on_a_terminal_it_is_a_table_with_sparklines(config: Path) -> None:
    ours, theirs = pty.openpty()
    screen = bytearray()

    def shown() -> object:
        screen.extend(os.read(ours, 65536))
        return re.search("▁[▂-▇]+█", screen.decode(errors="replace"))

    with watching("--config", config, stdout=theirs) as process:
        os.close(theirs)
        when_true(shown)
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(OSError):  # the terminal has nobody at its other end any more
            while True:
                screen.extend(os.read(ours, 65536))
        _, errors = process.communicate(timeout=PATIENCE)
    os.close(ours)
    text = screen.decode()
    assert (process.returncode, errors) == (0, b"")
    assert "greenhouse" in text
    assert "temperature" in text
    assert "s ago" in text
    assert "no such port" in re.sub(r"[\s│]+", " ", text)  # on two lines if the path is long


def test_a_document_of_a_time_window_is_several_lines(tmp_path: Path) -> None:
    table = agents.table("device", name="x", port=str(tmp_path / "gone"), adapter="json-lines")
    config = agents.gateway_config(tmp_path / "gateway.toml", table)
    packed = {
        "type": "readings",
        "device": "x",
        "sensor": "s",
        "time": "2026-03-01T13:15:30.250000Z",
        "unit": "C",
        "columns": {"time": [0, 750_000], "value": [20, 21.5]},
    }
    with agents.gateway(config) as gateway:
        url = gateway.wait_until_ready()

        def write(number: int) -> None:
            # One whose time was corrected is not told again.
            corrected = {**packed, "clock": "corrected", "unit": "F"}
            request("PUT", f"{url}/edge/corrected-{number}", corrected)
            request("PUT", f"{url}/edge/{number}", packed)

        with watching("--url", url) as process:
            assert process.stdout is not None
            lines = seen_once_it_watches(process, write)
    assert set(lines) == {
        "2026-03-01T13:15:30.250000Z x s 20 C",
        "2026-03-01T13:15:31.000000Z x s 21.5 C",
    }


def seen_once_it_watches(
    process: subprocess.Popen[bytes], write: Callable[[int], object]
) -> list[str]:
    """Two lines or more that it prints; `write` is called with ever new numbers until there are."""
    assert process.stdout is not None
    output = process.stdout
    os.set_blocking(output.fileno(), False)
    numbers = itertools.count()
    found = bytearray()

    def seen() -> bool:
        write(next(numbers))
        found.extend(output.read() or b"")
        return found.count(b"\n") >= 2

    when_true(seen)
    return found.decode().splitlines()


def test_who_may_not_log_in_does_not_watch(config: Path) -> None:
    listen = next(line for line in config.read_text().splitlines() if line.startswith("listen"))
    url = f"http://{listen.split()[-1]}".replace('"', "")
    done = edge_agent("sensors", "watch", "--url", url, "--json")
    assert "administrators" in done.complaint()
    assert done.json()["ok"] is False


def test_a_hub_has_nothing_to_watch(hub_url: str) -> None:
    complaint = edge_agent("sensors", "watch", "--url", hub_url).complaint()
    assert complaint == f"{hub_url}: the agent there has no device; add a [[device]] to it"


def test_it_ends_with_the_agent(tmp_path: Path) -> None:
    table = agents.table("device", name="x", port=str(tmp_path / "gone"), adapter="json-lines")
    config = agents.gateway_config(tmp_path / "gateway.toml", table)
    with agents.gateway(config) as gateway:
        url = gateway.wait_until_ready()
        with watching("--url", url, "--json") as process:
            time = "2026-03-01T13:15:30Z"
            reading = {"type": "reading", "device": "x", "sensor": "s", "time": time, "value": 1}
            seen_once_it_watches(process, lambda n: request("PUT", f"{url}/edge/{n}", reading))
            assert gateway.stop().status == 0
            _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 1
    assert errors.decode() == f"Error: {url}: the agent has stopped\n"


@pytest.mark.parametrize(
    ("numbers", "line"),
    [
        ([], ""),
        ([5], "▁"),
        ([5, 5, 5], "▁▁▁"),
        ([0, 1, 2, 3, 4, 5, 6, 7], "▁▂▃▄▅▆▇█"),
        ([-1e308, 1e308, 0], "▁█▅"),
        ([True, False], "█▁"),
    ],
)
def test_sparklines(numbers: list[float], line: str) -> None:
    assert sparkline(numbers) == line


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (21.5, "C", "21.5 C"),
        (False, None, "false"),
        ("on\n", "", "on"),
        (None, "C", "-"),
        ({"x": 1}, None, '{"x":1}'),
    ],
)
def test_values(value: object, unit: str | None, shown: str) -> None:
    assert measured(value, unit) == shown
