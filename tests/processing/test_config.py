"""`[[hook]]` in a configuration file: mistakes, and the examples of docs/hooks.md."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from agent.config import Config
from agent.config_file import load, load_either
from agent.config_hooks import HookConfig
from agent.processing.entry_point import ENTRY_POINT_GROUP
from tests.cli.helpers import in_process

PAGE = Path(__file__).parents[2] / "docs" / "hooks.md"
AGENT = "[agent]\ndata = 'data'\n"
HOOK = "[[hook]]\nname = 'x'\n"
URL = "url = 'https://example.org/x'\n"


def complaint(tmp_path: Path, text: str) -> str:
    config = tmp_path / "config.toml"
    config.write_text(text)
    said = in_process("config", "check", "--config", config).complaint()
    assert said.startswith(f"{config}: ")
    assert "hunter2" not in said
    return said


@pytest.mark.parametrize(
    ("lines", "parts"),
    [
        ("", ["hook 'x'", "give url, command or entry_point"]),
        (URL + "command = ['true']\n", ["url and command exclude each other"]),
        ("command = 'true'\n", ["hook.command", "a program and its arguments"]),
        ("command = []\n", ["hook.command", "a program and its arguments"]),
        ("command = ['no-such-program']\n", ["there is no program no-such-program"]),
        ("command = ['./missing']\n", ["there is no program", "/missing"]),
        ("command = ['true']\nuser = 'a'\n", ["user is only for a webhook"]),
        ("command = ['true']\nauth = 'bearer'\n", ["auth is only for a webhook"]),
        ("entry_point = 'none'\n", ["publishes 'none' in the group", "known are: none; install"]),
        ("url = 'ftp://x/y'\n", ["hook.url", "http(s)://HOST"]),
        ("url = 'https://me:hunter2@x/y'\n", ["hook.url", "without a user"]),
        ("url = 'https://x:99999/y'\n", ["hook 'x': url", "check the host and the port"]),
        (URL + "password = 'hunter2'\n", ["password needs a user", 'auth = "bearer"']),
        (URL + "user = 'a'\nauth = 'bearer'\n", ['auth = "bearer" takes a token']),
        (URL + "signing_key = 'hunter2'\nsigning_key_env = 'X'\n", ["exclude each other"]),
        (URL + "signing_key = ['hunter2']\n", ["hook.signing_key", "a secret text"]),
        (URL + "signing_key_file = 'none'\n", ["hook 'x': signing_key_file", "/none"]),
        (URL + "client_key = 'none'\n", ["client_key needs client_certificate"]),
        (URL + "ca_file = 'none'\n", ["hook 'x': ca_file", "cannot be read"]),
        (URL + "selector = { a = { '$foo' = 1 } }\n", ["hook 'x': selector:", "$foo"]),
        (URL + "selector = 'a'\n", ["hook.selector", "a Mango selector"]),
        (URL + "batch = 0\n", ["= 0", "from 1 to 1000"]),
        (URL + "start = 'end'\n", ["= 'end'", "'now' or 'beginning'"]),
        (URL + "time_out = 3\n", ["hook.time_out", "did you mean timeout?"]),
        (URL + HOOK + URL, ["hook.name (in [[hook]] number 2): the name 'x' is used twice"]),
    ],
)
def test_mistakes_are_explained(lines: str, parts: list[str], tmp_path: Path) -> None:
    said = complaint(tmp_path, AGENT + HOOK + lines)
    for part in parts:
        assert part in said


def test_a_hub_has_to_name_the_database(tmp_path: Path) -> None:
    assert 'for example database = "edge"' in complaint(tmp_path, HOOK + URL)


def test_files_are_taken_from_the_folder_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "call").write_text("#!/bin/sh\n")
    (tmp_path / "call").chmod(0o755)
    text = AGENT + HOOK + "command = ['./call', 'x/y']\n"
    text += "[[hook]]\nname = 'y'\nsigning_key_file = 'key'\n" + URL
    (tmp_path / "key").write_text("secret")
    config = tmp_path / "config.toml"
    config.write_text(text)
    first, second = load(config).hook
    assert first.command == [str(tmp_path / "call"), "x/y"]
    assert second.signing_key_file == str(tmp_path / "key")
    done = in_process("config", "check", "--config", config, "--json")
    assert done.json()["hooks"] == ["x", "y"]


def test_the_page_shows_every_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "site" / "shop-1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: shop\nVersion: 1\n")
    (package / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\ninvoice = posixpath:join\n")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setenv("ERP_PASSWORD", "sesame")
    monkeypatch.setenv("ERP_KEY", "sesame")
    for name in ("alarms.token", "alarms.key", "ca.pem", "gateway.pem", "gateway.key"):
        (tmp_path / name).write_text("sesame")
    shown = {"name", "password", "password_file", "signing_key"}
    examples = re.findall(r"^```toml\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    for example in examples:
        if "entry-points" in example:
            assert ENTRY_POINT_GROUP in example
            continue
        config = tmp_path / "example.toml"
        config.write_text(example)
        done = in_process("config", "check", "--config", config)
        assert (done.status, done.stderr) == (0, "")
        loaded = load_either(config)
        assert isinstance(loaded, Config) == ("[agent]" in example)
        shown |= {
            field.name
            for hook in loaded.hook
            for field in msgspec.structs.fields(HookConfig)
            if getattr(hook, field.name) != field.default
        }
    assert shown == {field.name for field in msgspec.structs.fields(HookConfig)}
