"""The image that `scripts/build-image` makes, booted: two cards from one image.

Building takes a quarter of an hour and more at the first time, each start of the emulated machine
minutes.
"""

from __future__ import annotations

import base64
import json
import os
import re
import shlex
import subprocess
import urllib.error
import urllib.request
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.agents import CHECKOUT, AgentProcess, edge_agent, hub, table
from tests.rig.network import find_free_port
from tests.slow.virtual_machine import HOST, LONGEST, Card, VirtualMachine, missing, wait_for

_LACKING = "root" if os.getuid() != 0 else missing()
pytestmark = [
    pytest.mark.skipif(_LACKING is not None, reason=f"this needs {_LACKING}"),
    pytest.mark.timeout(3 * LONGEST),
]
SECRET = "swordfish-on-the-card"
CARD_SIZE = 3 << 30


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("image") / "edge-agent.img"
    subprocess.run([CHECKOUT / "scripts/build-image", made], stdin=subprocess.DEVNULL, check=True)
    return made


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """The private key of whoever may log in."""
    path = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", path], check=True)
    return path


class Hub:
    """A hub on this host, with a user whose password is the secret."""

    def __init__(self, folder: Path) -> None:
        self.port = find_free_port()
        self._data = folder / "hub"
        self._config = folder / "hub.toml"
        self._config.write_text(f'[server]\nlisten = "127.0.0.1:{self.port}"\n')
        password = folder / "password"
        password.write_text(SECRET)
        added = edge_agent(
            "user", "add", "gateway-17", "--role", "_admin", "--password-file", password,
            "--config", self._config,
        )  # fmt: skip
        assert added.status == 0, added
        self.process = self.start()

    def start(self) -> AgentProcess:
        started = hub(self._data, "--config", self._config, port=self.port)
        started.wait_until_ready()
        self.process = started
        return started

    def get(self, path: str) -> Any:
        """A document; None if there is none."""
        try:
            return self._asked("GET", path)
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise

    def put(self, path: str, document: Any = None) -> None:
        self._asked("PUT", path, document)

    def _asked(self, method: str, path: str, document: Any = None) -> Any:
        login = base64.b64encode(f"gateway-17:{SECRET}".encode()).decode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/{path}",
            data=None if document is None else json.dumps(document).encode(),
            headers={"Authorization": f"Basic {login}", "Content-Type": "application/json"},
            method=method,
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


_ASK = """
import json, sys, urllib.request
method, path, *body = sys.argv[1:]
request = urllib.request.Request("http://127.0.0.1:5984/" + path, method=method,
    data=body[0].encode() if body else None, headers={"Content-Type": "application/json"})
try:
    print(urllib.request.urlopen(request, timeout=60).read().decode())
except urllib.error.HTTPError as error:
    print("null" if error.code == 404 else error.read().decode())
"""


def ask(machine: VirtualMachine, *arguments: str) -> Any:
    """What the agent in there answers to a request: method, path, body. None if it is not there."""
    return json.loads(machine.run(shlex.join(["python3", "-c", _ASK, *arguments])))


def test_it_replicates_and_survives_a_power_cut(image: Path, key: Path, tmp_path: Path) -> None:
    card = Card(image, tmp_path / "card.img", CARD_SIZE)
    assert any(name.startswith("vmlinuz-") for name in card.names()), "or UEFI waits for somebody"
    there = Hub(tmp_path)
    machine_table = (
        f'[machine]\nhostname = "gateway-17"\nntp = ["{HOST}"]\n'
        f"ssh_keys = [{json.dumps(key.with_suffix('.pub').read_text().strip())}]\n"
    )
    remote = table(
        "remote", name="cloud", url=f"http://{HOST}:{there.port}/edge", user="gateway-17",
        password=SECRET, retry_cap=5,
    )  # fmt: skip
    agent_table = '[agent]\ndata = "/var/lib/edge-agent"\n'
    card.put("edge-agent.toml", "\n".join([machine_table, agent_table, remote]))
    assert card.holds(SECRET, "edge-boot"), "or else its absence later says nothing"
    with there.process:
        there.put("edge")
        there.put("edge/setpoint", {"value": 21.5})
        with VirtualMachine(card, key, tmp_path / "first.txt") as machine:
            machine.wait_until_up()
            wait_for(lambda: ask(machine, "GET", "edge/setpoint"), "the hub's document")
            ask(machine, "PUT", "edge/from-the-gateway", '{"value": 1}')
            wait_for(lambda: there.get("edge/from-the-gateway"), "the gateway's document")

            assert machine.run("hostname") == "gateway-17\n"
            mounted = machine.run("findmnt -bno SOURCE,SIZE /var/lib/edge-agent").split()
            assert mounted[0] == "/dev/vda3"
            assert int(mounted[1]) > 0.9 * (CARD_SIZE - card.places["edge-data"][0])
            identity = machine.run("cat /etc/machine-id")
            assert len(identity) == 33

            # Acknowledged while nobody else has it; then the plug is pulled.
            there.process.stop()
            assert ask(machine, "PUT", "edge/kept", '{"value": 2}')["ok"]
            machine.cut_power()
    assert "edge-agent.toml" not in card.names()
    assert not card.holds(SECRET, "edge-boot")
    with there.start(), VirtualMachine(card, key, tmp_path / "second.txt") as machine:
        wait_for(lambda: there.get("edge/kept"), "the document from before the power cut")
        machine.wait_until_up()
        assert machine.run("cat /etc/machine-id") == identity
        first_boot = "systemctl show --property=ConditionResult --value edge-agent-first-boot"
        assert machine.run(first_boot) == "no\n"


def _prompt(machine: VirtualMachine) -> re.Match[str] | None:
    return re.search(r"(\S+) login: ", machine.console)


def _refusal(machine: VirtualMachine) -> re.Match[str] | None:
    """systemd's word, on a line with colours and a name that it may shorten."""
    return re.search(r"Dependency failed for \S*edge.*, store, replication", machine.console)


def test_two_cards_are_no_clones_and_start_in_spite_of_mistakes(
    image: Path, key: Path, tmp_path: Path
) -> None:
    cards = [Card(image, tmp_path / f"{number}.img", CARD_SIZE) for number in range(2)]
    assert "ssh_host" not in cards[0].listed("/etc/ssh")
    cards[0].put("edge-agent.toml", '[machine]\nhostnam = "gateway-17"\n')
    cards[0].spoil("edge-data")
    names = set()
    for card in cards:
        console = card.path.with_suffix(".txt")
        with VirtualMachine(card, key, console, alone=True) as machine:
            prompt = wait_for(partial(_prompt, machine), "the prompt at which one logs in")
            if card is cards[0]:
                assert "machine.hostnam: unknown key; did you mean hostname?" in machine.console
                wait_for(partial(_refusal, machine), "the agent not to begin anew on the root")
        names.add(prompt[1])
    # Each is made of the machine's own id.
    assert len(names) == 2
    assert all(name.startswith("gateway-") for name in names)
    assert "did you mean hostname?" in cards[0].get("edge-agent.error.txt")
    assert "edge-agent.toml" in cards[0].names()
