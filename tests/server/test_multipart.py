"""Multipart messages, in any pieces."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.server.multipart import End, Head, MalformedError, Parser

BOUNDARY = "b0undary"
KIND = f'multipart/related; boundary="{BOUNDARY}"'
NAMES = st.text("abc-", min_size=1, max_size=5)
CONTENTS = st.one_of(
    st.binary(max_size=60),
    # What looks like the beginning of a boundary.
    st.lists(st.sampled_from([b"\r", b"\n", b"\r\n", b"--", b"\r\n--b0", b"x"])).map(b"".join),
)
PARTS = st.lists(st.tuples(st.dictionaries(NAMES, NAMES, max_size=2), CONTENTS), max_size=4)
CUTS = st.lists(st.integers(0, 600), max_size=12)


def written(parts: list[tuple[dict[str, str], bytes]]) -> bytes:
    message = f"--{BOUNDARY}".encode()
    for headers, content in parts:
        lines = "".join(f"\r\n{name}: {value}" for name, value in headers.items())
        message += f"{lines}\r\n\r\n".encode() if lines else b"\r\n\r\n"
        message += content + f"\r\n--{BOUNDARY}".encode()
    return message + b"--"


def read(message: bytes, cuts: list[int]) -> list[tuple[dict[str, str], bytes]]:
    parser = Parser(KIND)
    parts: list[tuple[dict[str, str], bytes]] = []
    places = sorted(min(cut, len(message)) for cut in cuts)
    ends: list[End] = []
    for start, end in zip([0, *places], [*places, len(message)], strict=True):
        for event in parser.feed(message[start:end]):
            if isinstance(event, Head):
                parts.append((dict(event.headers), b""))
            elif isinstance(event, bytes):
                parts[-1] = (parts[-1][0], parts[-1][1] + event)
            else:
                ends.append(event)
    parser.close()
    assert ends == [End.PART] * len(parts) + [End.MESSAGE]
    return parts


@given(parts=PARTS, cuts=CUTS)
def test_in_any_pieces(parts: list[tuple[dict[str, str], bytes]], cuts: list[int]) -> None:
    assert read(written(parts), cuts) == parts


@given(parts=PARTS, cuts=CUTS)
def test_with_text_around_it(parts: list[tuple[dict[str, str], bytes]], cuts: list[int]) -> None:
    assert read(b"preamble\r\n" + written(parts) + b"\r\nepilogue", cuts) == parts


@given(parts=PARTS, cuts=CUTS, data=st.data())
def test_cut_off_anywhere(
    parts: list[tuple[dict[str, str], bytes]], cuts: list[int], data: st.DataObject
) -> None:
    message = written(parts)
    end = data.draw(st.integers(0, len(message) - 1))
    with pytest.raises(MalformedError):
        read(message[:end], cuts)


@given(message=st.binary(max_size=300), cuts=CUTS)
def test_anything_at_all(message: bytes, cuts: list[int]) -> None:
    with pytest.raises(MalformedError):
        read(message, cuts)


@pytest.mark.parametrize(
    ("value", "name"),
    [
        ('attachment; filename="a b.txt"', "a b.txt"),
        ("attachment; filename=a.txt", "a.txt"),
        (r'attachment; filename="a\"b\\c"', 'a"b\\c'),
        ("attachment; filename*=UTF-8''%C3%A4%2F1", "ä/1"),
        ("attachment", None),
    ],
)
def test_file_names(value: str, name: str | None) -> None:
    assert Head({"content-disposition": value}).file_name == name


@pytest.mark.parametrize("kind", ["multipart/related", "text/plain; boundary=x", ""])
def test_a_boundary_is_needed(kind: str) -> None:
    with pytest.raises(MalformedError):
        Parser(kind)


def test_headers_have_a_limit() -> None:
    parser = Parser(KIND)
    with pytest.raises(MalformedError):
        list(parser.feed(f"--{BOUNDARY}\r\na: {'x' * 100_000}".encode()))
