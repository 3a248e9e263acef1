"""A short run over every parser of bytes that others send; the same inputs each time."""

from __future__ import annotations

import msgspec
import pytest

from tests.fuzz.parsers import CORPUS, FoundError, Target, fuzz, remote, targets

COUNT = 150
"""Inputs for each parser."""


async def _never(_: bytes) -> None:
    raise AssertionError


@pytest.mark.parametrize("name", [name for name in targets(_never) if name != "remote-answer"])
async def test_a_parser(name: str) -> None:
    await fuzz(name, targets(_never)[name], count=COUNT, seed=1)


@pytest.mark.parametrize("name", sorted(targets(_never).keys() - {"remote-answer"}))
async def test_what_is_kept_is_right(name: str) -> None:
    """Or else all that is made of it would be refused at once."""
    target = targets(_never)[name]
    for path in (CORPUS / (target.corpus or name)).iterdir():
        if not target.corpus or path.name.startswith("mqtt") == (name == "mqtt-url"):
            target.parse(path.read_bytes())


async def test_what_a_remote_answers() -> None:
    async with remote() as ask:
        await fuzz("remote-answer", targets(ask)["remote-answer"], count=COUNT, seed=1)


def test_the_corpus_is_small_and_all_of_it_is_used() -> None:
    used = {target.corpus or name for name, target in targets(_never).items()}
    assert {folder.name for folder in CORPUS.iterdir()} == used
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 100_000


async def test_another_error_is_found() -> None:
    """What would be the mistake in a parser."""
    bad = Target(msgspec.json.decode, (KeyError,), "document")
    with pytest.raises(FoundError, match="DecodeError"):
        await fuzz("bad", bad, count=COUNT, seed=1)


async def test_much_memory_is_found() -> None:
    bad = Target(lambda data: [bytes(2**20) for _ in range(len(data))], (), "document")
    with pytest.raises(FoundError, match="takes"):
        await fuzz("bad", bad, count=COUNT, seed=1)
