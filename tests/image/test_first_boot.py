"""The settings on the boot partition of a flashed card, applied to a root in a folder."""

from __future__ import annotations

import json
import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from agent.errors import ConfigError
from scripts.image import first_boot

CHECKOUT = Path(__file__).resolve().parents[2]
EXAMPLE = (CHECKOUT / "scripts/image/edge-agent.toml").read_text()
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIExampleExampleExampleExampleExampleExampleE"
RADIO_RULES = Path("/lib/firmware/regulatory.db")
AGENT = '[agent]\ndata = "/var/lib/edge-agent"  # here\n'


class Machine:
    """Such a system, started as often as one likes."""

    def __init__(self, root: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.root = root
        self.boot = root / "boot/firmware"
        self._capsys = capsys

    def start(self) -> tuple[int, str]:
        """What happens at each start; the status, and what was said."""
        status = first_boot.main(["--root", str(self.root)])
        return status, self._capsys.readouterr().out

    def text(self, name: str) -> str:
        return (self.root / name).read_text()


@pytest.fixture
def machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Machine:
    """As the image has it, just flashed."""
    for name in ("boot/firmware", "etc/edge-agent"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "etc/machine-id").write_text("0123456789abcdef0123456789abcdef\n")
    (tmp_path / "etc/edge-agent/config.toml").write_text(AGENT)
    return Machine(tmp_path, capsys)


def test_the_example_is_applied_and_removed(machine: Machine) -> None:
    boot = machine.boot
    (boot / "edge-agent.toml").write_text(EXAMPLE)
    (boot / "edge-agent.error.txt").write_text("of another start\n")
    os.link(boot / "edge-agent.toml", machine.root / "block")  # what the card keeps of it
    status, said = machine.start()
    assert status == 0, said
    assert machine.text("etc/hostname") == "gateway-17\n"
    assert "127.0.1.1 gateway-17\n" in machine.text("etc/hosts")
    keys = machine.root / "root/.ssh/authorized_keys"
    assert keys.read_text() == f"{KEY} anna\n"
    assert keys.stat().st_mode & 0o777 == 0o600
    assert keys.parent.stat().st_mode & 0o777 == 0o700
    config = machine.text("etc/edge-agent/config.toml")
    assert tomllib.loads(config).keys() == {"agent", "remote"}
    assert '# adapter = "json-lines"' in config, "comments stay"
    assert "machine" not in tomllib.loads(config)
    assert list(boot.iterdir()) == []
    assert set((machine.root / "block").read_bytes()) == {0}
    assert "change me" not in said


def test_a_machine_without_settings_gets_a_name_of_its_own(machine: Machine) -> None:
    assert machine.start() == (0, "")
    first = machine.text("etc/hostname")
    (machine.root / "etc/machine-id").write_text("0123456789abcdef0123456789abcde0\n")
    assert machine.start() == (0, "")
    assert machine.text("etc/hostname") == first, "it keeps its name"
    (machine.root / "etc/hostname").unlink()
    assert machine.start() == (0, "")
    assert machine.text("etc/hostname") != first


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        *(
            (f"[machine]\n{text}\n", complaint)
            for text, complaint in [
                (f'hostname = "{"a" * 64}"', "machine.hostname"),
                ('hostname = "-a"', "machine.hostname"),
                ('ntp = ["time..example.org"]', "machine.ntp"),
                ('ntp = ["10.0.0.1:123"]', "'10.0.0.1:123'"),
                (f'ssh_keys = ["{KEY[:-4]}"]', "ssh_keys number 1 is no whole ssh-ed25519 key"),
                (f'ssh_keys = ["{KEY}", "{KEY[:-1]}"]', "ssh_keys number 2 is no whole"),
                (f'ssh_keys = ["ssh-rsa {KEY.split()[1]}"]', "is no whole ssh-rsa key"),
                ('ssh_keys = ["ssh-dss AAAAB3NzaC1kc3MAAACBAOeB"]', "machine.ssh_keys"),
            ]
        ),
        *(
            (f"[machine.wifi]\n{text}\n", complaint)
            for text, complaint in [
                (
                    f'ssid = "{"é" * 17}"\npassword = "password"\ncountry = "DE"',
                    "machine.wifi: ssid has 34 bytes (UTF-8); expected at most 32",
                ),
                ('ssid = ""\npassword = "password"\ncountry = "DE"', "machine.wifi.ssid"),
                ('ssid = "a"\npassword = "passwor"\ncountry = "DE"', "machine.wifi.password"),
                (
                    f'ssid = "a"\npassword = "{"g" * 64}"\ncountry = "DE"',
                    "machine.wifi.password is not allowed; expected 8 to 63 printable",
                ),
                ('ssid = "a"\npassword = "password"\ncountry = "de"', "machine.wifi.country"),
            ]
        ),
        *(
            (f"[machine.network]\n{text}\n", f"machine.network: {complaint}")
            for text, complaint in [
                ('gateway = "192.168.1.1"', "address is missing"),
                ('dns = ["192.168.1"]', "'192.168.1'"),
                ('address = "192.168.1.17/33"', "'192.168.1.17/33'"),
                ('address = "192.168.1.0/24"', "address = '192.168.1.0/24' is the network's own"),
                ('address = "192.168.1.255/24"', "address = '192.168.1.255/24' is the network's"),
                (
                    'address = "192.168.1.17/24"\ngateway = "192.168.2.1"',
                    "gateway = '192.168.2.1' is not in the network 192.168.1.0/24",
                ),
                (
                    'address = "192.168.1.17/24"\ngateway = "192.168.1.17"',
                    "gateway = '192.168.1.17' is the machine's own address",
                ),
            ]
        ),
        ("[machine\n", "not TOML"),
        ('[machine]\nhostnam = "a"\n', "machine.hostnam: unknown key; did you mean hostname?"),
        ('[machine]\nhostname = "a b"\n', "machine.hostname"),
        ('[machine.wifi]\nssid = "a"\ncountry = "DE"\n', "machine.wifi.password is missing"),
        ('[machine.network]\naddress = "300.1.1.1/24"\n', "machine.network"),
        ('[machine.network]\naddress = "fe80::1%e\\nDHCP=yes/64"\n', "machine.network.address"),
        ("[[remote]]\n", 'data = "/var/lib/edge-agent"'),
        ("[[agent]]\n", 'data = "/var/lib/edge-agent"'),
        (AGENT + "[[remote]]\nname = 'x'\nuri = 'y'\n", "did you mean url?"),
        (AGENT + "[[remote]]\nname = 'x'\nurl = 'gopher://x/y'\n", "edge-agent.toml: "),
    ],
)
def test_a_mistake_changes_nothing_and_is_told(machine: Machine, text: str, complaint: str) -> None:
    settings = machine.boot / "edge-agent.toml"
    # What is right beside it is not applied either.
    settings.write_text(text if text.startswith("[machine") else f'[machine]\nntp = ["n"]\n{text}')
    status, said = machine.start()
    assert status == 1
    assert complaint in said
    assert machine.text("boot/firmware/edge-agent.error.txt").strip() in said
    assert settings.exists()
    assert machine.text("etc/edge-agent/config.toml") == AGENT
    assert [path.name for path in (machine.root / "etc/edge-agent").iterdir()] == ["config.toml"]
    assert not (machine.root / "etc/systemd").exists()
    assert machine.text("etc/hostname").startswith("gateway-")


