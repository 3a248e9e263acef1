"""The hub that is fuzzed: what is in its databases, how it is asked, and what it must not do."""

from __future__ import annotations

import base64
import gzip
import json
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

from agent.store.selector_sql import register_functions
from tests.agents import AgentProcess

PATIENCE = 45.0
"""Seconds within which an answer must begin, and, unless it is a feed, end. A busy machine may take
long; what waits by mistake waits for a minute at least."""

_GLANCE = 0.05
"""Seconds for which a feed that may have no end is read."""

_MOST_GROWTH = 96
"""MiB of resident memory that the hub may take while it is fuzzed."""

# What CouchDB, too, answers with such a status: JavaScript, an index service that is not
# configured, and bad options of `GET /{db}/_index`.
_MEANT = {
    (501, "not_implemented"),
    (503, "required index service unavailable"),
    (500, "invalid_list_index_params"),
}

_TELLING = {"Content-Type", "Destination", "If-Match", "If-None-Match", "Range", "Accept"}
"""Headers that a message about a request shows."""

DATABASES = ["fuzz", "fuzz/other"]
_JSON = ['"plain"', '"z"', "null", "[]", "{}", "17", '"\\ufff0"', "{", '"\\ud800"', "1e999"]
_REVS = ["1-a", "2-b", "2-c", "3-d", "9-z"]
_FIELDS = ["_id", "_rev", "n", "s", "list", "list.0", "object.x", "_attachments"]
IN_PATHS: Mapping[str, list[str | None]] = {
    "db": [*DATABASES * 4, "missing", "_replicator", None],
    "docid": ["plain", "conflicted", *["attached"] * 3, "deleted", "\u00e9 /\u00f6", "x", None],
    "ddoc": ["find", "_design/find", "script", "script", "missing", None],
    "localid": ["checkpoint", "missing", None],
    "attname": [*["text.txt", "folder/packed.gz"] * 2, "missing", None],
    "name": ["by-n", "by-n", "missing", None],
    "index": ["by-n", "by-n", "missing", None],
    "jobid": [None],
    "hook": ["missing", None],
}
"""Values for the parameters of paths; None stands for whatever the fuzzer comes up with."""

KNOWN: Mapping[str, list[Any]] = {
    "rev": _REVS,
    "open_revs": ["all", '["2-b","2-c","9-z"]', "[]", '["x"]', "[1]", "{}"],
    "atts_since": ['["1-a"]', "[]", "[1]", "{}"],
    "doc_ids": ['["plain","missing"]', "[]", "[1]", "{}"],
    "since": [0, 1, "now", '"1"', "1-x", 10**30],
    "last-event-id": [0, 1, "now", "x"],
    "timeout": [0, 1],
    "heartbeat": [1, 1000, 60_000],
    "states": ["running", "failed,completed", "x", ","],
    "next": ["/", "//elsewhere.example", "/\r\nX: y", "/\u00e9"],
    "fail": ["/", "x"],
    "Destination": ["copied", "conflicted?rev=2-b", "%ff", "_design/copied", "_local/x", "a?b=c"],
    "If-Match": ['"2-b"', "1-a", "x"],
    "If-None-Match": ['"2-b"', "*", "x"],
    "Range": ["bytes=0-3", "bytes=-5", "bytes=9-1", "bytes=0-1,3-4", "bytes=99999999999-"],
    **dict.fromkeys(("key", "start_key", "end_key"), _JSON),
    "keys": ['["plain","missing",1]', *_JSON],
    "Id": ["plain", "conflicted", "attached", "deleted", "_design/find", "_local/checkpoint"],
    "Rev": _REVS,
    "Endpoint": [*DATABASES, "missing"],
    "fields": _FIELDS,
    "sort": [*_FIELDS, {"n": "desc"}, {"s": "desc"}],
}
"""Values for `description.for_fuzzing`; like `IN_PATHS`, what `Target.prepare` takes care of."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request. `url` is path and query, encoded."""

    method: str
    url: str
    headers: Mapping[str, str]
    body: bytes | None

    def __str__(self) -> str:
        headers = {name: self.headers[name] for name in self.headers if name in _TELLING}
        return f"{self.method} {self.url} {headers} {self.body!r}"

    @property
    def endless(self) -> bool:
        """Whether the answer may go on for ever."""
        parts = urlsplit(self.url)
        return parts.path.endswith("/_changes") and parse_qs(parts.query).get("feed") != ["normal"]


