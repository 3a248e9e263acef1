"""The configuration file: what it accepts, and how it explains what it does not."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config import HubConfig, parse_listen
from agent.config_file import load, load_hub
from agent.errors import ConfigError
from tests.cli.helpers import in_process

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


SERVER = """
[agent]
data = "data"

[server]
"""
USERS = """
[agent]
data = "data"

[[user]]
name = "anna"
password_hash = "$scrypt$"
roles = ["_admin", "staff"]
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


@pytest.mark.parametrize(
    "port",
    [
        "/dev/serial/by-path/pci-0000:00:14.0-usb-0:1:1.0-port0",
        "usb-FTDI_FT232R_A1B2C3-if00-port0",
        "serial:A1 B2",
        "usb:0403:6001",
        "usb:1-1.2",
        "usb:1-1.2:1.0",
        "socket://10.0.0.7:4000",
        "rfc2217://[::1]:2217?ign_set_control",
    ],
)
def test_names_of_ports(port: str, tmp_path: Path) -> None:
    text = GOOD.replace("/dev/ttyUSB0", port)
    assert load(written(tmp_path, text)).device[0].port == port


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
        (
            "[agent]\ndata='x'\n[zzz]\n",
            ["zzz", "unknown key", "agent, server, user, device, remote"],
        ),
        ("[agent]\ndata='x'\ndatabase='Edge'\n", ["agent.database = 'Edge'", '"edge"']),
        ("[agent]\ndata='x'\n[clock]\nsources=['gps']\n", ["clock.sources = 'gps'", "'ntp'"]),
        ("[agent]\ndata='x'\n[clock]\ntolerance=0\n", ["clock.tolerance = 0", "tolerance = 2"]),
        (
            "[agent]\ndata='x'\n[clock]\ntrust='system'\nsources=[]\n",
            ["clock", "trust = 'system' and sources exclude each other"],
        ),
        (
            GOOD.replace("baud = 9600", "clock = true") + "[clock]\ntrust='system'\n",
            ["device", "clock is of no use with trust"],
        ),
        ("device = 3\n[agent]\ndata='x'\n", ["device = 3", "[[device]]"]),
        ("[agent\n", ["not valid TOML", "line 1"]),
        (f"a = {'9' * 5000}\n", ["thousands of digits"]),
        (f"a = {'[' * 2000}\n", ["nested too deeply"]),
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
        (GOOD.replace("/dev/ttyUSB0", "usb:0403"), ["= 'usb:0403'", "usb:VID:PID"]),
        (GOOD.replace("/dev/ttyUSB0", "serial:"), ["device.port", "serial:NUMBER"]),
        (GOOD.replace("/dev/ttyUSB0", "socket://host"), ["device.port", "socket://HOST:PORT"]),
        (GOOD.replace("/dev/ttyUSB0", "tcp://host:1"), ["device.port", "socket://HOST:PORT"]),
        (
            GOOD.replace('"/dev/ttyUSB0"', '"socket://host:4000"\nrs485 = true'),
            ["'greenhouse'", "rs485 is for ports of this machine", "take it out"],
        ),
        (GOOD + "password = 'x'\n", ["password and password_file exclude each other"]),
        (GOOD.replace('user = "gateway-1"\n', ""), ["password_file needs a user"]),
        (USERS.replace('"anna"', '"a:b"'), ["user.name", "number 1", "no colon"]),
        (USERS.replace("password_hash", "password"), ["user.password", "unknown key"]),
        (USERS.replace("$scrypt$", "x"), ["user.password_hash", "edge-agent user add"]),
        (
            USERS.replace("_admin", "_root"),
            ["user.roles (in [[user]] number 1) = '_root'", "_admin"],
        ),
        (USERS.replace("_admin", "root"), ["nobody has the role _admin"]),
        (USERS + "[[user]]\nname='anna'\npassword_hash='$scrypt$'\n", ["'anna' is used twice"]),
        (SERVER + "tls_key = 'k'\n", ["server.tls_key needs server.tls_certificate", "PEM"]),
        (SERVER + "tls_certificate = 'c'\n", ["needs server.tls_key", "private key"]),
        (
            SERVER + "cors_origins = '*'\n",
            ["server.cors_origins = '*'", '["https://app.example.org"]'],
        ),
        (SERVER + "cors_origins = ['*']\n", ["without a user", "http://localhost:8080"]),
        (SERVER + "cors_origins = ['https://a.example/x']\n", ["'https://a.example/x'", "path"]),
        (SERVER + "session_timeout = 1\n", ["server.session_timeout = 1", "from 10 on"]),
    ],
)
def test_mistakes_are_explained(tmp_path: Path, text: str, parts: list[str]) -> None:
    message = complaint(tmp_path, text)
    for part in parts:
        assert part in message


@pytest.mark.parametrize(
    ("table", "line"),
    [
        ("[server]\nlisten = 'localhost'\n", 4),
        ("[server]\n\nlissten = 'x'\n", 5),
        ("[server]\ntls_key = 'k'\n", 4),
        ("[clock]\ntrust = 'sytem'\n", 4),
        ("[ retention ]\nmax_size = '2 gigs'\n", 4),
        ("name = 7\n", 3),
        ("[server]\n[server.x]\n", 4),
    ],
)
def test_a_mistake_in_a_table_of_which_there_is_one_is_told_with_its_line(
    tmp_path: Path, table: str, line: int
) -> None:
    assert complaint(tmp_path, f"[agent]\ndata = 'data'\n{table}").endswith(f"(line {line})")


