"""Sequences as clients of the HTTP API have them: strings, `{number}-{incarnation}`.

Source: CouchDB documentation, "API Reference > Databases > Changes", where they are opaque strings,
and CouchDB 3.5's module fabric_view_changes: what follows the number tells which copy of a database
counted it, and a sequence of a copy that is not known starts from the beginning.
"""

from __future__ import annotations

import re

from agent.store.store import Store

_SEQUENCE = re.compile(r'"?([0-9]{1,18})(?:-([0-9a-f]{8}|g[A-Za-z0-9_-]+))?"?')
"""As JSON, too. CouchDB's own sequences have a packed Erlang term, which begins with g."""


def suffix(store: Store) -> str:
    """What all sequences of this store end with, the hyphen included."""
    return f"-{store.incarnation}"


def text_of(store: Store, number: int) -> str:
    """The sequence of a change: the number of its row, and whose number that is."""
    return f"{number}{suffix(store)}"


def number_of(store: Store, text: str) -> int:
    """After which change a client that has this sequence goes on; 0 is the beginning.

    A number alone is a sequence as well, such as 0, or those in checkpoints that were written when
    sequences were numbers. Raises ValueError for what is no sequence.
    """
    found = _SEQUENCE.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no sequence")
    number, incarnation = int(found[1]), found[2]
    # A sequence of another database, such as this one before it was deleted and made again, starts
    # from the beginning, and so does one from the future, which a copy of this file has counted:
    # whatever the client has already it will recognise, but it must not miss what it has not.
    foreign = incarnation is not None and incarnation != store.incarnation
    return 0 if foreign or number > store.update_seq else number
