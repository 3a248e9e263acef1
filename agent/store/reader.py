"""Queries, each on a read-only connection. Blocking: run in threads.

A query is a function of a connection. It is short and fetches all that it returns, so that no
reader holds the WAL back; whoever reads much reads in pages. A page ends after some documents or
some bytes, whichever comes first; it says itself whether there was more.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

from agent.store.connection import explained, open_reader

_P = ParamSpec("_P")
_T = TypeVar("_T")


class Reader:
    """Lends a read-only connection to each query and keeps those not in use."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._idle: list[sqlite3.Connection] = []
        self._closed = False

    def query(
        self,
        function: Callable[Concatenate[sqlite3.Connection, _P], _T],
        *args: _P.args,
        **options: _P.kwargs,
    ) -> _T:
        """What a function reads from one state of the store, whatever is committed meanwhile."""
        with self._connection() as db:
            return function(db, *args, **options)

    def close(self) -> None:
        self._closed = True
        with suppress(IndexError):  # a thread that ends right now may take one of them
            while True:
                self._idle.pop().close()

    @contextmanager
    def _connection(self) -> Iterator[sqlite3.Connection]:
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = open_reader(self._path)
        try:
            with explained(self._path, is_open=True):
                connection.execute("BEGIN")
                yield connection
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            if self._closed:
                connection.close()
            else:
                self._idle.append(connection)
