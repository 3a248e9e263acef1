"""The other files: the configuration and its users, secrets, and the copy that an update makes."""

from __future__ import annotations

import asyncio
import re
import subprocess
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from agent.cli.main import main
from agent.config_file import load
from agent.sensors import ports
from agent.server.sessions import server_secret
from tests.agents import CHECKOUT
from tests.faults.power.record import Marks
from tests.faults.power.stores import Told

_USERS = ("anna", "otto")
_SECRET = "hunter2"
_GOING_BACK = Path("backups", "going-back")
_KEPT = {"edge.sqlite": b"a" * 150_000, "edge.sqlite-wal": b"b" * 20_000}


def _config(folder: Path) -> Path:
    return folder / "etc" / "edge" / "gateway.toml"


def _edge_agent(*arguments: object, answers: str) -> None:
    done = CliRunner().invoke(main, [str(each) for each in arguments], input=answers)
    assert done.exit_code == 0, done.output


def _configure(folder: Path, marks: Marks) -> None:
    ports.list_ports.comports = list  # no port of this machine is opened
    config = _config(folder)
    answers = ["gateway-7", "data", "127.0.0.1:0", "none", "http://127.0.0.1:9/edge"]
    answers += ["anna", _SECRET]
    _edge_agent("init", "--config", config, answers="".join(f"{each}\n" for each in answers))
    marks.add("written")
    for name in _USERS:
        arguments = ("user", "add", name, "--role", "_admin", "--config", config)
        _edge_agent(*arguments, "--password-file", "-", answers="secret\n")
        marks.add("user", name)
    marks.add("secret", server_secret(folder / "var" / "data").hex())


async def configure(folder: Path, marks: Marks) -> None:
    """`edge-agent init`, then some users, then the first start with them."""
    await asyncio.to_thread(_configure, folder, marks)


async def check_configured(folder: Path, marks: list[Any]) -> None:
    """Each file is as it was before a command or as it was after it, never in between."""
    told = Told(marks)
    config = _config(folder)
    if config.exists() or told.of("written"):
        read = await asyncio.to_thread(load, config)
        assert await asyncio.to_thread(read.remote[0].secret) == _SECRET
        names = [user.name for user in read.user]
        assert names == list(_USERS[: len(names)])
        assert len(names) >= len(told.of("user"))
    secret = await asyncio.to_thread(server_secret, folder / "var" / "data")
    assert told.last("secret") in (None, secret.hex())


# --- scripts/install -------------------------------------------------------------------


async def installed(folder: Path) -> None:
    for name in ("data", "backups"):
        (folder / name).mkdir()
    for name, content in _KEPT.items():
        (folder / "data" / name).write_bytes(content)


async def update(folder: Path, marks: Marks) -> None:
    """The copy before an update; the new version writes, is no good, and the copy comes back."""
    backups, copy = folder / "backups", folder / "backups" / "1.0-20260101T000000Z"
    script = (CHECKOUT / "scripts" / "install").read_text()
    functions = [
        re.search(rf"^{name}\(\) {{\n.*?^}}\n", script, re.DOTALL | re.MULTILINE)
        for name in ("back_up", "exchange_data", "roll_back", "version_before")
    ]
    begin = f"""\
set -euo pipefail
data={folder / "data"}
backups={backups}
installed={backups}/installed.deb
next={backups}/next.deb
under_way={backups}/under-way
going_back={folder / _GOING_BACK}
kept_backups=2
back_within=1
say() {{ :; }}
fail() {{ :; }}
journalctl() {{ :; }}
systemctl() {{ :; }}
put_in_place() {{ :; }}
becomes_healthy() {{ :; }}
{"".join(found.group() for found in functions if found)}
"""
    noted = f"ln -s {copy} {backups}/under-way\nsync -f {backups}"  # as in `update`
    await asyncio.to_thread(_bash, f"{begin}back_up {copy}\n{noted}")
    marks.add("copied")
    (folder / "data" / "edge.sqlite").write_bytes(b"of the new version")
    await asyncio.to_thread(_bash, begin + f"roll_back {copy}")
    marks.add("back")


def _bash(script: str) -> None:
    subprocess.run(["bash", "-c", script], check=True)


async def check_updated(folder: Path, marks: list[Any]) -> None:
    """Once it is said to be made the copy is there, whole; data that are back are whole, too."""
    told = Told(marks)
    copies = [_contents(each) for each in (folder / "backups").glob("1.0-*")]
    assert copies in ([], [_KEPT])
    assert copies or not told.of("copied")
    found = _contents(folder / "data") if (folder / "data").exists() else {}
    if told.of("back"):
        assert found == _KEPT
    elif not found:
        assert (folder / _GOING_BACK).exists(), "a start would begin with nothing"
    else:
        assert found["edge.sqlite-wal"] == _KEPT["edge.sqlite-wal"], "half of the data are back"
        if not told.of("copied"):
            assert found == _KEPT


def _contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}
