"""Revision ids and revisions, as CouchDB means them.

Source: CouchDB documentation, "Replication and conflict model" and "Document revision tree".
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec.structs import replace

from agent.documents.attachment import Attachment

_HEX = re.compile(r"[0-9A-Fa-f]{32}\Z")

_sorted_json = msgspec.json.Encoder(order="sorted")


class Rev(NamedTuple):
    """A revision id, `generation-hash`. Compares by generation, then by hash."""

    generation: int
    hash: str

    def __str__(self) -> str:
        return f"{self.generation}-{self.hash}"

    @classmethod
    def parse(cls, text: str) -> Rev:
        """Parse `3-abc`. Any non-empty string is a hash, as `normal_hash` has it.

        Raises ValueError.
        """
        generation, dash, digest = text.partition("-")
        if not dash or not digest or not (generation.isascii() and generation.isdigit()):
            raise ValueError(f"Invalid rev format: {text!r}")
        number = int(generation) if len(generation) < 16 else 0
        if number < 1:
            raise ValueError(f"Invalid rev format: {text!r}")
        return cls(number, normal_hash(digest))


def normal_hash(digest: str) -> str:
    """A hash as it is stored: CouchDB reads 32 hex digits of either case as the same 16 bytes."""
    if len(digest) == 32 and not digest.islower() and _HEX.match(digest):
        return digest.lower()
    return digest


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
    attachments: tuple[Attachment, ...] = ()

    @property
    def rev(self) -> Rev:
        return Rev(self.generation, self.path[0])

    def with_attachments(self, attachments: Iterable[Attachment]) -> Revision:
        """The same revision, told of with these attachments."""
        return replace(self, attachments=tuple(attachments))


def canonical(body: Mapping[str, Any]) -> bytes:
    """The canonical encoding of a body: JSON with sorted keys and no white space."""
    return _sorted_json.encode(body)


def new_hash(
    canonical_body: bytes,
    *,
    parent: Rev | None,
    deleted: bool,
    attachments: Collection[Attachment] = (),
) -> str:
    """The hash of a new revision: 32 hex digits, the same wherever the same edit is made.

    `canonical_body` comes from `canonical`, of a body without members that start with an
    underscore. The hash is BLAKE2b (RFC 7693), 16 bytes, over the JSON text
    `[deleted, parent, body]`, or, with attachments, `[deleted, parent, body, attachments]`, the
    last one an array of `[name, content type, digest]` in the order of the names.
    """
    head = f'[{"true" if deleted else "false"},"{parent or ""}",'.encode()
    tail = b"]"
    if attachments:
        told = sorted([item.name, item.content_type, item.digest] for item in attachments)
        tail = b"," + _sorted_json.encode(told) + b"]"
    return hashlib.blake2b(head + canonical_body + tail, digest_size=16).hexdigest()


def first_revision(id: str, body: Mapping[str, Any]) -> Revision:
    """The revision that creates document `id` with `body` (no members with an underscore).

    The stored text is the canonical one, so that a reading is encoded once, not twice.
    """
    text = canonical(body)
    return Revision(id, 1, (new_hash(text, parent=None, deleted=False),), False, text.decode())
