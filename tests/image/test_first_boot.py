"""The settings on the boot partition of a flashed card, applied to a root in a folder."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from agent.errors import ConfigError
from scripts.image import first_boot

CHECKOUT = Path(__file__).resolve().parents[2]
EXAMPLE = (CHECKOUT / "scripts/image/edge-agent.toml").read_text()
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExampleExampleExampleExampleExampleExamp"
AGENT = '[agent]\ndata = "/var/lib/edge-agent"  # here\n'


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A system as the image has it, just flashed."""
    for name in ("boot/firmware", "etc/edge-agent"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (tmp_path / "etc/edge-agent/config.toml").write_text(AGENT)
    return tmp_path


def start(root: Path) -> tuple[int, str]:
    """What happens at each start; the status, and what was said."""
    done = subprocess.run(
        [sys.executable, "-m", "scripts.image.first_boot", "--root", root],
        cwd=CHECKOUT, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, timeout=50, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout


def test_the_example_is_applied_and_removed(root: Path) -> None:
    boot = root / "boot/firmware"
    (boot / "edge-agent.toml").write_text(EXAMPLE)
    (boot / "edge-agent.error.txt").write_text("of another start\n")
    status, said = start(root)
    assert status == 0, said
    assert (root / "etc/hostname").read_text() == "gateway-17\n"
    assert "127.0.1.1 gateway-17\n" in (root / "etc/hosts").read_text()
    keys = root / "root/.ssh/authorized_keys"
    assert keys.read_text() == f"{KEY} anna\n"
    assert keys.stat().st_mode & 0o777 == 0o600
    assert keys.parent.stat().st_mode & 0o777 == 0o700
    config = (root / "etc/edge-agent/config.toml").read_text()
    assert tomllib.loads(config).keys() == {"agent", "remote"}
    assert '# adapter = "json-lines"' in config, "comments stay"
    assert "machine" not in tomllib.loads(config)
    assert list(boot.iterdir()) == []
    assert "change me" not in said


def test_a_machine_without_settings_gets_a_name_of_its_own(root: Path) -> None:
    assert start(root) == (0, "")
    first = (root / "etc/hostname").read_text()
    (root / "etc/machine-id").write_text("0123456789abcdef0123456789abcde0\n")
    assert start(root) == (0, "")
    assert (root / "etc/hostname").read_text() == first, "it keeps its name"
    (root / "etc/hostname").unlink()
    assert start(root) == (0, "")
    assert (root / "etc/hostname").read_text() != first


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("[machine\n", "not TOML"),
        ('[machine]\nhostnam = "a"\n', "machine.hostnam: unknown key; did you mean hostname?"),
        ('[machine]\nhostname = "a b"\n', "machine.hostname"),
        ('[machine.wifi]\nssid = "a"\ncountry = "DE"\n', "machine.wifi.password is missing"),
        ('[machine.network]\naddress = "300.1.1.1/24"\n', "machine.network"),
        ("[[remote]]\n", 'data = "/var/lib/edge-agent"'),
        (AGENT + "[[remote]]\nname = 'x'\nuri = 'y'\n", "did you mean url?"),
        (AGENT + "[[remote]]\nname = 'x'\nurl = 'gopher://x/y'\n", "edge-agent.toml: "),
    ],
)
def test_a_mistake_changes_nothing_and_is_told(root: Path, text: str, complaint: str) -> None:
    settings = root / "boot/firmware/edge-agent.toml"
    # What is right beside it is not applied either.
    settings.write_text(text if text.startswith("[machine") else f'[machine]\nntp = ["n"]\n{text}')
    status, said = start(root)
    assert status == 1
    assert complaint in said
    assert (root / "boot/firmware/edge-agent.error.txt").read_text().strip() in said
    assert settings.exists()
    assert (root / "etc/edge-agent/config.toml").read_text() == AGENT
    assert [path.name for path in (root / "etc/edge-agent").iterdir()] == ["config.toml"]
    assert not (root / "etc/systemd").exists()
    assert (root / "etc/hostname").read_text().startswith("gateway-")


def test_files_that_the_configuration_names_come_along(root: Path) -> None:
    boot = root / "boot/firmware"
    (boot / "edge-agent.d").mkdir()
    (boot / "edge-agent.d/cloud.password").write_text("swordfish\n")
    (boot / "edge-agent.toml").write_text(
        f'{AGENT}[[remote]]\nname = "cloud"\nurl = "http://127.0.0.1:9/edge"\n'
        'user = "a"\npassword_file = "cloud.password"\n'
    )
    status, said = start(root)
    assert status == 0, said
    assert (root / "etc/edge-agent/cloud.password").read_text() == "swordfish\n"
    assert list((boot / "edge-agent.d").iterdir()) == []


def test_windows_line_ends_and_marks_do_no_harm(root: Path) -> None:
    settings = root / "boot/firmware/edge-agent.toml"
    settings.write_bytes(b"\xef\xbb\xbf" + EXAMPLE.replace("\n", "\r\n").encode())
    status, said = start(root)
    assert status == 0, said
    settings.write_bytes(EXAMPLE.encode("utf-16"))
    status, said = start(root)
    assert status == 1
    assert "UTF-8" in said


def test_the_table_of_the_machine_may_stand_anywhere() -> None:
    text = (
        f'{AGENT}[machine]\nhostname = "a"\n[ machine . network ]\naddress = "10.0.0.1/8"\n'
        '[clock]\ntrust = "system"\n'
    )
    machine, config = first_boot.parse(text)
    assert machine.hostname == "a"
    assert config == f'{AGENT}[clock]\ntrust = "system"\n'


def test_what_looks_like_the_machines_table_but_is_not_one_is_refused() -> None:
    with pytest.raises(ConfigError, match="could not be told from the rest"):
        first_boot.parse(f'{AGENT}name = """\n[machine]\n"""\n')
    with pytest.raises(ConfigError, match="could not be told from the rest"):
        first_boot.parse(f'machine = {{ hostname = "a" }}\n{AGENT}')


def test_networks() -> None:
    machine, _ = first_boot.parse(
        '[machine.network]\naddress = "192.168.1.17/24"\ngateway = "192.168.1.1"\n'
        'dns = ["192.168.1.1", "::1"]\n'
        '[machine.wifi]\nssid = "IEEE"\npassword = "password"\ncountry = "DE"\n'
    )
    made = first_boot.files(machine)
    wired = made["etc/systemd/network/70-settings.network"]
    assert "Address=192.168.1.17/24\nGateway=192.168.1.1\nDNS=192.168.1.1\nDNS=::1\n" in wired
    wireless = made["etc/wpa_supplicant/wpa_supplicant-wlan0.conf"]
    # The test vector of IEEE 802.11, annex J.4.2.
    assert "psk=f42c6fc52df0ebef9ebb4b90b38a5f902e83fe1b135a70e23aed762e9710a12e" in wireless
    assert "ssid=49454545" in wireless
    assert "password" not in wireless
