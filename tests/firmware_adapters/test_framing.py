"""Cutting a stream into frames keeps little and loses count of nothing."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from firmware_adapters.framing import Overflow, Splitter
from tests.firmware_adapters.damage import pieces

STREAMS = st.lists(st.sampled_from([b"\0", b"a", b"bb", b"c" * 9]), max_size=40).map(b"".join)


@given(STREAMS, st.data())
def test_every_byte_is_accounted_for(stream: bytes, data: st.DataObject) -> None:
    splitter = Splitter(b"\0", 8)
    found = []
    for piece in pieces(data, stream + b"\0"):
        found += splitter.feed(piece)
        assert len(splitter._buffer) <= 8
    assert found == Splitter(b"\0", 8).feed(stream + b"\0")
    sizes = [item.size if isinstance(item, Overflow) else len(item) for item in found]
    assert sum(sizes) == len(stream.replace(b"\0", b""))
    whole = [item for item in found if isinstance(item, bytes)]
    assert whole == [frame for frame in stream.split(b"\0") if len(frame) <= 8]
