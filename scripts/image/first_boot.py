"""Makes a machine of its own of a flashed image; runs at each start, before the network.

It gives the machine a name, and applies `edge-agent.toml`, if somebody has put one on the boot
partition: its table `[machine]` to the system, all else becomes the agent's configuration. Then the
file is overwritten and removed, since it may hold secrets. One with a mistake changes nothing, and
is tried again at the next start. `docs/image.md` describes the file.

It runs with the agent's own Python environment, whose checks it uses.
"""

from __future__ import annotations

import argparse
import hashlib
import ipaddress
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from agent.cli.files import replace_file
from agent.config_explain import explain
from agent.errors import ConfigError, EdgeAgentError

BOOT = "boot/firmware"
SETTINGS = "edge-agent.toml"
FILES = "edge-agent.d"
ERROR = "edge-agent.error.txt"
CONFIG = "etc/edge-agent/config.toml"
DATA = "/var/lib/edge-agent"
"""Where the data partition is."""

_LABEL = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
HostName = Annotated[
    str,
    Meta(
        pattern=rf"^{_LABEL}\Z",
        description="letters, digits and '-', at most 63",
        examples=["gateway-17"],
    ),
]
Server = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9.:-]+\Z",
        description="a host's name or address",
        examples=["ntp.example.org"],
    ),
]
SshKey = Annotated[
    str,
    Meta(
        pattern=r"^(ssh-|ecdsa-|sk-)[a-z0-9@.-]+ [A-Za-z0-9+/]{16,}={0,2}( [^\r\n]*)?\Z",
        description="the line of a public key, as ~/.ssh/id_ed25519.pub has it",
        examples=["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAA... anna"],
    ),
]
Address = Annotated[
    str,
    Meta(pattern=r"^[0-9a-fA-F.:]+\Z", description="an address", examples=["192.168.1.1"]),
]


class Network(Struct, forbid_unknown_fields=True):
    """`[machine.network]`: the wired network, if nobody there gives out addresses."""

    address: (
        Annotated[
            str,
            Meta(
                pattern=r"^[0-9a-fA-F.:]+/\d+\Z",
                description="an address with the length of the network's prefix",
                examples=["192.168.1.17/24"],
            ),
        ]
        | None
    ) = None
    gateway: Address | None = None
    dns: list[Address] = []


class Wifi(Struct, forbid_unknown_fields=True):
    """`[machine.wifi]`: a network with WPA2 (pre-shared key)."""

    ssid: Annotated[str, Meta(min_length=1, description="the network's name", examples=["site"])]
    password: Annotated[
        str,
        Meta(
            pattern=r"^[ -~]{8,63}\Z",
            description="from 8 to 63 printable ASCII characters",
            examples=["correct horse"],
        ),
    ]
    country: Annotated[
        str,
        Meta(
            pattern=r"^[A-Z]{2}\Z",
            description="the country whose rules for radio apply, by two letters",
            examples=["DE"],
        ),
    ]


class Machine(Struct, forbid_unknown_fields=True):
    """`[machine]`: what is not given stays as it is."""

    hostname: HostName | None = None
    ssh_keys: list[SshKey] = []
    ntp: list[Server] = []
    network: Network = msgspec.field(default_factory=Network)
    wifi: Wifi | None = None


def parse(text: str) -> tuple[Machine, str | None]:
    """The machine's settings, and the text of the agent's configuration if there is one.

    Raises ConfigError, one line.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{SETTINGS}: this is not TOML: {error}") from error
    of_machine = raw.pop("machine", {})
    try:
        machine = msgspec.convert(of_machine, Machine)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{SETTINGS}: {_explained(str(error), of_machine)}") from error
    _check_addresses(machine.network)
    if not raw:
        return machine, None
    agent = raw.get("agent")
    if not isinstance(agent, dict) or agent.get("data") != DATA:
        raise ConfigError(f'{SETTINGS}: [agent] needs data = "{DATA}", the data partition')
    return machine, _without_machine(text, raw)


def _explained(message: str, of_machine: Any) -> str:
    if not isinstance(of_machine, dict):
        return "machine has to be a table: [machine]"
    # The structs that may be missing are explained by themselves.
    wifi = re.search(r"`\$\.wifi", message)
    if wifi and isinstance(of_machine.get("wifi"), dict):
        inner = message.replace("$.wifi", "$")
        return explain(inner.removesuffix(" - at `$`"), of_machine["wifi"], Wifi, "machine.wifi")
    return explain(message, of_machine, Machine, "machine")


def _check_addresses(network: Network) -> None:
    try:
        if network.address is not None:
            ipaddress.ip_interface(network.address)
        for address in filter(None, [network.gateway, *network.dns]):
            ipaddress.ip_address(address)
    except ValueError as error:
        raise ConfigError(f"{SETTINGS}: machine.network: {error}") from error
    if network.address is None and (network.gateway or network.dns):
        raise ConfigError(f"{SETTINGS}: machine.network.address is missing")


def _without_machine(text: str, expected: dict[str, Any]) -> str:
    """The text less `[machine]` and the tables in it, with its comments."""
    kept, inside = [], False
    for line in text.splitlines(keepends=True):
        if re.match(r"\s*\[", line):
            inside = re.match(r"\s*\[\s*machine\s*[].]", line) is not None
        if not inside:
            kept.append(line)
    rest = "".join(kept)
    try:
        found = tomllib.loads(rest)
    except tomllib.TOMLDecodeError:
        found = {}
    if found != expected:
        raise ConfigError(
            f"{SETTINGS}: [machine] could not be told from the rest; write it as tables "
            "([machine], [machine.wifi]), with each list in one line"
        )
    return rest


def files(machine: Machine) -> dict[str, str]:
    """The system's files that say the same, by their paths below the root."""
    made: dict[str, str] = {}
    if machine.hostname is not None:
        made |= named(machine.hostname)
    if machine.ssh_keys:
        made["root/.ssh/authorized_keys"] = "".join(f"{key}\n" for key in machine.ssh_keys)
    if machine.ntp:
        text = f"[Time]\nNTP={' '.join(machine.ntp)}\n"
        made["etc/systemd/timesyncd.conf.d/settings.conf"] = text
    network = machine.network
    if network.address is not None:
        lines = ["[Match]", "Type=ether", "", "[Network]", f"Address={network.address}"]
        lines += [f"Gateway={network.gateway}"] if network.gateway else []
        lines += [f"DNS={server}" for server in network.dns]
        made["etc/systemd/network/70-settings.network"] = "\n".join(lines) + "\n"
    if machine.wifi is not None:
        made["etc/wpa_supplicant/wpa_supplicant-wlan0.conf"] = (
            f"country={machine.wifi.country}\n\nnetwork={{\n"
            # Digits, so that nothing in a name has a meaning.
            f"    ssid={machine.wifi.ssid.encode().hex()}\n    psk={wifi_key(machine.wifi)}\n}}\n"
        )
    return made