@pytest.mark.skipif(not RADIO_RULES.exists(), reason="this needs the package wireless-regdb")
def test_a_country_has_to_be_one_whose_radio_rules_are_known(machine: Machine) -> None:
    (machine.root / "lib/firmware").mkdir(parents=True)
    (machine.root / first_boot.RADIO_RULES).symlink_to(RADIO_RULES)
    settings = machine.boot / "edge-agent.toml"
    wifi = AGENT + '[machine.wifi]\nssid = "a"\npassword = "password"\ncountry = "{}"\n'
    for unknown in ("UK", "QZ"):
        settings.write_text(wifi.format(unknown))
        status, said = machine.start()
        assert status == 1
        assert f"machine.wifi.country = '{unknown}' is no country" in said
        assert not (machine.root / "etc/wpa_supplicant").exists()
    for known in ("GB", "AD", "ZW", "DE"):
        settings.write_text(wifi.format(known))
        assert machine.start()[0] == 0


def test_what_cannot_be_written_leaves_nothing_of_the_rest(machine: Machine) -> None:
    (machine.root / "etc/systemd").write_text("no folder")
    folder = machine.boot / "edge-agent.d"
    folder.mkdir()
    (folder / "site.pem").write_text("an authority\n")
    settings = machine.boot / "edge-agent.toml"
    settings.write_text(f'{AGENT}# new\n[machine]\nhostname = "new"\nntp = ["n"]\n')
    status, said = machine.start()
    assert status == 1
    assert "etc/systemd" in said
    assert machine.text("etc/hostname").startswith("gateway-")
    assert machine.text("etc/edge-agent/config.toml") == AGENT
    assert not (machine.root / "etc/edge-agent/site.pem").exists()
    assert settings.exists()


