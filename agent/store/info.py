"""What a database says of itself, and its settings: queries.

Blocking, as all queries are; see `agent.store.reader`.
"""

from __future__ import annotations

import sqlite3
from typing import Any

import msgspec

from agent.store.schema import PURGE_SEQ, SEQ_FLOOR, SETTING

_INFO = (
    "SELECT key, value FROM meta WHERE key IN "
    "('uuid', 'instance_start_time', 'doc_count', 'doc_del_count', ?, ?)"
)


class StoreInfo(msgspec.Struct, frozen=True):
    """Sizes in bytes: `file_size` without the WAL, `active_size` without unused pages too."""

    uuid: str
    instance_start_time: str
    update_seq: int
    doc_count: int
    doc_del_count: int
    conflict_count: int
    file_size: int
    active_size: int
    purge_seq: int


def read_info(db: sqlite3.Connection) -> StoreInfo:
    meta = dict(db.execute(_INFO, (SEQ_FLOOR, PURGE_SEQ)))
    newest, conflicts, size, unused = db.execute(
        "SELECT (SELECT coalesce(max(seq), 0) FROM docs), "
        "(SELECT count(*) FROM docs WHERE conflicts > 0), "
        "page_count * page_size, freelist_count * page_size "
        "FROM pragma_page_count, pragma_page_size, pragma_freelist_count"
    ).fetchone()
    return StoreInfo(
        uuid=meta["uuid"],
        instance_start_time=meta["instance_start_time"],
        update_seq=max(newest, meta.get(SEQ_FLOOR, 0)),
        doc_count=meta["doc_count"],
        doc_del_count=meta["doc_del_count"],
        conflict_count=conflicts,
        file_size=size,
        active_size=size - unused,
        purge_seq=meta.get(PURGE_SEQ, 0),
    )


def read_settings(db: sqlite3.Connection) -> dict[str, Any]:
    """The settings of the database (JSON values) by name."""
    rows = db.execute("SELECT key, value FROM meta WHERE key GLOB ?", (SETTING + "*",))
    return {key.removeprefix(SETTING): msgspec.json.decode(value) for key, value in rows}
