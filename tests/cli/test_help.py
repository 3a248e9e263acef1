"""Every command explains itself, and config check says what it found."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from agent import __version__
from agent.cli.main import main
from tests import agents
from tests.agents import edge_agent
from tests.cli.helpers import in_process


def command_paths(command: click.Command = main, *path: str) -> list[tuple[str, ...]]:
    """The program itself, its commands and theirs."""
    found = [path]
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            found += command_paths(inner, *path, name)
    return found


def test_every_command_has_help() -> None:
    paths = command_paths()
    assert {(), ("run",), ("hub",), ("replicate",), ("status",), ("config", "check")} <= set(paths)
    for path in paths:
        for option in ("--help", "-h"):
            result = in_process(*path, option)
            assert result.status == 0, path
            assert result.stdout.startswith(f"Usage: {' '.join(['edge-agent', *path])} ")
            assert result.stderr == ""


def test_the_commands_are_listed_in_whole_without_importing_them() -> None:
    code = """
import sys
from agent.cli.main import main
main(["--help"], prog_name="edge-agent", standalone_mode=False)
print(*(name for name in ("agent.cli.run", "aiohttp", "sqlite3") if name in sys.modules))
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=agents.CHECKOUT,
        env={**os.environ, "COLUMNS": "80"},
        capture_output=True,
        text=True,
        check=True,
    )
    *listed, imported = done.stdout.partition("Commands:\n")[2].splitlines()
    assert imported == ""
    names = {path[0] for path in command_paths() if len(path) == 1}
    assert {line.split()[0] for line in listed} == names
    assert all(line.endswith(".") and not line.endswith("...") for line in listed)


def test_every_option_is_explained() -> None:
    def explained(command: click.Command) -> None:
        assert command.help or not command.name
        for option in command.params:
            assert isinstance(option, click.Argument) or option.help, option
        if isinstance(command, click.Group):
            context = click.Context(command)
            for name in command.list_commands(context):
                inner = command.get_command(context, name)
                assert inner is not None
                explained(inner)

    explained(main)


def test_version() -> None:
    result = in_process("--version")
    assert (result.status, result.stdout) == (0, f"edge-agent, version {__version__}\n")


@pytest.mark.parametrize(
    "arguments",
    [["no-such-command"], ["replicate", "one"], ["hub"], ["status", "--no-such-option"]],
)
def test_a_mistake_on_the_command_line_shows_the_usage(arguments: list[str]) -> None:
    result = in_process(*arguments)
    assert result.status == 2
    assert result.stderr.startswith("Usage: edge-agent")
    assert "\nError: " in result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize(
    "arguments",
    [["replicate", "one"], ["replicate", "a", "b", "--selector", "{"], ["status", "--no-such"]],
)
@pytest.mark.parametrize("first", [True, False])
def test_with_json_a_mistake_on_the_command_line_is_an_object(
    arguments: list[str], first: bool
) -> None:
    command, *rest = arguments
    result = in_process(command, *(["--json", *rest] if first else [*rest, "--json"]))
    assert result.status == 2
    told = result.json()
    assert told["ok"] is False
    assert f"Error: {told['error']}" in result.stderr


def test_config_check(tmp_path: Path) -> None:
    config = agents.gateway_config(
        tmp_path / "gateway.toml",
        agents.table("device", name="greenhouse", port="/dev/ttyUSB0", adapter="json-lines"),
        agents.table("remote", name="cloud", url="https://cloud.example.org/edge"),
    )
    result = edge_agent("config", "check", "--config", config)
    assert (result.status, result.stderr) == (0, "")
    assert result.stdout == f"{config}: ok (devices: greenhouse; remotes: cloud)\n"

    result = in_process("config", "check", "--json", "--config", config)
    assert result.status == 0
    assert result.json() == {
        "ok": True,
        "file": str(config),
        "devices": ["greenhouse"],
        "remotes": ["cloud"],
        "telemetry": [],
        "hooks": [],
        "conflicts": [],
        "users": [],
    }
    assert [path.name for path in tmp_path.iterdir()] == ["gateway.toml"]


def test_config_check_of_a_hub(tmp_path: Path) -> None:
    config = tmp_path / "hub.toml"
    config.write_text('[server]\nlisten = "0.0.0.0:5985"\n')
    refused = in_process("config", "check", "--config", config)
    assert refused.status == 1
    assert refused.complaint().startswith(f"{config}: 0.0.0.0: the server listens on loopback only")
    password = tmp_path / "password"
    password.write_text("secret")
    added = in_process(
        *("user", "add", "anna", "--role", "_admin", "--config", config),
        *("--password-file", password),
    )
    assert added.status == 0, added.stderr
    result = in_process("config", "check", "--config", config)
    assert (result.status, result.stdout) == (0, f"{config}: ok (users: anna)\n")
