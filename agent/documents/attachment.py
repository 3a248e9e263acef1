"""Attachments: what a revision tells of them, and where their content is.

Source: CouchDB documentation, "API Reference > Documents > Attachments", and `couch_att.erl` for
the wording of refusals.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping
from enum import Enum
from typing import Any, TypeAlias

import msgspec

DEFAULT_CONTENT_TYPE = "application/octet-stream"
ENCODINGS = ("gzip",)
"""Forms, besides the plain one, in which content is stored and carried."""

_encoder = msgspec.json.Encoder()


class Absent(Enum):
    """Content that does not come with the revision."""

    STUB = "stub"
    """The receiver has it, or gets it by other means."""
    FOLLOWS = "follows"
    """It comes in a later part of a multipart message."""


class Stored(msgspec.Struct, frozen=True):
    """Content that a store has. `blob` is the SHA-256 of it, in hex."""

    blob: str


class Inline(msgspec.Struct, frozen=True):
    """Content that is in memory, encoded as the attachment says."""

    data: bytes


class Uploaded(msgspec.Struct, frozen=True):
    """Content that was written to a store and belongs to no revision yet; `upload` is its key."""

    upload: int
    blob: str


Content: TypeAlias = Absent | Stored | Inline | Uploaded


class Attachment(msgspec.Struct, frozen=True):
    """An attachment of one revision.

    `digest` (`md5-` and Base64; empty where it is not known) is that of the content as it is
    stored, that is, encoded if there is an `encoding`. `length` is that of the plain content in
    bytes, `encoded_length` that of the encoded one. `revpos` is the generation that brought it, 0
    for that of the revision it comes with.
    """

    name: str
    content_type: str
    revpos: int
    digest: str
    length: int
    content: Content
    encoding: str | None = None
    encoded_length: int | None = None

    @property
    def stored_length(self) -> int:
        """Bytes of the content as it is stored."""
        return self.length if self.encoded_length is None else self.encoded_length


def md5_digest(md5: bytes) -> str:
    """CouchDB's form of a digest."""
    return "md5-" + base64.b64encode(md5).decode()


def inline(name: str, content_type: str, data: bytes, *, revpos: int = 0) -> Attachment:
    """An attachment whose content is at hand."""
    digest = md5_digest(hashlib.md5(data, usedforsecurity=False).digest())
    return Attachment(name, content_type, revpos, digest, len(data), Inline(data))


def attachments_from_json(members: Any) -> tuple[Attachment, ...]:
    """The attachments that the member `_attachments` of a document means.

    Raises ValueError with CouchDB's reason: bad names, content that is not Base64.
    """
    if not isinstance(members, Mapping):
        raise TypeError("_attachments is an object")
    return tuple(_attachment(checked_name(name), entry) for name, entry in members.items())


def checked_name(name: str) -> str:
    """`name`, if an attachment may have it. Raises ValueError."""
    if not name:
        raise ValueError("Attachment name must not be empty")
    if name.startswith("_"):
        raise ValueError(f"Attachment name '{name}' starts with prohibited character '_'")
    return name


def attachments_text(attachments: Iterable[Attachment], *, encoding_info: bool = False) -> str:
    """The JSON text of the member `_attachments`: content in Base64 where it is in memory and
    plain, marks (`stub`, `follows`) where not.

    `encoding_info` asks for `encoding` and `encoded_length`.
    """
    entries = []
    for attachment in attachments:
        entry = described(attachment, encoding_info=encoding_info)
        match attachment.content:
            case Inline(data):
                entry["data"] = base64.b64encode(data).decode()
            case Absent.FOLLOWS:
                entry |= {"length": attachment.length, "follows": True}
            case _:
                entry |= {"length": attachment.length, "stub": True}
        entries.append(f"{_encoder.encode(attachment.name).decode()}:{_text(entry)}")
    return f"{{{','.join(entries)}}}"


def described(attachment: Attachment, *, encoding_info: bool = False) -> dict[str, Any]:
    """The members of an entry in `_attachments`, but for those on its content."""
    entry: dict[str, Any] = {"content_type": attachment.content_type, "revpos": attachment.revpos}
    if attachment.digest:
        entry["digest"] = attachment.digest
    if encoding_info and attachment.encoding is not None:
        entry["encoding"] = attachment.encoding
        entry["encoded_length"] = attachment.stored_length
    return entry


def disposition(name: str) -> str:
    """The value of Content-Disposition for an attachment in a multipart message."""
    for letter, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\r", "%0D"), ("\n", "%0A")):
        name = name.replace(letter, escaped)
    return f'attachment; filename="{name}"'


def stored_text(attachments: Iterable[Attachment]) -> str:
    """The JSON text in which a store keeps attachments, whose content must be `Stored`."""
    found = {}
    for attachment in attachments:
        assert isinstance(attachment.content, Stored)  # noqa: S101
        entry = described(attachment, encoding_info=True)
        found[attachment.name] = entry | {
            "length": attachment.length,
            "blob": attachment.content.blob,
        }
    return _text(found)


def attachments_from_store(text: str | None) -> tuple[Attachment, ...]:
    """The reverse of `stored_text`."""
    if text is None:
        return ()
    return tuple(
        Attachment(
            name,
            entry["content_type"],
            entry["revpos"],
            entry["digest"],
            entry["length"],
            Stored(entry["blob"]),
            entry.get("encoding"),
            entry.get("encoded_length"),
        )
        for name, entry in msgspec.json.decode(text, type=dict[str, dict[str, Any]]).items()
    )


def _attachment(name: str, entry: Any) -> Attachment:
    if not isinstance(entry, Mapping):
        raise ValueError(f"Invalid attachment {name}")  # noqa: TRY004
    content_type = entry.get("content_type", DEFAULT_CONTENT_TYPE)
    if not isinstance(content_type, str) or not content_type:
        raise ValueError(f"Invalid content_type of attachment {name}")
    if any(ord(letter) < 0x20 or ord(letter) == 0x7F for letter in content_type):
        raise ValueError(f"Invalid content_type of attachment {name}")
    revpos = _number(name, entry, "revpos") or 0
    if entry.get("stub") is True or entry.get("follows") is True:
        digest = entry.get("digest", "")
        encoding = entry.get("encoding")
        if not isinstance(digest, str) or encoding not in (None, "identity", *ENCODINGS):
            raise ValueError(f"Invalid attachment {name}")
        encoding = None if encoding == "identity" else encoding
        encoded_length = _number(name, entry, "encoded_length")
        return Attachment(
            name,
            content_type,
            revpos,
            digest,
            _number(name, entry, "length") or 0,
            Absent.STUB if entry.get("stub") is True else Absent.FOLLOWS,
            encoding,
            encoded_length if encoding else None,
        )
    try:
        data = binascii.a2b_base64("".join(entry["data"].split()), strict_mode=True)
    except (KeyError, AttributeError, ValueError):
        raise ValueError(f"Invalid attachment data for {name}") from None
    return inline(name, content_type, data, revpos=revpos)


def _number(name: str, entry: Mapping[str, Any], member: str) -> int | None:
    value = entry.get(member)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise ValueError(f"Invalid {member} of attachment {name}")
    return value


def _text(value: Any) -> str:
    return _encoder.encode(value).decode()