class Target:
    """A running hub."""

    def __init__(self, process: AgentProcess, url: str, data: Path) -> None:
        self.url = url
        self._process = process
        self._data = data
        self._address = urlsplit(url).netloc
        self._log_seen = 0
        self.prepare()
        self._at_start = _resident(process.pid)

    def prepare(self) -> None:
        """Make sure that the databases have something of everything."""
        for name in DATABASES:
            path = f"/{quote(name, safe='')}"
            self._json("PUT", path)
            self._json("PUT", f"{path}/_security", {})
            self._json("PUT", f"{path}/_revs_limit", 1000)
            self._json("POST", f"{path}/_bulk_docs", {"new_edits": False, "docs": _documents()})
            self._json("PUT", f"{path}/_local/checkpoint", {"history": [1]})
            index = {"index": {"fields": ["n"]}, "name": "by-n", "ddoc": "find"}
            self._json("POST", f"{path}/_index", index)

    def ask(self, asked: Asked) -> None:
        """Send a request. Raises AssertionError unless the answer is one that may be given."""
        status, headers, body = self._send(asked)
        if status < 400:
            return
        self._check_log()
        if asked.method == "HEAD":
            assert status < 500 or status in {meant for meant, _ in _MEANT}, status
            return
        assert headers.get("Content-Type") == "application/json", headers
        answer = json.loads(body)
        assert set(answer) == {"error", "reason"}, answer
        assert all(isinstance(word, str) and word for word in answer.values()), answer
        assert status < 500 or (status, answer["error"]) in _MEANT, (status, answer)

    @property
    def growth(self) -> float:
        """MiB of resident memory that the hub has taken since the start."""
        return (_resident(self._process.pid) - self._at_start) / 2**20

    def check(self) -> None:
        """Raises AssertionError unless the hub is well."""
        assert self._process.running
        self._check_log()
        assert self.growth < _MOST_GROWTH, f"{self.growth:.0f} MiB more than at the start"

    def check_to_the_end(self) -> None:
        """The same, and that the databases can be read; then stop it, and look at the files."""
        self.check()
        for name in self._json("GET", "/_all_dbs"):
            path = f"/{quote(name, safe='')}"
            listed = self._json("GET", f"{path}/_all_docs?include_docs=true&attachments=true")
            facts = self._json("GET", path)
            assert len(listed["rows"]) == facts["doc_count"]
            changed = self._json("GET", f"{path}/_changes?style=all_docs&include_docs=true")
            assert len(changed["results"]) == facts["doc_count"] + facts["doc_del_count"]
        assert self._process.stop().status == 0
        self._check_log()
        files = list(self._data.glob("*.sqlite"))
        assert files
        for file in files:
            with closing(sqlite3.connect(file)) as db:
                register_functions(db)  # which the indexes are made of
                [(result,)] = db.execute("PRAGMA integrity_check")
            assert result == "ok", (file, result)

    def _check_log(self) -> None:
        log = self._process.log
        new, self._log_seen = log[self._log_seen :], len(log)
        assert "Traceback" not in new, new

    def _json(self, method: str, path: str, body: Any = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        return json.loads(self._send(Asked(method, path, headers, data))[2])

    def _send(self, asked: Asked) -> tuple[int, Mapping[str, str], bytes]:
        connection = HTTPConnection(self._address, timeout=PATIENCE)
        try:
            connection.request(asked.method, asked.url, asked.body, dict(asked.headers))
            answer = connection.getresponse()
            body = _glance(connection, answer) if asked.endless else answer.read()
            return answer.status, answer.headers, body
        finally:
            connection.close()


def _glance(connection: HTTPConnection, answer: HTTPResponse) -> bytes:
    """The beginning of an answer that may have no end."""
    body = b""
    end = time.monotonic() + _GLANCE
    try:
        while (left := end - time.monotonic()) > 0:
            if connection.sock is not None:
                connection.sock.settimeout(left)
            piece = answer.read1()
            if not piece:
                break
            body += piece
    except (TimeoutError, HTTPException):
        pass
    return body


def _resident(pid: int) -> int:
    """Bytes of memory that a process has."""
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * 4096


def _documents() -> list[dict[str, Any]]:
    packed = base64.b64encode(gzip.compress(b"packed" * 100)).decode()
    files = {
        "text.txt": {"content_type": "text/plain", "data": "aGVsbG8gd29ybGQ="},
        "folder/packed.gz": {"content_type": "application/gzip", "data": packed},
    }

    def document(id: str, rev: str, *older: str, **members: Any) -> dict[str, Any]:
        generation, _, digest = rev.partition("-")
        history = {"start": int(generation), "ids": [digest, *older]}
        return {"_id": id, "_rev": rev, "_revisions": history, **members}

    return [
        document("plain", "2-b", "a", n=1, s="text", list=[1, "x", None], object={"x": {"y": 1.5}}),
        document("conflicted", "2-b", "a", n=2),
        document("conflicted", "2-c", "a", n=3),
        document("conflicted", "3-d", "b", "a", n=4, _deleted=True),
        document("attached", "2-b", "a", n=5, _attachments=files),
        document("deleted", "2-b", "a", _deleted=True),
        document("\u00e9 /\u00f6", "1-a", s="\u00e9", n=-0.5),
        document("_design/script", "1-a", views={"by-n": {"map": "function (doc) {}"}}),
        *(document(f"many-{number}", "1-a", n=number, s=str(number)) for number in range(30)),
    ]
