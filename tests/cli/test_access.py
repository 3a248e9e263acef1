"""Real processes with users: a hub, a gateway, and the commands that talk to them."""

from __future__ import annotations

import asyncio
import json
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from agent.store.store import Store
from tests.patience import PATIENCE
from tests.server.accounts import auth, quick_hash
from tests.server.certificates import self_signed

AGENT = [sys.executable, "-m", "agent"]
USERS = f"""
[[user]]
name = "anna"
password_hash = "{quick_hash("anna's")}"
roles = ["_admin"]

[[user]]
name = "gateway"
password_hash = "{quick_hash("gateway's")}"
"""


async def run(*arguments: Any) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        *AGENT,
        *(str(argument) for argument in arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@asynccontextmanager
async def started(*arguments: Any) -> AsyncIterator[str]:
    """A process that listens; its URL."""
    process = await asyncio.create_subprocess_exec(
        *AGENT,
        *(str(argument) for argument in arguments),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), PATIENCE)).decode()
        assert line.startswith("listening on "), line
        yield line.split()[2]
    finally:
        process.terminate()
        await process.wait()


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


async def fetch(method: str, url: str, **options: Any) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, **options) as answer,
    ):
        return answer.status, await answer.json()


def basic(name: str) -> dict[str, Any]:
    return auth(name, f"{name}'s")


async def test_a_hub_without_users_listens_on_loopback_only(tmp_path: Path) -> None:
    code, _, err = await run("hub", "--data", tmp_path, "--listen", "0.0.0.0:0")
    assert code == 1
    assert "loopback only until a user is configured" in err
    assert "edge-agent user add" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (USERS.replace("_admin", "admin"), "nobody has the role _admin"),
        (USERS.replace("ln=1,", "ln=0,"), "password_hash cannot be used"),
        ('[server]\ntls_certificate = "no.pem"\ntls_key = "no.key"\n', "no.pem cannot be read"),
        ("[agent]\ndata = 'x'\n", "agent: unknown key"),
    ],
)
async def test_a_hub_says_what_is_wrong_with_its_file(tmp_path: Path, text: str, part: str) -> None:
    path = written(tmp_path / "hub.toml", text)
    code, _, err = await run("hub", "--data", tmp_path, "--config", path)
    assert (code, err.count("\n")) == (1, 1)
    assert part in err


async def test_a_hub_with_users_and_tls_listens_everywhere(tmp_path: Path) -> None:
    certificate, _ = await asyncio.to_thread(self_signed, tmp_path)
    server = '[server]\nlisten = "0.0.0.0:0"\ntls_certificate = "server.pem"\n'
    path = written(tmp_path / "hub.toml", server + 'tls_key = "server.key"\n' + USERS)
    async with started("hub", "--data", tmp_path / "data", "--config", path) as url:
        assert url.startswith("https://0.0.0.0:")
        url = url.replace("0.0.0.0", "127.0.0.1")
        tls = {"ssl": await asyncio.to_thread(ssl.create_default_context, cafile=certificate)}
        assert (await fetch("PUT", f"{url}/db", **tls))[0] == 401
        assert (await fetch("PUT", f"{url}/db", **tls, **basic("gateway")))[0] == 401
        assert (await fetch("PUT", f"{url}/db", **tls, **basic("anna")))[0] == 201
        assert (await fetch("GET", f"{url}/db", **tls, **basic("gateway")))[0] == 403


async def test_commands_trust_an_authority_that_they_are_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate, _ = await asyncio.to_thread(self_signed, tmp_path)
    other, _ = await asyncio.to_thread(self_signed, tmp_path, "other")
    server = '[server]\nlisten = "127.0.0.1:0"\ntls_certificate = "server.pem"\n'
    path = written(tmp_path / "hub.toml", server + 'tls_key = "server.key"\n' + USERS)
    password = written(tmp_path / "password", "anna's\n")
    async with started("hub", "--data", tmp_path / "data", "--config", path) as url:
        named, store = url.replace("//", "//anna@"), tmp_path / "a.sqlite"
        of_target = ("--target-password-file", password)
        commands = [
            ("status", "--url", named, "--password-file", password, "--json"),
            ("replicate", store, f"{named}/db", "--create-target", *of_target),
            ("verify", store, f"{named}/db", *of_target),
        ]
        await (await Store.open(store)).close()
        for command in commands:
            for trusted in ((), ("--ca-file", other)):
                code, _, err = await run(*command, *trusted)
                assert (code, "the certificate does not verify" in err) == (1, True), command
                assert "--ca-file" in err
            code, _, err = await run(*command, "--ca-file", certificate)
            assert (code, err) == (0, ""), command
            code, _, err = await run(*command, "--ca-file", password)
            assert (code, "ca_file" in err, "PEM" in err) == (1, True, True)
            with monkeypatch.context() as changed:
                changed.setenv("SSL_CERT_FILE", str(certificate))  # those of the system
                code, _, err = await run(*command)
            assert (code, err) == (0, ""), command


@pytest.mark.parametrize("encrypted", [False, True])
async def test_the_status_of_an_agent_with_users(
    tmp_path: Path, encrypted: bool, free_port: int
) -> None:
    text = f'[agent]\ndata = "data"\n[server]\nlisten = "127.0.0.1:{free_port}"\n'
    if encrypted:
        await asyncio.to_thread(self_signed, tmp_path)
        text += 'tls_certificate = "server.pem"\ntls_key = "server.key"\n'
    path = written(tmp_path / "gateway.toml", text + USERS)
    password = written(tmp_path / "password", "anna's\n")
    code, out, _ = await run("config", "check", "--config", path)
    assert (code, "ok" in out) == (0, True)
    async with started("run", "--config", path) as url:
        # Who may read the agent's files needs no password.
        code, out, err = await run("status", "--config", path, "--json")
        assert (code, err) == (0, "")
        assert json.loads(out)["database"]["name"] == "edge"
        if encrypted:
            await asyncio.to_thread(self_signed, tmp_path)  # another certificate is not trusted
            code, _, err = await run("status", "--config", path)
            assert code == 1
            assert "Traceback" not in err
            return
        code, _, err = await run("status", "--url", url)
        assert (code, "--password-file" in err) == (1, True)
        named = url.replace("//", "//anna@")
        code, out, _ = await run("status", "--url", named, "--password-file", password, "--json")
        assert (code, json.loads(out)["name"] != "") == (0, True)
        (tmp_path / "data" / "session.secret").write_bytes(b"x" * 32)
        code, _, err = await run("status", "--config", path)
        assert (code, "administrators" in err) == (1, True)
