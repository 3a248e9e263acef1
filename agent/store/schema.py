"""The schema of a store file, and the numbered migrations that lead to it.

The schema's number is `PRAGMA user_version`; a store is told from other SQLite files by
`PRAGMA application_id`. Migration n leads from schema n - 1 to schema n and never changes again
once it was released.
"""

from __future__ import annotations

import secrets
import sqlite3
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sqlite_utils import Database

APPLICATION_ID = 0x65736167  # "esag"
SCHEMA_VERSION = 5

SEQ_FLOOR = "seq_floor"
"""The key in `meta` of the newest sequence as it was at the last purge: none is ever used twice,
and the row that had it may be gone."""

PURGE_SEQ = "purge_seq"
"""The key in `meta` of the number of documents that were purged."""

RANGES_SEQ = "ranges_seq"
"""The key in `meta` of the sequence up to which changes are in the digests of ranges."""

RANGES_PURGES = "ranges_purges"
"""The key in `meta` of the `PURGE_SEQ` with which the digests of ranges were made."""

SETTING = "setting:"
"""What the keys of settings in `meta` begin with; their values are JSON texts."""

_VERSION_1 = """
CREATE TABLE docs (
    seq INTEGER PRIMARY KEY,      -- the sequence of the document's last change
    id TEXT NOT NULL UNIQUE,
    gen INTEGER NOT NULL,         -- the winning revision is gen-hash
    hash TEXT NOT NULL,
    deleted INTEGER NOT NULL,     -- the winner is a tombstone
    conflicts INTEGER NOT NULL,   -- live leaves besides the winner
    body TEXT NOT NULL,           -- the winner's JSON, without _id and the like
    tree BLOB                     -- NULL: one revision; else CBOR, see agent/documents/tree.py
);
CREATE INDEX docs_conflicts ON docs (seq) WHERE conflicts > 0;

-- Bodies of revisions that do not win: other leaves, and ancestors.
CREATE TABLE revisions (
    id TEXT NOT NULL,
    gen INTEGER NOT NULL,
    hash TEXT NOT NULL,
    deleted INTEGER NOT NULL,
    leaf INTEGER NOT NULL,
    body TEXT NOT NULL,
    UNIQUE (id, gen, hash)
);

CREATE TABLE local (id TEXT PRIMARY KEY, rev INTEGER NOT NULL, body TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;

CREATE VIEW readings AS
SELECT
    json_extract(body, '$.time') AS time,
    json_extract(body, '$.device') AS device,
    json_extract(body, '$.sensor') AS sensor,
    json_extract(body, '$.value') AS value,
    json_extract(body, '$.unit') AS unit,
    json_extract(body, '$.sequence') AS sequence,
    id
FROM docs
WHERE NOT deleted AND json_extract(body, '$.type') = 'reading';

CREATE VIEW conflicts AS
SELECT
    docs.id AS id,
    docs.gen || '-' || docs.hash AS winner,
    docs.body AS winner_body,
    revisions.gen || '-' || revisions.hash AS conflict,
    revisions.body AS conflict_body
FROM docs JOIN revisions USING (id)
WHERE docs.conflicts > 0 AND revisions.leaf AND NOT revisions.deleted;
"""


_VERSION_2 = """
-- Attachments of the row's revision: NULL, or JSON, see agent/documents/attachment.py.
ALTER TABLE docs ADD COLUMN attachments TEXT;
ALTER TABLE revisions ADD COLUMN attachments TEXT;
CREATE INDEX docs_attachments ON docs (id) WHERE attachments IS NOT NULL;
CREATE INDEX revisions_attachments ON revisions (id) WHERE attachments IS NOT NULL;

-- Contents of attachments, each stored once.
CREATE TABLE blobs (
    id INTEGER PRIMARY KEY,
    sha256 BLOB UNIQUE,           -- NULL while it is uploaded
    length INTEGER NOT NULL       -- in bytes
);
-- Chunk n of blob b is in place b * 2^24 + n; each but the last one has 256 KiB.
CREATE TABLE chunks (place INTEGER PRIMARY KEY, data BLOB NOT NULL);
"""