def named(hostname: str) -> dict[str, str]:
    """The files that give the machine a name."""
    hosts = f"127.0.0.1 localhost\n::1 localhost ip6-localhost\n127.0.1.1 {hostname}\n"
    return {"etc/hostname": f"{hostname}\n", "etc/hosts": hosts}


def wifi_key(wifi: Wifi) -> str:
    """The key in hex that is made of name and password (IEEE 802.11, annex J.4)."""
    return hashlib.pbkdf2_hmac("sha1", wifi.password.encode(), wifi.ssid.encode(), 4096, 32).hex()


def give_name(root: Path) -> None:
    """A machine that has none gets one that no other card from the same image has."""
    if not (root / "etc/hostname").exists():
        identity = (root / "etc/machine-id").read_text().strip()
        digest = hashlib.sha256(f"name of {identity}".encode()).hexdigest()
        _write(root, named(f"gateway-{digest[:8]}"))


def apply(root: Path) -> None:
    """Apply the settings on the boot partition. Raises EdgeAgentError; then nothing has changed."""
    boot = root / BOOT
    settings = (boot / SETTINGS).read_bytes()
    # A zero is what a power cut leaves of settings that were applied, while they are removed.
    if not settings.startswith(b"\0"):
        machine, config = parse(_text(SETTINGS, settings))
        _configure_agent(root, config)
        _write(root, files(machine))
        if machine.ssh_keys:
            (root / "root/.ssh").chmod(0o700)
        os.sync()
    # First the settings, or others than these would be applied with them after a power cut.
    _zero(boot / SETTINGS)
    for path in (*_beside(boot), boot / SETTINGS):
        _zero(path)
        path.unlink()
    os.sync()


def _configure_agent(root: Path, text: str | None) -> None:
    """The agent's configuration, if there is a new one, and the files that lie beside it."""
    target = root / CONFIG
    beside = {path.name: _text(path.name, path.read_bytes()) for path in _beside(root / BOOT)}
    for name in {target.name, SETTINGS} & beside.keys():
        raise ConfigError(f"{FILES}/{name}: the agent has a file of that name; give it another one")
    before = {name: _read(target.with_name(name)) for name in beside}
    try:
        for name, content in beside.items():
            replace_file(target.with_name(name), content)
        if text is not None:
            _replace_checked(target, text)
    except EdgeAgentError:
        for name, content_before in before.items():
            if content_before is None:
                target.with_name(name).unlink(missing_ok=True)
            else:
                replace_file(target.with_name(name), content_before)
        raise


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig" if name == SETTINGS else "utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: this is not UTF-8 text; save it as such") from error


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _replace_checked(target: Path, text: str) -> None:
    candidate = target.with_name(SETTINGS)
    replace_file(candidate, text)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "agent", "config", "check", "--config", candidate],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode != 0:
            said = (done.stderr.strip().splitlines() or ["no reason was given"])[-1]
            raise ConfigError(said.removeprefix("Error: ").replace(f"{candidate}", SETTINGS))
        replace_file(target, text)
    finally:
        candidate.unlink(missing_ok=True)


def _beside(boot: Path) -> list[Path]:
    """What systems lay beside files on such partitions begins with a dot."""
    folder = boot / FILES
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(path for path in found if path.is_file() and not path.name.startswith("."))


def _write(root: Path, texts: dict[str, str]) -> None:
    for name, text in texts.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_file(path, text)
        if not name.startswith(("root/", "etc/wpa_supplicant/")):
            path.chmod(0o644)


def _zero(path: Path) -> None:
    """Overwrite a file that may hold secrets."""
    with path.open("r+b") as file:
        file.write(bytes(path.stat().st_size))
        file.flush()
        os.fsync(file.fileno())


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--root", type=Path, default=Path("/"), help="the root of the system")
    root = parser.parse_args(arguments).root
    give_name(root)
    boot = root / BOOT
    if not (boot / SETTINGS).exists():
        return 0
    error_file = boot / ERROR
    try:
        apply(root)
    except EdgeAgentError as error:
        print(f"edge-agent: settings are not applied: {error}", flush=True)
        print(f"edge-agent: correct {SETTINGS} on the boot partition, and start again", flush=True)
        error_file.write_text(f"{error}\n")
        return 1
    error_file.unlink(missing_ok=True)
    print(f"edge-agent: {SETTINGS} is applied, and removed from the boot partition", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
