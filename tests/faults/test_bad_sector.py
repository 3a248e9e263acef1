"""A sector of zeros in a document's body, which SQLite reads as any other text."""

from __future__ import annotations

import sqlite3
import urllib.error
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from agent.documents.revision import Revision, first_revision
from tests.agents import hub
from tests.cli.helpers import make_store, request

COUNT = 1500  # more than are looked at when a store is opened
BAD = 100
LATER = {"NOTIFY_SOCKET": "@nobody", "WATCHDOG_USEC": "600000000"}
"""It looks at its work every 200 s, and does not end before everything was asked."""
TIME = "2026-01-01T00:{:02}:{:02}.000000Z"


def reading(number: int) -> Revision:
    at = TIME.format(number // 60, number % 60)
    id = f"d:s:{at}:{number:010}"
    body = {"type": "reading", "device": "d", "sensor": "s", "time": at, "value": number}
    return first_revision(id, body)


ID, REV = reading(BAD).id, str(reading(BAD).rev)
WAYS: dict[str, Any] = {
    f"/db/{ID}": None,
    f"/db/_changes?include_docs=true&since={BAD - 1}&limit=3": None,
    f'/db/_all_docs?include_docs=true&start_key="{ID}"&limit=3': None,
    "/db/_find": {"selector": {"_id": ID}},
    "/db/_find?by=value": {"selector": {"value": BAD}},
    "/db/_bulk_get": {"docs": [{"id": ID, "rev": REV}]},
    "/db/_series?device=d&sensor=s": None,
    "/_replicate": {"source": "db", "target": "other"},
    "/db/_local/state": None,
}


def test_a_document_that_is_none_any_more_gets_nowhere(tmp_path: Path) -> None:
    """With it an answer would be readable for nobody, and a replication stand still for ever, or
    carry the damage on."""
    data = tmp_path / "data"
    path = make_store(data / "db.sqlite", map(reading, range(1, COUNT + 1)))
    with closing(sqlite3.connect(path)) as db:
        db.execute("INSERT INTO local VALUES ('state', 1, ?)", (f'{{"value":{BAD}}}',))
        db.commit()
    content = path.read_bytes()
    damaged = content.replace(b'"value":%d}' % BAD, b'"value":\0\0\0}')
    path.write_bytes(damaged)
    with hub(data, environment=LATER) as process:
        url = process.wait_until_ready()
        request("PUT", f"{url}/other")
        for way, body in WAYS.items():
            with pytest.raises(urllib.error.HTTPError) as refused:
                request("GET" if body is None else "POST", url + way, body)
            assert "damaged" in refused.value.read().decode(), way
        assert request("GET", f"{url}/other")["doc_count"] == 0
    with hub(data) as process:
        url = process.wait_until_ready()
        assert request("GET", f"{url}/db")["doc_count"] == COUNT - 1
        assert request("GET", f"{url}/_status")["damaged"][0]["database"] == "db"
        assert len(request("GET", f"{url}/db/_changes?include_docs=true")["results"]) == COUNT - 1
