"""Sequences as strings: made of a number, and read again by the store that has counted it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from agent.store.sequences import number_of, text_of
from agent.store.store import Store
from tests.store.helpers import put


async def test_a_store_takes_its_own_sequences_back(path: Path) -> None:
    store = await Store.open(path)
    await put(store, "a")
    await put(store, "b")
    texts = [text_of(store, number) for number in (0, 1, 2)]
    assert [number_of(store, text) for text in texts] == [0, 1, 2]
    await store.close()
    store = await Store.open(path)
    assert [number_of(store, text) for text in texts] == [0, 1, 2]
    await store.close()


async def test_a_copy_of_the_file_goes_on_as_far_as_it_has_counted(path: Path) -> None:
    store = await Store.open(path)
    await put(store, "a")
    await store.close()
    copy = path.with_name("copy.sqlite")
    shutil.copy(path, copy)
    store, old = await Store.open(path), await Store.open(copy)
    before = text_of(store, store.update_seq)
    await put(store, "b")
    assert number_of(old, before) == 1
    assert number_of(old, text_of(store, store.update_seq)) == 0
    await store.close()
    await old.close()


async def test_sequences_of_others_begin_at_the_beginning(store: Store, tmp_path: Path) -> None:
    await put(store, "a")
    other = await Store.open(tmp_path / "other.sqlite")
    await put(other, "a")
    assert number_of(store, text_of(other, 1)) == 0
    assert number_of(store, "1-g1AAAABXeJzLYWBgYMpgTmEQTM4vTc5ISXLIyU9OzMnILy7J") == 0
    await other.close()


@pytest.mark.parametrize("text", ["1", '"1"', '"1', "01"])
async def test_a_number_is_a_sequence(store: Store, text: str) -> None:
    await put(store, "a")
    assert number_of(store, text) == 1
    assert number_of(store, "2") == 0


@pytest.mark.parametrize(
    "text", ["", '""', "now", "1-", "1-xyz", "-1", "1-0123ABCD", "\ud800", "٣"]
)
async def test_what_is_no_sequence(store: Store, text: str) -> None:
    with pytest.raises(ValueError, match="no sequence"):
        number_of(store, text)
