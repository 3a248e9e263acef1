"""`edge-agent user add`."""

from __future__ import annotations

import json
import os
import stat
import tomllib
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from agent.cli.main import main
from agent.config_file import load, load_hub
from agent.server.passwords import PasswordHash

GATEWAY = """\
# our gateway
[agent]
data = "data"   # on the large disk

[server]
listen = "127.0.0.1:5984"
"""
ADMIN = '\n[[user]]\nname = "root"\npassword_hash = "$scrypt$x"\nroles = ["_admin"]\n'


def run(*arguments: Any, password: str = "pässword\n") -> Result:
    command = ["user", "add", *(str(argument) for argument in arguments)]
    return CliRunner().invoke(main, command, input=password)


def added(*arguments: Any, **options: Any) -> Result:
    result = run(*arguments, "--password-file", "-", **options)
    assert result.exit_code == 0, result.output
    return result


def complaint(result: Result) -> str:
    assert result.exit_code == 1, result.output
    assert result.output.startswith("Error: ")
    assert result.output.count("\n") == 1
    return result.output


def test_what_is_printed_belongs_in_the_configuration() -> None:
    result = added("anna", "--role", "_admin", "--role", 'a "role"')
    assert "pässword" not in result.output
    [user] = tomllib.loads(result.output)["user"]
    assert (user["name"], user["roles"]) == ("anna", ["_admin", 'a "role"'])
    assert PasswordHash.parse(user["password_hash"]).matches("pässword")


def test_json() -> None:
    user = json.loads(added("anna", "--json").output)
    assert (user["ok"], user["name"], user["roles"]) == (True, "anna", [])
    assert PasswordHash.parse(user["password_hash"]).matches("pässword")


def test_a_user_is_added_to_a_gateways_file(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(GATEWAY.rstrip("\n"))  # without the last line's end
    path.chmod(0o640)
    added("anna", "--role", "_admin", "--config", path)
    result = added("ü user", "--config", path)
    assert "start" in result.output
    assert path.read_text().startswith(GATEWAY)  # comments and all
    assert [(user.name, user.roles) for user in load(path).user] == [
        ("anna", ["_admin"]),
        ("ü user", []),
    ]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert [file.name for file in tmp_path.iterdir()] == ["gateway.toml"]


def test_a_new_file_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "hub.toml"
    added("anna", "--role", "_admin", "--config", path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_hub(path).user[0].name == "anna"


def test_a_symbolic_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "real.toml").write_text(GATEWAY)
    link = tmp_path / "link.toml"
    link.symlink_to(Path("etc", "real.toml"))
    added("anna", "--role", "_admin", "--config", link)
    assert link.is_symlink()
    assert load(tmp_path / "etc" / "real.toml").user[0].name == "anna"


@pytest.mark.parametrize(
    ("text", "name", "role", "part"),
    [
        (GATEWAY + ADMIN, "root", "x", "'root' is used twice"),
        (GATEWAY, "anna", "x", "edge-agent user add NAME --role _admin"),
        (GATEWAY + "[server", "anna", "_admin", "not valid TOML"),
        ("user = []\n" + GATEWAY, "anna", "_admin", "not valid TOML"),
        (GATEWAY + "x = 1\n", "anna", "_admin", "server.x: unknown key"),
        (GATEWAY, "a:b", "_admin", "no colon"),
        (GATEWAY, "_anna", "_admin", "no '_'"),
        (GATEWAY, "", "_admin", "user name"),
        (GATEWAY, "anna", "_other", "role names"),
        (GATEWAY, "an\nna", "_admin", "user name"),
    ],
)
def test_a_file_that_would_not_do_stays_as_it_was(
    tmp_path: Path, text: str, name: str, role: str, part: str
) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(text)
    result = run(name, "--role", role, "--config", path, "--password-file", "-")
    assert part in complaint(result)
    assert path.read_text() == text
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(GATEWAY)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = run("anna", "--role", "_admin", "--config", path, "--password-file", "-")
    assert "No space left on device); nothing was changed" in complaint(result)
    assert path.read_text() == GATEWAY
    assert len(list(tmp_path.iterdir())) == 1
    monkeypatch.undo()
    missing = tmp_path / "none" / "hub.toml"
    result = run("anna", "--role", "_admin", "--config", missing, "--password-file", "-")
    assert "cannot be written" in complaint(result)


def test_the_password_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(" two  blanks \r\n", encoding="utf-8")
    result = run("anna", "--password-file", file)
    [user] = tomllib.loads(result.output)["user"]
    assert PasswordHash.parse(user["password_hash"]).matches(" two  blanks ")


@pytest.mark.parametrize("text", ["", "\n"])
def test_an_empty_password(text: str) -> None:
    result = run("anna", "--password-file", "-", password=text)
    assert "the password is empty" in complaint(result)


def test_without_a_terminal_it_does_not_wait_for_one() -> None:
    assert "--password-file" in complaint(run("anna"))


def test_on_a_terminal_it_is_asked_for_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def prompt(_: str, **options: Any) -> str:
        asked.append(options)
        return "typed"

    monkeypatch.setattr(click, "prompt", prompt)
    monkeypatch.setattr("agent.cli.user._is_terminal", lambda: True)
    [user] = tomllib.loads(run("anna").output)["user"]
    assert PasswordHash.parse(user["password_hash"]).matches("typed")
    assert asked[0]["hide_input"] is True
    assert asked[0]["confirmation_prompt"] is True
