"""A hook and real commands: what they are given, what their ends mean, and what is left of them."""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.config_hooks import HookConfig
from agent.errors import ConfigError
from agent.parts import hook_for
from agent.processing.change import Change
from agent.processing.command import Command
from agent.processing.hook import State
from agent.store.databases import Databases
from tests.patience import PATIENCE, until
from tests.processing.hooks import documents, hooked, opened, write


def script(folder: Path, text: str) -> list[str]:
    """A shell script as a hook's command."""
    folder.mkdir(exist_ok=True)
    file = folder / "script"
    file.write_text(f"#!/bin/sh\ncd {folder}\n{text}\n")
    file.chmod(0o755)
    return [str(file)]


def lines(file: Path) -> list[Any]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


async def test_it_gets_the_document(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUD_PASSWORD", "hunter2")
    command = script(tmp_path / "bin", "cat >> seen; env > environment")
    async with opened(tmp_path / "data") as (databases, store):
        rev = await write(store, "a", text="$(touch /tmp/no) ' \u00e9")
        async with hooked(databases, command=command) as hook:
            await until(lambda: hook.processed == 1)
    assert lines(tmp_path / "bin" / "seen") == [
        {"_id": "a", "_rev": str(rev), "text": "$(touch /tmp/no) ' \u00e9"}
    ]
    environment = dict(
        line.split("=", 1)
        for line in (tmp_path / "bin" / "environment").read_text().splitlines()
        if "=" in line
    )
    assert environment["EDGE_AGENT_HOOK"] == "test"
    assert environment["EDGE_AGENT_DATABASE"] == "edge"
    assert environment["EDGE_AGENT_KEY"] == f"test:1-{store.incarnation}"
    assert environment["PATH"] == os.environ["PATH"]
    assert "CLOUD_PASSWORD" not in environment


async def test_a_batch_is_a_document_a_line(tmp_path: Path) -> None:
    command = script(tmp_path / "bin", "wc -l >> counts; echo done")
    async with opened(tmp_path / "data") as (databases, store):
        await store.graft(documents(25, text="two\nlines"))
        async with hooked(databases, command=command, batch=10) as hook:
            await until(lambda: hook.processed == 25)
    assert lines(tmp_path / "bin" / "counts") == [10, 10, 5]


async def test_one_that_fails_is_tried_some_times_and_given_up(tmp_path: Path) -> None:
    text = (
        'read doc; echo "$doc" >> seen; echo "no good: $EDGE_AGENT_KEY"; grep -q good <<E\n$doc\nE'
    )
    command = script(tmp_path / "bin", text)
    async with opened(tmp_path / "data") as (databases, store):
        await write(store, "bad")
        await write(store, "next", good=True)
        async with hooked(databases, command=command, attempts=3) as hook:
            await until(lambda: hook.processed == 1)
            [letter] = hook.dead()
    seen = [doc["_id"] for doc in lines(tmp_path / "bin" / "seen")]
    assert seen == ["bad", "bad", "bad", "next"]
    assert (letter["id"], letter["attempts"]) == ("bad", 3)
    assert letter["error"].endswith(f"ended with status 1: no good: test:1-{store.incarnation}")


async def test_75_is_tried_again_for_ever(tmp_path: Path) -> None:
    command = script(tmp_path / "bin", "echo 1 >> tries; test -e ready || { echo busy; exit 75; }")
    async with opened(tmp_path / "data") as (databases, store):
        await write(store, "a")
        async with hooked(databases, command=command, attempts=1) as hook:
            await until(lambda: hook.failures >= 4)
            assert "asks to be tried again later: busy" in (hook.last_error or "")
            assert hook.dead() == []
            (tmp_path / "bin" / "ready").touch()
            await until(lambda: hook.processed == 1)


async def test_one_that_hangs_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    command = script(tmp_path / "bin", "sleep 1000 & echo $! > child; echo $$ > parent; sleep 1000")
    async with opened(tmp_path / "data") as (databases, store):
        await write(store, "a")
        async with hooked(databases, command=command, attempts=1, timeout=8) as hook:
            await until(lambda: len(hook.letters) == 1)
            assert "did not end within 8 s and was killed" in hook.dead()[0]["error"]
    for name in ("child", "parent"):
        [pid] = lines(tmp_path / "bin" / name)
        await until(lambda pid=pid: not is_running(pid))


async def test_one_that_is_under_way_ends_with_the_agent(tmp_path: Path) -> None:
    command = script(tmp_path / "bin", "echo $$ > parent; sleep 1000")
    async with opened(tmp_path / "data") as (databases, store):
        await write(store, "a")
        async with hooked(databases, command=command):
            await until(lambda: lines(tmp_path / "bin" / "parent"))
    [pid] = lines(tmp_path / "bin" / "parent")
    assert not is_running(pid)


async def test_one_that_is_being_started_ends_with_the_agent(tmp_path: Path) -> None:
    path = script(tmp_path / "bin", "sleep 1000")
    command = await asyncio.to_thread(Command, path, timeout=100)
    change = Change("test", "edge", "key", "1", "a", "1-x", False, msgspec.Raw(b"{}"))
    for _ in range(20):
        call = asyncio.ensure_future(command.call([change]))
        await asyncio.sleep(0)  # it has begun, and no more
        call.cancel()
        done, _ = await asyncio.wait({call}, timeout=PATIENCE)
        assert done


async def test_what_it_leaves_running_does_not_hold_the_hook(tmp_path: Path) -> None:
    """Not even in a session of its own, with the output still open."""
    text = "setsid sleep 1000 & echo $! >> left; echo said"
    command = script(tmp_path / "bin", text)
    async with opened(tmp_path / "data") as (databases, store):
        await store.graft(documents(2))
        async with hooked(databases, command=command) as hook:
            await until(lambda: hook.processed == 2)
    for pid in lines(tmp_path / "bin" / "left"):
        if is_running(pid):
            os.kill(pid, 9)
        await until(lambda pid=pid: not is_running(pid))


async def test_what_it_says_is_bounded_and_one_that_does_not_read_is_fine(tmp_path: Path) -> None:
    command = script(tmp_path / "bin", "yes 0123456789 | head -c 30000000; exit 3")
    async with opened(tmp_path / "data") as (databases, store):
        await write(store, "large", text="x" * 500_000)
        async with hooked(databases, command=command, attempts=1) as hook:
            await until(lambda: len(hook.letters) == 1)
            assert len(hook.dead()[0]["error"]) < 250 + len(command[0])


async def test_one_that_is_gone_holds_the_hook(tmp_path: Path) -> None:
    command = script(tmp_path / "bin", "exit 0")
    async with (
        opened(tmp_path / "data") as (databases, store),
        hooked(databases, command=command) as hook,
    ):
        (tmp_path / "bin" / "script").unlink()
        await write(store, "a")
        await until(lambda: hook.state is State.FAILED)
        assert "cannot be run (No such file or directory)" in (hook.last_error or "")
        assert hook.dead() == []
        await asyncio.to_thread(script, tmp_path / "bin", "exit 0")
        await until(lambda: hook.processed == 1)


def test_one_that_is_not_installed(tmp_path: Path) -> None:
    config = HookConfig(name="x", command=["no-such-program"])
    with pytest.raises(ConfigError, match="hook 'x': command: there is no program no-such"):
        hook_for(config, Databases(tmp_path), "edge")


def is_running(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"
