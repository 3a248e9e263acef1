"""What crosses the broker: everything comes back as it was, and rubbish is refused in words."""

from __future__ import annotations

import contextlib
import hashlib
import zlib
from typing import Any

import cbor2
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.documents.attachment import Absent, Attachment, Inline, inline
from agent.documents.revision import Revision
from agent.errors import (
    AuthError,
    ConflictError,
    ConnectError,
    DocumentError,
    EdgeAgentError,
    MissingStubError,
    NotFoundError,
    PermanentError,
    RemoteBusyError,
    RemoteError,
    RemoteMissingError,
    StoreWriteError,
    TooLargeError,
)
from agent.peers.mqtt_calls import (
    Answer,
    Fetch,
    Store,
    page_from_wire,
    page_to_wire,
    refusals_to_wire,
    request_from,
    results_from_wire,
)
from agent.peers.mqtt_errors import from_fault, to_fault
from agent.peers.mqtt_revisions import (
    found_from_wire,
    found_to_wire,
    revision_from_wire,
    revision_to_wire,
)
from agent.peers.mqtt_wire import (
    MAX_MESSAGE,
    Assembly,
    Failed,
    Fault,
    Message,
    Packet,
    Part,
    Source,
    VersionError,
    Want,
    WireError,
    convert,
    decode_cbor,
    decode_packet,
    encode_packet,
    first_part,
    later_part,
    pack,
    unpack,
)
from agent.peers.peer import Change, ChangeBatch, WriteResult

unhurried = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
sizes = st.integers(0, 2**53)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=8,
)
bodies = st.dictionaries(text.filter(lambda name: not name.startswith("_")), json_values)
hashes = st.text("0123456789abcdef", min_size=32, max_size=32) | st.text("xyz-", min_size=1)
names = text.filter(lambda name: name and not name.startswith("_"))


@st.composite
def attachments(draw: st.DrawFn) -> Attachment:
    data = draw(st.binary(max_size=50))
    whole = inline(draw(names), "text/plain", data, revpos=draw(st.integers(0, 9)))
    return whole if draw(st.booleans()) else replace(whole, content=Absent.STUB)


@st.composite
def revisions(draw: st.DrawFn) -> Revision:
    path = tuple(draw(st.lists(hashes, min_size=1, max_size=4)))
    return Revision(
        draw(text.filter(lambda id: id and not id.startswith("_"))),
        len(path) + draw(st.integers(0, 3)),
        path,
        draw(st.booleans()),
        msgspec.json.encode(draw(bodies)).decode(),
        tuple(draw(st.lists(attachments(), max_size=2))),
    )


senders = st.text("0123456789abcdef", max_size=8)
packets = (
    st.builds(Message, senders, sizes, st.none() | st.binary(), st.binary())
    | st.builds(Part, senders, sizes, st.binary(), st.booleans())
    | st.builds(Want, senders, st.none() | st.builds(Source, sizes, text), sizes)
    | st.builds(
        Failed,
        senders,
        st.builds(Fault, text, text, st.none() | st.floats(0, 100), st.none() | text),
    )
)

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=5) | st.dictionaries(st.text() | st.integers(), inner, max_size=5)
    ),
    max_leaves=20,
)


@unhurried
@given(packets)
def test_packets_come_back(packet: Packet) -> None:
    assert decode_packet(encode_packet(packet)) == packet


@unhurried
@given(st.lists(revisions(), max_size=5))
def test_revisions_come_back(given_revisions: list[Revision]) -> None:
    request = Store([revision_to_wire(revision) for revision in given_revisions])
    back = request_from(unpack(pack(request)))
    assert isinstance(back, Store)
    assert [revision_from_wire(item) for item in back.revisions] == given_revisions


@unhurried
@given(st.lists(revisions(), max_size=3), st.lists(st.builds(WriteResult, text, text, text, text)))
def test_what_was_found_comes_back(found: list[Revision], refused: list[WriteResult]) -> None:
    answer = Answer(found_to_wire([*found, *refused]))
    back = convert(unpack(pack(answer)), Answer)
    assert found_from_wire(back.ok) == [*found, *refused]


@unhurried
@given(st.lists(st.tuples(revisions(), st.none() | text, st.none() | text), max_size=4))
def test_results_come_back(given_results: list[tuple[Revision, str | None, str | None]]) -> None:
    results = [
        WriteResult(revision.id, str(revision.rev), error, reason if error is not None else None)
        for revision, error, reason in given_results
    ]
    back = unpack(pack(refusals_to_wire(results)))
    sent = [revision for revision, *_ in given_results]
    assert results_from_wire(back, sent) == results
    with pytest.raises(WireError):
        results_from_wire([[len(sent), "forbidden", None]], sent)