def test_no_line_is_told_where_it_could_be_another(tmp_path: Path) -> None:
    text = '[agent]\ndata = "data"\n' + '[[retention.rule]]\nkeep = "1 day"\n' * 2
    said = complaint(tmp_path, text.replace("1 day", "one day"))
    assert "keep = 'one day'" in said
    assert "(line" not in said


MODBUS = """
[[device]]
name = "meters"
port = "/dev/ttyUSB1"
adapter = "modbus-rtu"
parity = "even"

[[device.settings.map]]
name = "a"

[[device.settings.map.register]]
name = "x"
address = 0

[[device.settings.map.register]]
name = "y"
address = 1
scale = 0.1

[[device.settings.slave]]
name = "s"
address = 1
map = "a"
"""


@pytest.mark.parametrize(
    ("wrong", "parts"),
    [
        (MODBUS.replace('"even"', '"evn"'), ["device.parity", "number 2", "'even' or 'odd'"]),
        (
            MODBUS.replace("scale", "skale"),
            [
                "device.settings.map.register.skale",
                "in [[device.settings.map]] number 1, [[device.settings.map.register]] number 2",
                "did you mean scale?",
            ],
        ),
        (MODBUS.replace("scale = 0.1", "scale = 0"), ["scale = 0", "number that is not 0"]),
        (MODBUS.replace("address = 1\nmap", "address = 300\nmap"), ["= 300", "from 1 to 247"]),
        (MODBUS.replace("address = 0\n", ""), ["number 1) is missing", "from 0 to 65535"]),
        (MODBUS.replace('map = "a"', 'map = "b"'), ["no map is called 'b'", "known are: a"]),
        (
            MODBUS.partition("[[device.settings.slave]]")[0],
            ["device.settings.slave is missing", "begin with [[device.settings.slave]]"],
        ),
        (MODBUS.replace("modbus-rtu", "json-lines"), ["device.settings", "takes none"]),
    ],
)
def test_mistakes_in_the_settings_of_an_adapter(
    tmp_path: Path, wrong: str, parts: list[str]
) -> None:
    config = written(
        tmp_path, GOOD.replace('user = "gateway-1"\npassword_file = "secret"\n', "") + wrong
    )
    done = in_process("config", "check", "--config", config)
    message = done.complaint()
    assert message.startswith(f"{config}: ")
    for part in parts:
        assert part in message


def test_secrets_are_never_repeated(tmp_path: Path) -> None:
    for text in (
        GOOD.replace("https://", "ftp://me:hunter2@"),
        GOOD + "password = ['hunter2']\n",
        USERS.replace("$scrypt$", "hunter2"),
        USERS.replace("[[user]]", "[user]").replace("$scrypt$", "hunter2"),
        GOOD.replace("[[remote]]", "[remote]\npassword = 'hunter2'"),
        USERS.replace("password_hash", "password_hush").replace("$scrypt$", "hunter2"),
    ):
        assert "hunter2" not in complaint(tmp_path, text)


def test_users_and_what_belongs_to_them(tmp_path: Path) -> None:
    text = USERS + "[server]\ntls_certificate='c.pem'\ntls_key='/k.pem'\ncors_origins=['*']\n"
    config = load(written(tmp_path, text))
    assert [(user.name, user.roles) for user in config.user] == [("anna", ["_admin", "staff"])]
    assert "scrypt" not in repr(config)
    assert config.server.tls_certificate == str(tmp_path / "c.pem")
    assert config.server.tls_key == "/k.pem"
    assert (config.server.cors_origins, config.server.session_timeout) == (["*"], 600)
    # A hub's file is the same without what makes a gateway.
    hub = load_hub(written(tmp_path, text.replace('[agent]\ndata = "data"\n', "")))
    assert hub == HubConfig(config.server, config.user)
    with pytest.raises(ConfigError, match="agent: unknown key; expected one of: server, user"):
        load_hub(written(tmp_path, text))


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


SELECTIVE = """
[[remote]]
name = "cloud"
url = "https://cloud.example.org/edge"
"""


def test_what_is_replicated_with_a_remote(tmp_path: Path) -> None:
    text = GOOD.replace("retry_cap = 30", 'push_doc_ids = ["a", "b"]')
    text += '[remote.pull_selector]\ntype = "setpoint"\nlevel = { "$gt" = 2 }\n'
    [remote] = load(written(tmp_path, text)).remote
    assert remote.push_doc_ids == ["a", "b"]
    assert remote.pull_selector == {"type": "setpoint", "level": {"$gt": 2}}
    assert remote.push_selector is None
    assert remote.pull_doc_ids is None


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ('push_selector = {}\npush_doc_ids = ["a"]', "push_selector and push_doc_ids exclude"),
        ('direction = "pull"\npush_selector = {}', 'of no use with direction = "pull"'),
        ('direction = "push"\npull_doc_ids = []', 'of no use with direction = "push"'),
        ('push_selector = "type"', "a Mango selector"),
        ('push_doc_ids = "a"', "ids of the documents"),
        ('pull_doc_ids = [""]', "ids of the documents"),
        ("push_selectors = {}", "did you mean push_selector?"),
    ],
)
def test_selections_that_are_no_use(tmp_path: Path, lines: str, said: str) -> None:
    assert said in complaint(tmp_path, f"[agent]\ndata = 'x'\n{SELECTIVE}{lines}\n")
