"""What crosses an MQTT broker, as bytes: packets, the messages that they carry, and their limits.

A packet is the payload of one publication. A message, a request or an answer, is CBOR, compressed
where that makes it smaller; it is sent as one packet, or in parts that its receiver asks for one
after the other, which is also how the contents of attachments travel. docs/mqtt.md describes it.

Everything here is pure, and everything that arrives is untrusted: whatever it is, it is read or
refused with `WireError`. Source: RFC 8949 (CBOR), RFC 1950 (zlib).
"""

from __future__ import annotations

import hashlib
import zlib
from typing import Annotated, Any, Final, TypeAlias, TypeVar

import cbor2
import msgspec
from msgspec import Meta

from agent.errors import PermanentError, TooLargeError

VERSION: Final = 1

MAX_MESSAGE: Final = 16 * 1024 * 1024
"""Bytes of a message, decompressed, that are read."""

_MAX_DEPTH: Final = 16

_MOST_ITEMS: Final = 2**19
"""Of CBOR in a message. Each takes some 70 bytes of memory, and as little as a byte of the message;
one that is full of revisions, of 34 bytes each, has fewer."""

_PACKET_ITEMS: Final = 64

_PLAIN, _ZLIB = b"\0", b"\1"
_WORTH_COMPRESSING: Final = 96
_LEVEL: Final = 6

LONGEST_ID: Final = 64
"""Characters of a responder's id."""

Count = Annotated[int, Meta(ge=0, le=2**53)]
"""Of bytes and the like."""

_Name = Annotated[str, Meta(max_length=LONGEST_ID)]

_T = TypeVar("_T")


class WireError(PermanentError):
    """What came is nothing that this protocol has."""


class VersionError(WireError):
    """It is of a version of the protocol that is not spoken here."""


class Fault(msgspec.Struct, array_like=True, frozen=True):
    """An error on its way; `agent.peers.mqtt_errors` has the codes."""

    code: str
    message: str
    retry_after: float | None = None
    reason: str | None = None


class Source(msgspec.Struct, array_like=True, frozen=True):
    """The content of an attachment: of which revision in the message, the attachment's name, and
    how often the receiver has begun to read any content before, so that what comes late is known.
    """

    index: Count
    name: str
    opening: Count = 0


class Message(msgspec.Struct, array_like=True, frozen=True):
    """A message's first part, or all of it. `size` is in bytes, `digest` a SHA-256 where there are
    more parts."""

    sender: _Name
    size: Count
    digest: bytes | None
    data: bytes


class Part(msgspec.Struct, array_like=True, frozen=True):
    """What was asked for by `Want`."""

    sender: _Name
    offset: Count
    data: bytes
    end: bool


class Want(msgspec.Struct, array_like=True, frozen=True):
    """Asks for the part from `offset` on: of the message, or of an attachment's content."""

    sender: _Name
    source: Source | None
    offset: Count


class Failed(msgspec.Struct, array_like=True, frozen=True):
    """In place of an answer or of a part."""

    sender: _Name
    fault: Fault


Packet: TypeAlias = Message | Part | Want | Failed
"""`sender` is the responder's id, empty where a gateway sends."""

_KINDS: tuple[type[Packet], ...] = (Message, Part, Want, Failed)
_NUMBERS = {kind: number for number, kind in enumerate(_KINDS)}

OVERHEAD: Final = 256
"""Bytes of a packet besides `data`, at most."""


def encode_packet(packet: Packet) -> bytes:
    """The payload of a publication."""
    return cbor2.dumps([VERSION, _NUMBERS[type(packet)], *_plain(packet)])


def _plain(value: Any) -> Any:
    """What CBOR can carry of structs."""
    return msgspec.to_builtins(value, builtin_types=(bytes,))


def decode_packet(payload: bytes) -> Packet:
    """Raises WireError; VersionError for another version, whatever its form is."""
    try:
        value = decode_cbor(payload, _PACKET_ITEMS)
    except TooLargeError as error:
        raise WireError(str(error)) from None
    if not isinstance(value, list) or len(value) < 2 or type(value[0]) is not int:
        raise WireError("no packet: it is not an array that begins with a version")
    if value[0] != VERSION:
        raise VersionError(
            f"version {value[0]} of the protocol is not spoken here, version {VERSION} is; "
            "use the same version of edge-agent on both sides"
        )
    if type(value[1]) is not int or not 0 <= value[1] < len(_KINDS):
        raise WireError(f"no packet: there is no kind {value[1]!r:.40}")
    return convert(value[2:], _KINDS[value[1]])


def encode_notice(seq: str) -> bytes:
    """What `changed` says; `seq` is the newest sequence, as JSON text."""
    return cbor2.dumps([VERSION, seq])