_VERSION_3 = """
-- Parts of documents that are not finished, which only grow: windows of fast sensors.
CREATE TABLE parts (
    place INTEGER PRIMARY KEY,
    device TEXT NOT NULL,
    document TEXT NOT NULL,       -- the id of the document that they will become
    body TEXT NOT NULL            -- its JSON, with some of its columns' values
);

DROP VIEW readings;
CREATE VIEW readings AS
WITH windows AS (
    SELECT id, body FROM docs WHERE NOT deleted AND json_extract(body, '$.type') = 'readings'
    UNION ALL
    SELECT document, body FROM parts
),
unpacked AS (
    SELECT
        windows.id AS id,
        windows.body AS body,
        column.value AS value,
        strftime('%s', substr(json_extract(windows.body, '$.time'), 1, 19)) * 1000000
            + substr(json_extract(windows.body, '$.time'), 21, 6)
            + json_extract(windows.body, '$.columns.time[' || column.key || ']') AS microseconds,
        json_extract(windows.body, '$.sequence')
            + json_extract(windows.body, '$.columns.sequence[' || column.key || ']') AS sequence
    FROM windows, json_each(windows.body, '$.columns.value') AS column
)
SELECT
    json_extract(body, '$.time') AS time,
    json_extract(body, '$.device') AS device,
    json_extract(body, '$.sensor') AS sensor,
    json_extract(body, '$.value') AS value,
    json_extract(body, '$.unit') AS unit,
    json_extract(body, '$.sequence') AS sequence,
    id,
    json_extract(body, '$.quality') AS quality
FROM docs
WHERE NOT deleted AND json_extract(body, '$.type') = 'reading'
UNION ALL
SELECT
    strftime('%Y-%m-%dT%H:%M:%S', microseconds / 1000000, 'unixepoch')
        || printf('.%06dZ', microseconds % 1000000),
    json_extract(body, '$.device'),
    json_extract(body, '$.sensor'),
    value,
    json_extract(body, '$.unit'),
    sequence % 4294967296,
    id,
    json_extract(body, '$.quality')
FROM unpacked;
"""

_VERSION_4 = """
-- Digests of ranges of documents, see agent/documents/ranges.py, as of the sequence in `meta`.
CREATE TABLE ranges (
    start TEXT PRIMARY KEY,       -- an id; the range ends where the next one begins
    count INTEGER NOT NULL,
    digest BLOB NOT NULL
) WITHOUT ROWID;
"""

_VERSION_5 = """
-- What replication sends first; empty but for few documents. Bodies have no white space. Not by
-- json_extract, which takes longer and would keep a body that is no JSON from being replaced.
CREATE INDEX docs_urgent ON docs (seq) WHERE instr(body, '"urgent":true');
"""


TABLES = {
    "docs": "seq, id, gen, hash, deleted, conflicts, body, tree, attachments",
    "revisions": "id, gen, hash, deleted, leaf, body, attachments",
    "local": "id, rev, body",
    "meta": "key, value",
    "blobs": "id, sha256, length",
    "chunks": "place, data",
    "parts": "place, device, document, body",
    "ranges": "start, count, digest",
}
"""The columns of each table, as they are after all migrations."""

_MIGRATIONS = "edge-sync-agent"


def migrated_to(connection: sqlite3.Connection) -> int:
    """The version to which a store was migrated, by the records of that: `user_version` says the
    same, unless it is damaged. Raises what SQLite raises where there are none."""
    (version,) = connection.execute(
        "SELECT max(CAST(substr(name, length('version_') + 1) AS INTEGER)) "
        "FROM _sqlite_migrations WHERE migration_set = ?",
        (_MIGRATIONS,),
    ).fetchone()
    return version or 0


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a store from its schema version to `SCHEMA_VERSION`, in one transaction."""
    # Imported here: it takes 3 MiB, and nearly every start finds the schema up to date.
    from sqlite_utils import Database
    from sqlite_utils.migrations import Migrations

    migrations = Migrations(_MIGRATIONS)

    @migrations()
    def version_1(db: Database) -> None:
        for statement in _statements(_VERSION_1):
            db.execute(statement)
        rows: list[dict[str, object]] = [
            {"key": "uuid", "value": secrets.token_hex(16)},
            # CouchDB's form: microseconds, as a string of digits.
            {"key": "instance_start_time", "value": str(time.time_ns() // 1000)},
            {"key": "doc_count", "value": 0},
            {"key": "doc_del_count", "value": 0},
        ]
        db.table("meta").insert_all(rows)
        _stamp(db, 1)

    @migrations()
    def version_2(db: Database) -> None:
        for statement in _statements(_VERSION_2):
            db.execute(statement)
        _stamp(db, 2)

    @migrations()
    def version_3(db: Database) -> None:
        for statement in _statements(_VERSION_3):
            db.execute(statement)
        _stamp(db, 3)

    @migrations()
    def version_4(db: Database) -> None:
        for statement in _statements(_VERSION_4):
            db.execute(statement)
        _stamp(db, 4)

    @migrations()
    def version_5(db: Database) -> None:
        for statement in _statements(_VERSION_5):
            db.execute(statement)
        _stamp(db, 5)

    database = Database(connection, recursive_triggers=False)
    # All or nothing: the table in which sqlite-utils keeps its records, alone, would make the file
    # look like another program's.
    with database.atomic():
        migrations.apply(database)


def _stamp(db: Database, version: int) -> None:
    db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {version}")


def _statements(script: str) -> list[str]:
    """Single statements: `executescript` would end the migration's transaction."""
    statements: list[str] = []
    rest = ""
    for line in script.splitlines(keepends=True):
        rest += line
        if sqlite3.complete_statement(rest):
            statements.append(rest)
            rest = ""
    return statements
