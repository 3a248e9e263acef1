"""The configuration file: what it accepts, and how it explains what it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config import load, parse_listen
from agent.errors import ConfigError

GOOD = """
[agent]
name = "gateway-1"
data = "data"
database = "edge"

[server]
listen = "127.0.0.1:5985"

[[device]]
name = "greenhouse"
port = "/dev/ttyUSB0"
adapter = "cbor-frames"
baud = 9600

[[remote]]
name = "cloud"
url = "https://cloud.example.org/edge"
user = "gateway-1"
password_file = "secret"
retry_cap = 30
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def complaint(tmp_path: Path, text: str) -> str:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


def test_a_good_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hunter2\n")
    config = load(written(tmp_path, GOOD))
    assert config.agent.name == "gateway-1"
    assert config.agent.data == str(tmp_path / "data")
    assert config.device[0].baud == 9600
    assert config.remote[0].secret() == "hunter2"
    assert config.remote[0].direction == "both"
    assert config.remote[0].retry_cap == 30


def test_the_smallest_file_has_a_usable_name(tmp_path: Path) -> None:
    config = load(written(tmp_path, '[agent]\ndata = "/var/lib/x"\n'))
    assert config.agent.name
    assert config.agent.data == "/var/lib/x"
    assert config.server.listen == "127.0.0.1:5984"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", ["agent", "missing"]),
        ("[agent]\n", ["agent.data", "missing", 'data = "/var/lib/edge-agent"']),
        ("[agent]\ndata = 3\n", ["agent.data = 3", "folder"]),
        ("[agent]\ndata='x'\nnam='y'\n", ["agent.nam", "unknown key", "did you mean name?"]),
        ("[agent]\ndata='x'\n[zzz]\n", ["zzz", "unknown key", "agent, server, device, remote"]),
        ("[agent]\ndata='x'\ndatabase='Edge'\n", ["agent.database = 'Edge'", '"edge"']),
        ("device = 3\n[agent]\ndata='x'\n", ["device = 3", "[[device]]"]),
        ("[agent\n", ["not valid TOML", "line 1"]),
        ("[agent]\ndata='x'\n[server]\nlisten='foo'\n", ["server.listen = 'foo'", "HOST:PORT"]),
        (GOOD.replace("9600", "'fast'"), ["device.baud", "'fast'", "baud = 115200"]),
        (GOOD.replace("9600", "-5"), ["device.baud", "-5", "baud = 115200"]),
        (GOOD.replace("https:", "ftp:"), ["remote.url", "number 1", "http(s)://HOST"]),
        (GOOD + "direction = 'up'\n", ["remote.direction", "'up'", "'push' or 'pull'"]),
        (GOOD + "direktion = 'up'\n", ["remote.direktion", "did you mean direction?"]),
        (GOOD.replace("30", "0"), ["remote.retry_cap", "above 0"]),
        (GOOD.replace("greenhouse", "a b"), ["device.name", "'a b'"]),
        (GOOD + "[[remote]]\nname='cloud'\nurl='http://x/y'\n", ["'cloud'", "used twice"]),
        (
            GOOD + "[[device]]\nname='b'\nport='/dev/ttyUSB0'\nadapter='json-lines'\n",
            ["/dev/ttyUSB0", "'greenhouse'"],
        ),
        (GOOD + "password = 'x'\n", ["password and password_file exclude each other"]),
        (GOOD.replace('user = "gateway-1"\n', ""), ["password_file needs a user"]),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, text: str, parts: list[str]) -> None:
    message = complaint(tmp_path, text)
    for part in parts:
        assert part in message


def test_secrets_are_never_repeated(tmp_path: Path) -> None:
    for text in (
        GOOD.replace("https://", "ftp://me:hunter2@"),
        GOOD + "password = ['hunter2']\n",
    ):
        assert "hunter2" not in complaint(tmp_path, text)


@pytest.mark.parametrize(("path", "part"), [("none.toml", "no such file"), (".", "cannot be read")])
def test_a_file_that_cannot_be_read(tmp_path: Path, path: str, part: str) -> None:
    with pytest.raises(ConfigError, match=part):
        load(tmp_path / path)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "config.toml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        load(path)


def test_a_password_that_cannot_be_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(written(tmp_path, GOOD))
    with pytest.raises(ConfigError, match=r"'cloud'.*secret cannot be read"):
        config.remote[0].secret()
    config = load(written(tmp_path, GOOD.replace('_file = "secret"', '_env = "CLOUD_PW"')))
    monkeypatch.delenv("CLOUD_PW", raising=False)
    with pytest.raises(ConfigError, match="CLOUD_PW"):
        config.remote[0].secret()
    monkeypatch.setenv("CLOUD_PW", "hunter2")
    assert config.remote[0].secret() == "hunter2"


@pytest.mark.parametrize(
    ("text", "parsed"),
    [("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:5984", ("::1", 5984)), ("h:1", ("h", 1))],
)
def test_listen(text: str, parsed: tuple[str, int]) -> None:
    assert parse_listen(text) == parsed


@pytest.mark.parametrize("text", ["", ":1", "h:", "h:x", "h:70000", "h"])
def test_listen_refuses(text: str) -> None:
    with pytest.raises(ConfigError, match="HOST:PORT"):
        parse_listen(text)