def test_files_that_the_configuration_names_come_along(machine: Machine) -> None:
    boot = machine.boot
    (boot / "edge-agent.d").mkdir()
    (boot / "edge-agent.d/cloud.password").write_text("swordfish\n")
    (boot / "edge-agent.toml").write_text(
        f'{AGENT}[[remote]]\nname = "cloud"\nurl = "http://127.0.0.1:9/edge"\n'
        'user = "a"\npassword_file = "cloud.password"\n'
    )
    status, said = machine.start()
    assert status == 0, said
    assert machine.text("etc/edge-agent/cloud.password") == "swordfish\n"
    assert list((boot / "edge-agent.d").iterdir()) == []


def test_files_beside_come_along_with_settings_of_the_machine_alone(machine: Machine) -> None:
    boot = machine.boot
    (boot / "edge-agent.d").mkdir()
    (boot / "edge-agent.d/cloud.password").write_text("swordfish\n")
    (boot / "edge-agent.d/._cloud.password").write_bytes(b"\x00\x05\x16\x07\xff")  # of a Mac
    (boot / "edge-agent.toml").write_text('[machine]\nhostname = "a"\n')
    assert machine.start()[0] == 0
    assert machine.text("etc/edge-agent/cloud.password") == "swordfish\n"
    assert machine.text("etc/edge-agent/config.toml") == AGENT


@pytest.mark.parametrize(
    ("name", "content", "settings"),
    [
        ("cloud.password", b"new\n", AGENT + "[[remote]]\nname = 'x'\nurl = 'gopher://x/y'\n"),
        ("cloud.password", b"\xff", AGENT),
        ("config.toml", b"junk", AGENT),
    ],
)
def test_a_mistake_leaves_what_lies_beside_unapplied(
    machine: Machine, name: str, content: bytes, settings: str
) -> None:
    password = machine.root / "etc/edge-agent/cloud.password"
    password.write_text("old\n")
    folder = machine.boot / "edge-agent.d"
    folder.mkdir()
    (folder / name).write_bytes(content)
    (folder / "site.pem").write_text("an authority\n")
    (machine.boot / "edge-agent.toml").write_text(settings)
    assert machine.start()[0] == 1
    assert password.read_text() == "old\n"
    assert machine.text("etc/edge-agent/config.toml") == AGENT
    assert not (machine.root / "etc/edge-agent/site.pem").exists()
    assert (folder / name).read_bytes() == content


def test_what_was_applied_is_removed_after_a_power_cut_and_not_applied_again(
    machine: Machine,
) -> None:
    folder = machine.boot / "edge-agent.d"
    folder.mkdir()
    (folder / "cloud.password").write_bytes(bytes(10))
    (machine.boot / "edge-agent.toml").write_bytes(bytes(100))
    password = machine.root / "etc/edge-agent/cloud.password"
    password.write_text("swordfish\n")
    assert machine.start()[0] == 0
    assert password.read_text() == "swordfish\n"
    assert [path.name for path in machine.boot.iterdir()] == ["edge-agent.d"]
    assert list(folder.iterdir()) == []


def test_windows_line_ends_and_marks_do_no_harm(machine: Machine) -> None:
    settings = machine.boot / "edge-agent.toml"
    settings.write_bytes(b"\xef\xbb\xbf" + EXAMPLE.replace("\n", "\r\n").encode())
    status, said = machine.start()
    assert status == 0, said
    settings.write_bytes(EXAMPLE.encode("utf-16"))
    status, said = machine.start()
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


@pytest.mark.parametrize("ssid", ["a" * 32, "é" * 16])
def test_the_longest_name_of_a_network_and_its_key_in_digits(ssid: str) -> None:
    machine, _ = first_boot.parse(
        f'[machine.wifi]\nssid = "{ssid}"\npassword = "{"0123456789ABCDEF" * 4}"\ncountry = "DE"\n'
    )
    wireless = first_boot.files(machine)["etc/wpa_supplicant/wpa_supplicant-wlan0.conf"]
    assert f"ssid={ssid.encode().hex()}\n" in wireless
    assert f"psk={'0123456789abcdef' * 4}\n" in wireless


def test_keys_and_networks_as_their_tools_make_them(tmp_path: Path) -> None:
    keys = []
    for kind in ("ed25519", "rsa", "ecdsa"):
        path = tmp_path / kind
        subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", "", "-f", path], check=True)
        keys.append(path.with_suffix(".pub").read_text().strip())
    machine, _ = first_boot.parse(
        f"[machine]\nssh_keys = {json.dumps(keys)}\nntp = ['fd00::1', 'n.example.org']\n"
        "[machine.network]\naddress = '2001:db8::2/64'\ngateway = 'fe80::1'\n"
    )
    assert machine.ssh_keys == keys
    for address in ("10.0.0.0/31", "10.0.0.1/32", "2001:db8::ff/127"):
        first_boot.parse(f"[machine.network]\naddress = '{address}'\n")