@unhurried
@given(
    st.lists(st.builds(Change, json_values, text, st.lists(text).map(tuple), st.booleans())),
    json_values,
    st.none() | sizes,
)
def test_pages_come_back(changes: list[Change], last_seq: Any, pending: int | None) -> None:
    batch = ChangeBatch(tuple(changes), last_seq, pending)
    assert page_from_wire(unpack(pack(page_to_wire(batch)))) == batch


@unhurried
@given(st.binary(min_size=1, max_size=2000), st.integers(1, 300))
def test_a_message_in_parts_is_put_together(data: bytes, room: int) -> None:
    assembly = Assembly(first_part(data, "r", room))
    while not assembly.complete:
        part = later_part(data, "r", assembly.offset, room)
        assembly.add(part)
        assembly.add(part)  # a second time, as the broker may deliver it
    assert assembly.message() == data


@unhurried
@given(st.binary(max_size=200))
def test_rubbish_is_refused(payload: bytes) -> None:
    for read in (decode_packet, unpack, decode_cbor):
        with contextlib.suppress(WireError):
            read(payload)
    with contextlib.suppress(WireError):
        unpack(b"\1" + zlib.compress(payload))


@unhurried
@given(values)
def test_well_formed_rubbish_is_refused(value: Any) -> None:
    payload = cbor2.dumps(value)
    with contextlib.suppress(WireError):
        decode_packet(payload)
    for read in (
        request_from,
        revision_from_wire,
        found_from_wire,
        page_from_wire,
        lambda value: convert(value, Answer),
    ):
        with contextlib.suppress(WireError):
            read(value)


@unhurried
@given(st.data())
def test_damaged_packets_are_refused(data: st.DataObject) -> None:
    payload = bytearray(encode_packet(data.draw(packets)))
    place = data.draw(st.integers(0, len(payload) - 1))
    payload[place] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(WireError):
        decode_packet(bytes(payload))


def test_another_version_is_refused_in_clear_words() -> None:
    with pytest.raises(VersionError, match=r"version 2 .* version 1 is; use the same version"):
        decode_packet(cbor2.dumps([2, {"anything": "else"}]))


@pytest.mark.parametrize(
    "payload",
    [
        b"\xc0\x60",  # a tag
        b"\x9f\xff",  # of indefinite length
        b"\x81" * 40 + b"\x00",  # deep
        b"\x9b" + b"\xff" * 8,  # an array of 2**64 items
        b"\x5b" + b"\xff" * 8,  # a string of as many bytes
        b"\x00\x00",  # two items
        b"\x61\xff",  # no UTF-8
        b"\xa1\x80\x00\x00",
        b"",
    ],
)
def test_cbor_that_is_not_used_here(payload: bytes) -> None:
    with pytest.raises(WireError):
        decode_cbor(payload)


def test_decompression_is_bounded() -> None:
    bomb = b"\1" + zlib.compress(b"\0" * (MAX_MESSAGE + 1000), 9)
    assert len(bomb) < 20_000
    with pytest.raises(WireError, match="more than"):
        unpack(bomb)
    with pytest.raises(TooLargeError):
        pack(b"\0" * (MAX_MESSAGE + 1))


