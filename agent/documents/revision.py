"""Revision ids and revisions, as CouchDB means them.

Source: CouchDB documentation, "Replication and conflict model" and "Document revision tree".
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec

_sorted_json = msgspec.json.Encoder(order="sorted")


class Rev(NamedTuple):
    """A revision id, `generation-hash`. Compares by generation, then by hash."""

    generation: int
    hash: str

    def __str__(self) -> str:
        return f"{self.generation}-{self.hash}"

    @classmethod
    def parse(cls, text: str) -> Rev:
        """Parse `3-abc`. Any non-empty string is a hash. Raises ValueError."""
        generation, dash, digest = text.partition("-")
        if not dash or not digest or not (generation.isascii() and generation.isdigit()):
            raise ValueError(f"Invalid rev format: {text!r}")
        number = int(generation) if len(generation) < 16 else 0
        if number < 1:
            raise ValueError(f"Invalid rev format: {text!r}")
        return cls(number, digest)


class Revision(msgspec.Struct, frozen=True):
    """One revision of a document with its history: what replication carries.

    `path` are the hashes from this revision back to its oldest known ancestor; `path[0]` belongs
    to `generation`, `path[1]` to `generation - 1` and so on. `body` is the JSON text of the
    document's own members, without any that start with an underscore.
    """

    id: str
    generation: int
    path: tuple[str, ...]
    deleted: bool
    body: str

    @property
    def rev(self) -> Rev:
        return Rev(self.generation, self.path[0])


def canonical(body: Mapping[str, Any]) -> bytes:
    """The canonical encoding of a body: JSON with sorted keys and no white space."""
    return _sorted_json.encode(body)


def new_hash(canonical_body: bytes, *, parent: Rev | None, deleted: bool) -> str:
    """The hash of a new revision: 32 hex digits, the same wherever the same edit is made.

    `canonical_body` comes from `canonical`, of a body without members that start with an
    underscore. The hash is BLAKE2b (RFC 7693), 16 bytes, over the JSON text
    `[deleted, parent, body]`.
    """
    head = f'[{"true" if deleted else "false"},"{parent or ""}",'.encode()
    return hashlib.blake2b(head + canonical_body + b"]", digest_size=16).hexdigest()


def first_revision(id: str, body: Mapping[str, Any]) -> Revision:
    """The revision that creates document `id` with `body` (no members with an underscore).

    The stored text is the canonical one, so that a reading is encoded once, not twice.
    """
    text = canonical(body)
    return Revision(id, 1, (new_hash(text, parent=None, deleted=False),), False, text.decode())
