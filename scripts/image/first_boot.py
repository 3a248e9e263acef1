"""Makes a machine of its own of a flashed image; runs at each start, before the network.

It gives the machine a name, and applies `edge-agent.toml`, if somebody has put one on the boot
partition: its table `[machine]` to the system, all else becomes the agent's configuration. Then the
file is overwritten and removed, since it may hold secrets. One with a mistake changes nothing, and
is tried again at the next start. `docs/image.md` describes the file.

It runs with the agent's own Python environment, whose checks it uses.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import contextlib
import hashlib
import ipaddress
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from itertools import takewhile
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
RADIO_RULES = "lib/firmware/regulatory.db"
"""Of the package wireless-regdb: what the kernel knows of each country's rules for radio."""

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
        pattern=rf"^(?=.{{1,253}}\Z)({_LABEL}(\.{_LABEL})*|[0-9a-fA-F:.]*:[0-9a-fA-F:.]*)\Z",
        description="a host's name or address",
        examples=["ntp.example.org"],
    ),
]
SshKey = Annotated[
    str,
    Meta(
        pattern=r"^(ssh-(rsa|ed25519)|ecdsa-sha2-nistp(256|384|521)|sk-(ssh-ed25519|ecdsa-sha2-nistp256)"
        r"@openssh\.com) [A-Za-z0-9+/]+={0,2}( [^\x00-\x1f\x7f]*)?\Z",
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

    def __post_init__(self) -> None:
        """Raises ValueError."""
        for server in self.dns:
            ipaddress.ip_address(server)
        if self.address is None:
            if self.gateway or self.dns:
                raise ValueError("address is missing")
            return
        own = ipaddress.ip_interface(self.address)
        edges = [own.network.network_address, own.network.broadcast_address]
        if own.network.num_addresses > 2 and own.ip in edges[: 2 if own.version == 4 else 1]:
            raise ValueError(f"address = {self.address!r} is the network's own; give the machine's")
        if self.gateway is None:
            return
        gateway = ipaddress.ip_address(self.gateway)
        if gateway == own.ip:
            raise ValueError(f"gateway = {self.gateway!r} is the machine's own address")
        if gateway not in own.network and not gateway.is_link_local:
            raise ValueError(f"gateway = {self.gateway!r} is not in the network {own.network}")


class Wifi(Struct, forbid_unknown_fields=True):
    """`[machine.wifi]`: a network with WPA2 (pre-shared key)."""

    ssid: Annotated[str, Meta(min_length=1, description="the network's name", examples=["site"])]
    password: Annotated[
        str,
        Meta(
            pattern=r"^([ -~]{8,63}|[0-9a-fA-F]{64})\Z",
            description="8 to 63 printable ASCII characters, or the key, 64 hexadecimal digits",
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

    def __post_init__(self) -> None:
        """Raises ValueError."""
        length = len(self.ssid.encode())
        if length > 32:  # octets (IEEE 802.11, 9.4.2.2)
            raise ValueError(f"ssid has {length} bytes (UTF-8); expected at most 32")


class Machine(Struct, forbid_unknown_fields=True):
    """`[machine]`: what is not given stays as it is."""

    hostname: HostName | None = None
    ssh_keys: list[SshKey] = []
    ntp: list[Server] = []
    network: Network = msgspec.field(default_factory=Network)
    wifi: Wifi | None = None

    def __post_init__(self) -> None:
        """Raises ValueError."""
        for server in self.ntp:
            if ":" in server:
                ipaddress.IPv6Address(server)
        for number, key in enumerate(self.ssh_keys, 1):
            kind, encoded = key.split()[:2]
            if not _is_key(kind, encoded):
                raise ValueError(
                    f"ssh_keys number {number} is no whole {kind} key; copy the line of the file "
                    "that ends with .pub"
                )


def _is_key(kind: str, encoded: str) -> bool:
    """Whether it is a list of fields of which the first is the kind (RFC 4253, 6.6)."""
    try:
        rest = base64.b64decode(encoded, validate=True)
    except binascii.Error:
        return False
    fields = []
    while rest:
        length = int.from_bytes(rest[:4], "big")
        field, rest = rest[4 : 4 + length], rest[4 + length :]
        if len(field) < length:
            return False
        fields.append(field)
    return len(fields) > 1 and fields[0] == kind.encode()


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
    wifi = re.search(r"`\$\.wifi[`.]", message)
    if wifi and isinstance(of_machine.get("wifi"), dict):
        inner = message.replace("$.wifi", "$")
        return explain(inner.removesuffix(" - at `$`"), of_machine["wifi"], Wifi, "machine.wifi")
    return explain(message, of_machine, Machine, "machine")


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
    """The key in hex: the password, or what is made of it and the name (IEEE 802.11, annex J.4)."""
    if len(wifi.password) == 64:
        return wifi.password.lower()
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
    if settings.startswith(b"\0"):
        return
    machine, config = parse(_text(SETTINGS, settings))
    if machine.wifi is not None:
        _check_country(root, machine.wifi.country)
    beside = {path.name: _text(path.name, path.read_bytes()) for path in _beside(boot)}
    target = root / CONFIG
    for name in {target.name, SETTINGS} & beside.keys():
        raise ConfigError(f"{FILES}/{name}: the agent has a file of that name; give it another one")
    of_system = files(machine)
    named_files = {target.with_name(name): text for name, text in beside.items()}
    with _all_or_nothing([*named_files, target, *(root / name for name in of_system)]):
        for path, text in named_files.items():
            replace_file(path, text)
        if config is not None:
            _replace_checked(target, config)
        _write(root, of_system)
        if machine.ssh_keys:
            (root / "root/.ssh").chmod(0o700)
    os.sync()


def _check_country(root: Path, country: str) -> None:
    try:
        database = (root / RADIO_RULES).read_bytes()
    except FileNotFoundError:
        return
    # After 8 bytes, one entry of 4 for each, until one is zero (linux, net/wireless/reg.c).
    entries = (database[at : at + 4] for at in range(8, len(database), 4))
    known = {entry[:2] for entry in takewhile(lambda entry: any(entry[2:]), entries)}
    if country.encode() not in known:
        raise ConfigError(
            f"{SETTINGS}: machine.wifi.country = {country!r} is no country whose rules for radio "
            'are known; expected a code of ISO 3166, for example country = "GB"'
        )


@contextlib.contextmanager
def _all_or_nothing(paths: Sequence[Path]) -> Iterator[None]:
    """Puts files back as they were when not all of them can be replaced."""
    before = {path: path.read_text(encoding="utf-8") if path.exists() else None for path in paths}
    try:
        yield
    except (EdgeAgentError, OSError) as error:
        for path, text in before.items():
            if text is not None:
                replace_file(path, text)
            elif path.exists():
                path.unlink()
        if isinstance(error, OSError):
            raise ConfigError(f"{error.filename}: {error.strerror}") from error
        raise


def remove(root: Path) -> None:
    """Take applied settings off the boot partition. Raises OSError."""
    boot = root / BOOT
    # First the settings, or others than these would be applied with them after a power cut.
    _zero(boot / SETTINGS)
    for path in (*_beside(boot), boot / SETTINGS):
        _zero(path)
        path.unlink()
    os.sync()


def _text(name: str, data: bytes) -> str:
    try:
        return data.decode("utf-8-sig" if name == SETTINGS else "utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{name}: this is not UTF-8 text; save it as such") from error


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
    boot = root / BOOT
    try:
        give_name(root)
        if not (boot / SETTINGS).exists():
            return 0
        apply(root)
    except EdgeAgentError as error:
        print(f"edge-agent: settings are not applied: {error}", flush=True)
        print(f"edge-agent: correct {SETTINGS} on the boot partition, and start again", flush=True)
        with contextlib.suppress(OSError):  # it was said above
            (boot / ERROR).write_text(f"{error}\n")
        return 1
    try:
        remove(root)
        (boot / ERROR).unlink(missing_ok=True)
    except OSError as error:
        print(
            f"edge-agent: {SETTINGS} is applied, but cannot be removed from the boot partition "
            f"({error.strerror}); remove it, as it may hold secrets",
            flush=True,
        )
        return 1
    print(f"edge-agent: {SETTINGS} is applied, and removed from the boot partition", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