def convert(value: Any, kind: type[_T]) -> _T:
    """What was decoded, as the type that it has to be. Raises WireError."""
    try:
        return msgspec.convert(value, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        raise WireError(f"not what is expected here: {error}") from None


# --- messages --------------------------------------------------------------------------


def pack(value: Any) -> bytes:
    """A message's bytes: one that tells the compression, then the CBOR. `value` may have structs.

    Raises TooLargeError for what the other side would not read.
    """
    plain = cbor2.dumps(_plain(value))
    if len(plain) > MAX_MESSAGE:
        raise TooLargeError(
            f"a message of {len(plain)} bytes is too large for MQTT, which takes {MAX_MESSAGE}; "
            "send less at once"
        )
    if len(plain) >= _WORTH_COMPRESSING:
        compressed = zlib.compress(plain, _LEVEL)
        if len(compressed) < len(plain):
            return _ZLIB + compressed
    return _PLAIN + plain


def unpack(data: bytes) -> Any:
    """The reverse of `pack`. Raises WireError; TooLargeError as `decode_cbor` does."""
    plain = unpacked(data, MAX_MESSAGE)
    if plain is None:
        raise WireError(f"a message of more than {MAX_MESSAGE} bytes")
    return decode_cbor(plain)


def unpacked(data: bytes, most: int) -> bytes | None:
    """The CBOR of a message; None where that is more than `most` bytes. Raises WireError."""
    head, body = data[:1], data[1:]
    if head == _PLAIN:
        return body if len(body) <= most else None
    if head != _ZLIB:
        raise WireError(f"a message of unknown compression ({head.hex() or 'empty'})")
    stream = zlib.decompressobj()
    try:
        plain = stream.decompress(body, most + 1)
    except zlib.error as error:
        raise WireError(f"a message that cannot be decompressed ({error})") from None
    if len(plain) > most:
        return None
    if not stream.eof or stream.unused_data:
        raise WireError("a compressed message that is cut off, or followed by something else")
    return plain


def first_part(data: bytes, sender: str, room: int) -> Message:
    """The packet that a message begins with; `room` is the most bytes of data in a packet."""
    if len(data) <= room:
        return Message(sender, len(data), None, data)
    return Message(sender, len(data), hashlib.sha256(data).digest(), data[:room])


def later_part(data: bytes, sender: str, offset: int, room: int) -> Part:
    """Another part of a message. Raises WireError for an offset outside of it."""
    if not 0 < offset < len(data):
        raise WireError(f"a message of {len(data)} bytes has no part at {offset}")
    piece = data[offset : offset + room]
    return Part(sender, offset, piece, offset + len(piece) == len(data))


class Assembly:
    """A message that comes in parts. Raises WireError as soon as it cannot become one."""

    def __init__(self, first: Message) -> None:
        if first.size > MAX_MESSAGE + 1:
            raise WireError(f"a message of {first.size} bytes, more than {MAX_MESSAGE}")
        self._size = first.size
        self._digest = first.digest
        self._data = bytearray(first.data)
        self._check()

    @property
    def complete(self) -> bool:
        return len(self._data) == self._size

    @property
    def offset(self) -> int:
        """Where the next part begins."""
        return len(self._data)

    def add(self, part: Part) -> None:
        """Take the next part; one that has come already changes nothing."""
        if part.offset == len(self._data):
            if not part.data:
                raise WireError("an empty part")
            self._data += part.data
            self._check()

    def message(self) -> bytes:
        """The whole message."""
        return bytes(self._data)

    def _check(self) -> None:
        if len(self._data) > self._size:
            raise WireError("a message longer than it says")
        if self.complete and self._digest is not None:
            if hashlib.sha256(self._data).digest() != self._digest:
                raise WireError("a message whose digest does not fit: it is damaged")
        elif not self.complete and self._digest is None:
            raise WireError("a message in parts without a digest")


# --- CBOR ------------------------------------------------------------------------------


def decode_cbor(data: bytes, most: int = _MOST_ITEMS) -> Any:
    """CBOR of the kinds that the protocol uses: integers, strings, arrays, maps, floats, simple
    values.

    Raises WireError for tags, indefinite lengths and anything nested deeply, and TooLargeError for
    more than `most` items, before anything is made of it: decoders do more with some tags than data
    from elsewhere should make them do, and a few bytes, compressed, could fill all memory.
    """
    _scan(data, most)
    try:
        return cbor2.loads(data)
    except (cbor2.CBORDecodeError, ValueError, TypeError) as error:
        raise WireError(f"not CBOR ({error})") from None


_STEPS: Final = bytes(
    1 if kind in (0, 1, 7) and value < 24 else 1 + value if kind in (2, 3) and value < 24 else 0
    for kind in range(8)
    for value in range(32)
)
"""By the first byte of an item: how long it is, where that byte tells; 0 elsewhere."""


def _scan(data: bytes, most: int) -> None:
    """Go through the heads of all items; see RFC 8949, section 3."""
    end = len(data)
    place = 0
    left = 1  # items still to come, of the array or map that is open
    outer: list[int] = []  # and of those around it
    while left or outer:
        if not left:
            left = outer.pop()
            continue
        left -= 1
        if place >= end:
            raise WireError("CBOR that is cut off")
        head = data[place]
        if step := _STEPS[head]:
            place += step
            continue
        kind, value = head >> 5, head & 31
        place += 1
        if value >= 24:
            if value > 27:
                raise WireError("CBOR of indefinite length, or with reserved values")
            width = 1 << (value - 24)
            if place + width > end:
                raise WireError("CBOR that is cut off")
            value = int.from_bytes(data[place : place + width], "big")
            place += width
        if kind in (2, 3):
            place += value
        elif kind in (4, 5):
            items = value if kind == 4 else 2 * value
            if items > end - place:
                raise WireError("CBOR that is cut off")
            most -= items
            if most < 0:
                raise TooLargeError("CBOR of too many items; send less at once")
            if len(outer) + 1 >= _MAX_DEPTH:
                raise WireError(f"CBOR nested deeper than {_MAX_DEPTH} levels")
            outer.append(left)
            left = items
        elif kind == 6:
            raise WireError("CBOR with a tag")
    if place > end:
        raise WireError("CBOR that is cut off")
    if place < end:
        raise WireError("CBOR followed by something else")
