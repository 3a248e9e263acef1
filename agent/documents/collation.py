"""CouchDB's order of JSON values, as a sort key: bytes that compare as the values do.

Source: CouchDB documentation, "Views Collation > Collation Specification": null, false, true,
numbers, strings, arrays, objects. Arrays compare element by element, and objects member by member
in the order in which they are written; what is a beginning of the other comes first.

CouchDB orders strings with ICU, by the root collation of the Unicode Collation Algorithm: first by
letters alone, then by accents, then by case (small letters first); control characters count for
nothing. ICU and its tables are too large for a gateway, so this follows them where people look and
approximates elsewhere:

- ASCII is exact: white space, punctuation, symbols, digits, letters, each in ICU's own order.
- Letters with accents sort with their base letter, by canonical decomposition; ligatures and
  stroked letters of European languages expand as in ICU; decimal digits of any script are digits.
- Letters of other scripts follow the Latin ones by code point, small and capital together. That is
  the order of the scripts for most of them, and of the letters within nearly all of them.
- Other punctuation and symbols stand between `$` and the digits, by code point.
- U+FFFF sorts after everything, so that it serves as an upper bound.
"""

from __future__ import annotations

import struct
import unicodedata
from typing import Any

import msgspec

_NULL, _FALSE, _TRUE, _NUMBER, _STRING, _ARRAY, _OBJECT = (bytes([rank]) for rank in range(1, 8))
_END = b"\x00"
_LEVEL = b"\x01"
_COMMON = 0x02
_CAPITAL = 0x03
_MARK = b"\x03"

_BEFORE_DIGITS = "\t\n\x0b\x0c\r _-,;:!?.'\"()[]{}@*/\\&#%`^+<=>|~$"
_DIGITS = "0123456789"
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_EXPANSIONS = {
    "ß": "ss", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th",
    "\u0131": "i", "ĳ": "ij", "ŀ": "l", "ħ": "h", "ŧ": "t",
}  # fmt: skip

# A weight's first byte tells its length: one byte in ASCII, four elsewhere.
_WEIGHTS: dict[str, int] = {}
for _number, _letter in enumerate(_BEFORE_DIGITS, start=3):
    _WEIGHTS[_letter] = _number
_OTHER_SYMBOL = bytes([3 + len(_BEFORE_DIGITS)])
for _number, _letter in enumerate(_DIGITS + _LETTERS, start=4 + len(_BEFORE_DIGITS)):
    _WEIGHTS[_letter] = _number
    _WEIGHTS[_letter.upper()] = _number
_OTHER_LETTER = b"\xf0"
_UNASSIGNED = b"\xf8"
_REPLACEMENT = b"\xfd"
_HIGHEST = b"\xfe"

_IGNORED = bytes(code for code in range(128) if chr(code) not in _WEIGHTS)
_PRIMARY = bytes(_WEIGHTS.get(chr(code), 0) for code in range(256))
_TERTIARY = bytes(_CAPITAL if chr(code) in _LETTERS.upper() else _COMMON for code in range(256))

_decode = msgspec.json.Decoder().decode
_pack = struct.Struct(">Q").pack
_pack_double = struct.Struct(">d").pack
_unpack = struct.Struct(">Q").unpack
_SIGN = 1 << 63
_ALL = (1 << 64) - 1


def sort_key(value: Any) -> bytes:
    """The sort key of a JSON value (as Python has it). Equal keys: CouchDB holds them equal."""
    if isinstance(value, str):
        return _STRING + string_key(value)
    if value is None:
        return _NULL
    if isinstance(value, bool):
        return _TRUE if value else _FALSE
    if isinstance(value, int | float):
        return _NUMBER + _number_key(value)
    if isinstance(value, list):
        return b"".join([_ARRAY, *map(sort_key, value), _END])
    parts = [_OBJECT]
    for name, member in value.items():
        parts.append(_STRING + string_key(name))
        parts.append(sort_key(member))
    parts.append(_END)
    return b"".join(parts)


def sort_key_of_json(text: str) -> bytes:
    """The sort key of a JSON text. Raises msgspec.DecodeError."""
    return sort_key(_decode(text))


def string_key(text: str) -> bytes:
    """The key of a string: its letters, its accents, its capitals, and an end."""
    if not text.isascii():
        return _unicode_key(text)
    raw = text.encode("ascii")
    primary = raw.translate(_PRIMARY, _IGNORED)
    if text.islower():
        return primary + b"\x01\x01\x00"
    return primary + b"\x01\x01" + raw.translate(_TERTIARY, _IGNORED).rstrip(b"\x02") + _END


def _number_key(number: float) -> bytes:
    try:
        double = float(number)
    except OverflowError:  # an integer beyond what a double can hold
        double = float("inf") if number > 0 else float("-inf")
    (bits,) = _unpack(_pack_double(double + 0.0))  # -0.0 becomes 0.0
    return _pack(bits ^ _ALL if bits & _SIGN else bits | _SIGN)


def _unicode_key(text: str) -> bytes:
    primary: list[bytes] = []
    secondary: list[bytes] = []
    tertiary = bytearray()
    marked = False
    for letter in unicodedata.normalize("NFD", text):
        small = letter.lower()
        expansion = _EXPANSIONS.get(small)
        for part in expansion or small[:1]:
            weight = _weight(part)
            if weight is None:
                continue
            if unicodedata.combining(part):
                marked = True
                secondary.append(weight)
                tertiary.append(_COMMON)
                continue
            primary.append(weight)
            secondary.append(bytes([_COMMON]))
            tertiary.append(_COMMON if letter == small else _CAPITAL)
        if expansion is not None:  # sorts after the letters that it stands for
            marked = True
            secondary.append(_MARK + _code(small))
            tertiary.append(_COMMON)
    accents = b"".join(secondary) if marked else b""
    return b"".join(
        [*primary, _LEVEL, accents, _LEVEL, bytes(tertiary).rstrip(bytes([_COMMON])), _END]
    )


def _weight(letter: str) -> bytes | None:
    """The weight of a small letter or of a mark; None for what is ignored."""
    weight = _WEIGHTS.get(letter)
    if weight is not None:
        return bytes([weight])
    if unicodedata.combining(letter):
        return _MARK + _code(letter)
    category = unicodedata.category(letter)
    match category[0]:
        case "L" | "M":
            return _OTHER_LETTER + _code(letter)
        case "N" if category == "Nd":
            return bytes([_WEIGHTS[_DIGITS[unicodedata.decimal(letter)]]])
        case "Z":
            return bytes([_WEIGHTS[" "]])
        case "C" if category in ("Cc", "Cf"):
            return None
        case "C":
            return (_HIGHEST if letter == "\uffff" else _UNASSIGNED) + _code(letter)
    return (_REPLACEMENT if letter == "\ufffd" else _OTHER_SYMBOL) + _code(letter)


def _code(letter: str) -> bytes:
    return ord(letter).to_bytes(3, "big")