@pytest.mark.parametrize("item", [b"\x00", b"\x60", b"\x80", b"\xa0"])
def test_items_are_bounded(item: bytes) -> None:
    """A few bytes on the wire must not become a gigabyte of empty lists."""
    count = MAX_MESSAGE - 10
    bomb = b"\1" + zlib.compress(b"\x9a" + count.to_bytes(4, "big") + item * count, 9)
    assert len(bomb) < 20_000
    with pytest.raises(TooLargeError, match="too many items"):
        unpack(bomb)
    with pytest.raises(WireError, match="too many items"):
        decode_packet(cbor2.dumps([1, 0, *[""] * 100]))
    # What a message of nothing but revisions may have.
    revs = [f"{number:034}" for number in range(MAX_MESSAGE // 36)]
    assert unpack(pack(revs)) == revs


@pytest.mark.parametrize(
    ("packet", "why"),
    [
        (Message("r", 2**40, b"", b"x"), "more than"),
        (Message("r", 1, None, b"xy"), "longer"),
        (Message("r", 2, None, b"x"), "without a digest"),
        (Message("r", 1, b"\0" * 32, b"x"), "damaged"),
    ],
)
def test_messages_that_cannot_be(packet: Message, why: str) -> None:
    with pytest.raises(WireError, match=why):
        Assembly(packet)


def test_a_damaged_part_is_noticed() -> None:
    data = bytes(range(200))
    assembly = Assembly(first_part(data, "r", 100))
    with pytest.raises(WireError, match="damaged"):
        assembly.add(Part("r", 100, data[:100], True))


@pytest.mark.parametrize(
    ("revision", "error"),
    [
        (["", 1, ["a"], False, "{}"], "illegal_docid"),
        (["_x", 1, ["a"], False, "{}"], "illegal_docid"),
        (["x", 1, ["a"], False, '{"_odd":1}'], "doc_validation"),
        (["x", 1, ["a"], False, '{"_id":"y"}'], "doc_validation"),
        (["x", 1, ["a"], False, "[]"], "bad_request"),
        (["x", 1, ["a"], False, "[" * 100_000], "bad_request"),
        (["x", 1, ["a"], False, '{"a":' + "[" * 600 + "]" * 600 + "}"], "bad_request"),
        (["x", 1, ["a", "b"], False, "{}"], "bad_request"),
        (["x", 0, [], False, "{}"], "bad_request"),
        (["x", 10**15, ["a"], False, "{}"], "bad_request"),
        (["x", 1, ["a"], False, "{}", [["_a", "t/p", 1, "", 1]]], "bad_request"),
        (["x", 1, ["a"], False, "{}", [["a", "t/p\n", 1, "", 1]]], "bad_request"),
        (["x", 1, ["a"], False, "{}", [["a", "t/p", 1, "", 1, "zip"]]], "bad_request"),
        (["x", 1, ["a"], False, "{}", [["a", "t/p", 1, "md5-x", 1, None, None, b"a"]]], "bad_re"),
        (["x", 1, ["a"], False, "{}", [["a", "t/p", 1, "", 2, None, None, b"a"]]], "bad_request"),
    ],
)
def test_documents_that_may_not_be_stored(revision: list[Any], error: str) -> None:
    refused = revision_from_wire(revision)
    assert isinstance(refused, WriteResult)
    assert refused.id == revision[0]
    assert refused.error is not None
    assert refused.error.startswith(error)


def test_content_that_comes_along_gets_its_digest() -> None:
    revision = revision_from_wire(
        ["x", 1, ["a"], False, "{}", [["a", "t/p", 0, "", 1, None, None, b"a"]]]
    )
    assert isinstance(revision, Revision)
    assert revision.attachments == (inline("a", "t/p", b"a"),)
    assert revision.attachments[0].content == Inline(b"a")


@pytest.mark.parametrize(
    ("error", "other"),
    [
        (NotFoundError("x"), NotFoundError),
        (NotFoundError("x", reason="Database does not exist."), RemoteMissingError),
        (RemoteMissingError("x"), RemoteMissingError),
        (ConflictError("x"), ConflictError),
        (MissingStubError("x"), MissingStubError),
        (TooLargeError("x"), TooLargeError),
        (DocumentError("x"), DocumentError),
        (AuthError("x"), AuthError),
        (StoreWriteError("x"), RemoteBusyError),
        (ConnectError("x", retry_after=3.0), RemoteBusyError),
        (WireError("x"), RemoteError),
        (PermanentError("x"), RemoteError),
    ],
)
def test_errors_cross(error: EdgeAgentError, other: type[EdgeAgentError]) -> None:
    packet = decode_packet(encode_packet(Failed("r", to_fault(error))))
    assert isinstance(packet, Failed)
    arrived = from_fault("mqtt://host/db", packet.fault)
    assert type(arrived) is other
    assert str(arrived) == "mqtt://host/db: x"
    assert getattr(arrived, "retry_after", None) == getattr(error, "retry_after", None)


def test_small_batches_are_small() -> None:
    """A reading costs less on the wire than its own text."""
    found = [
        Revision(
            f"greenhouse:temperature:2026-01-01T00:00:{n:02}Z:{n}",
            1,
            (hashlib.md5(str(n).encode()).hexdigest(),),
            False,
            f'{{"type":"reading","device":"greenhouse","sensor":"temperature","value":{n / 7}}}',
        )
        for n in range(60)
    ]
    size = len(pack(Answer(found_to_wire(found))))
    assert size < sum(len(item.id) + len(item.body) for item in found) / 1.5


def test_a_request_for_nothing_known() -> None:
    with pytest.raises(WireError, match="call"):
        request_from({"call": "drop_everything"})
    assert request_from({"call": "fetch", "wanted": [["a", ["1-x"]]], "later": 1}) == Fetch(
        [("a", ["1-x"])]
    )
