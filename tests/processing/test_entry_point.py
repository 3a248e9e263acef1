"""A hook and Python functions of a package that is really installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from agent.config_hooks import HookConfig
from agent.errors import ConfigError
from agent.parts import hook_for
from agent.processing.entry_point import ENTRY_POINT_GROUP
from agent.store.databases import Databases
from tests.patience import until
from tests.processing.hooks import documents, hooked, opened, write

MODULE = """
import asyncio, threading
from agent.errors import RefusedChangeError, TransientError

seen = []
gate = threading.Event()

def keep(change):
    seen.append((change, threading.current_thread().name))

async def keep_async(change):
    await asyncio.sleep(0)
    seen.append((change, threading.current_thread().name))

def many(changes):
    seen.append([change["id"] for change in changes])

def picky(change):
    seen.append(change["id"])
    match change["doc"]["what"]:
        case "value": raise ValueError("no good\\nat all")
        case "stop": raise StopIteration
        case "exit": raise SystemExit(3)
        case "interrupt": raise KeyboardInterrupt
        case "refuse": raise RefusedChangeError("I will not have this")

async def picky_async(change):
    picky(change)

tries = 0

def later(change):
    global tries
    tries += 1
    if tries < 4:
        raise TransientError("not yet")

def hangs(change):
    seen.append(change["id"])
    gate.wait()

async def hangs_async(change):
    seen.append(change["id"])
    await asyncio.Event().wait()

constant = 3
"""
NAMES = (
    *("keep", "keep_async", "many", "picky", "picky_async", "later", "hangs", "hangs_async"),
    *("constant", "absent"),
)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The module whose functions are published under their names."""
    package = tmp_path / "site" / "published-1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: published\nVersion: 1\n")
    points = "".join(f"{name} = published_hooks:{name}\n" for name in NAMES)
    points += "broken = broken_hooks:any\n"
    (package / "entry_points.txt").write_text(f"[{ENTRY_POINT_GROUP}]\n{points}")
    (tmp_path / "site" / "published_hooks.py").write_text(MODULE)
    broken = "raise ValueError('not on\\ntwo lines')\n"
    (tmp_path / "site" / "broken_hooks.py").write_text(broken)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    import published_hooks  # type: ignore[import-not-found]

    yield published_hooks
    published_hooks.gate.set()
    del sys.modules["published_hooks"]


@pytest.mark.parametrize("name", ["keep", "keep_async"])
async def test_it_gets_the_change(name: str, published: Any, tmp_path: Path) -> None:
    async with opened(tmp_path / "data") as (databases, store):
        rev = await write(store, "a", value=1)
        async with hooked(databases, entry_point=name) as hook:
            await until(lambda: hook.processed == 1)
    [(change, thread)] = published.seen
    assert change == {
        "hook": "test",
        "database": "edge",
        "key": f"test:1-{store.incarnation}",
        "seq": f"1-{store.incarnation}",
        "id": "a",
        "rev": str(rev),
        "deleted": False,
        "doc": {"_id": "a", "_rev": str(rev), "value": 1},
    }
    assert (thread == "MainThread") == (name == "keep_async")


async def test_one_call_after_the_other(published: Any, tmp_path: Path) -> None:
    async with opened(tmp_path / "data") as (databases, store):
        await store.graft(documents(500))
        async with hooked(databases, entry_point="keep") as hook:
            await until(lambda: hook.processed == 500)
            assert hook.failures == 0
    assert [change["id"] for change, _ in published.seen] == [f"doc:{n}" for n in range(500)]


async def test_a_batch_is_a_list(published: Any, tmp_path: Path) -> None:
    async with opened(tmp_path / "data") as (databases, store):
        await store.graft(documents(3))
        async with hooked(databases, entry_point="many", batch=2) as hook:
            await until(lambda: hook.processed == 3)
    assert published.seen == [["doc:0", "doc:1"], ["doc:2"]]


@pytest.mark.parametrize("name", ["picky", "picky_async"])
@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("value", "raised ValueError: no good at all"),
        ("stop", "raised "),
        ("exit", "raised SystemExit: 3"),
    ],
)
async def test_what_it_raises_is_a_failed_attempt(
    name: str, what: str, error: str, published: Any, tmp_path: Path
) -> None:
    async with opened(tmp_path / "data") as (databases, store):
        await write(store, "bad", what=what)
        await write(store, "next", what="nothing")
        async with hooked(databases, entry_point=name, attempts=2) as hook:
            await until(lambda: hook.processed == 1)
            [letter] = hook.dead()
    assert published.seen == ["bad", "bad", "next"]
    assert letter["attempts"] == 2
    assert letter["error"].startswith(f"{name} {error}")


@pytest.mark.parametrize("what", ["interrupt", "refuse"])
async def test_what_else_it_may_raise(what: str, published: Any, tmp_path: Path) -> None:
    async with opened(tmp_path / "data") as (databases, store):
        await write(store, "bad", what=what)
        async with hooked(databases, entry_point="picky", attempts=2) as hook:
            await until(lambda: len(hook.letters) == 1)
    assert len(published.seen) == (2 if what == "interrupt" else 1)


async def test_it_may_ask_to_be_tried_later(published: Any, tmp_path: Path) -> None:
    async with opened(tmp_path / "data") as (databases, store):
        await write(store, "a")
        async with hooked(databases, entry_point="later", attempts=1) as hook:
            await until(lambda: hook.processed == 1)
            assert (hook.failures, hook.dead()) == (3, [])


async def test_a_thread_that_hangs_is_not_called_again(published: Any, tmp_path: Path) -> None:
    async with opened(tmp_path / "data") as (databases, store):
        await store.graft(documents(2))
        async with hooked(databases, entry_point="hangs", timeout=3, attempts=1) as hook:
            await until(lambda: "still runs" in (hook.last_error or ""))
            assert [letter["id"] for letter in hook.dead()] == ["doc:0"]
            assert published.seen == ["doc:0"]
            published.gate.set()
            await until(lambda: hook.processed == 1)
            assert published.seen == ["doc:0", "doc:1"]


async def test_a_coroutine_that_hangs_is_cancelled(published: Any, tmp_path: Path) -> None:
    async with opened(tmp_path / "data") as (databases, store):
        await store.graft(documents(2))
        async with hooked(databases, entry_point="hangs_async", timeout=0.5, attempts=1) as hook:
            await until(lambda: len(hook.letters) == 2)
            assert "was not done within 0.5 s" in hook.dead()[0]["error"]
    assert published.seen == ["doc:0", "doc:1"]


@pytest.mark.usefixtures("published")
@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "nobody",
            "publishes 'nobody' in the group edge_sync_agent.hooks; known are: absent, broken",
        ),
        ("absent", "cannot be loaded: AttributeError: "),
        ("broken", "cannot be loaded: ValueError: not on two lines$"),
        ("constant", "is not a function"),
    ],
)
def test_one_that_cannot_be_used(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"hook 'x': entry_point.*{words}"):
        hook_for(HookConfig(name="x", entry_point=name), Databases(tmp_path), "edge")
