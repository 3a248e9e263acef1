"""VE.Direct: blocks of real devices, units, HEX messages in between, and damage."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_adapters import Adapter, Event, Reading, SettingsError, create
from firmware_adapters.ve_direct import MAX_BLOCK
from tests.firmware_adapters.captures import ve_direct_blocks
from tests.firmware_adapters.damage import Damage, damages
from tests.firmware_adapters.noise import kinds, readings, survive

FIELDS = {"PID": "0xA05F", "V": "12810", "I": "-10", "SOC": "839", "LOAD": "ON", "ERR": "0"}


def make() -> Adapter:
    return create("ve-direct")


def block(fields: dict[Any, Any]) -> bytes:
    """A block with the check value that makes its sum 0."""
    pairs = [
        tuple(part if isinstance(part, bytes) else part.encode() for part in pair)
        for pair in fields.items()
    ]
    content = b"".join(b"\r\n%s\t%s" % pair for pair in pairs) + b"\r\nChecksum\t"
    return content + bytes([-sum(content) % 256])


def test_values_and_units() -> None:
    assert make().receive(block(FIELDS)) == [
        Reading("V", 12.81, "V"),
        Reading("I", -0.01, "A"),
        Reading("SOC", 83.9, "%"),
        Reading("LOAD", True),
        Reading("ERR", 0),
    ]


def test_what_is_not_measured_has_no_value() -> None:
    items = make().receive(block({"V": "12810", "T": "---"}))
    assert kinds(items) == ["no-value"]


def test_every_check_value_ends_its_block() -> None:
    adapter = make()
    for number in range(10_000, 10_512):
        assert readings(adapter.receive(block({"VPV": str(number)}))) == [
            Reading("VPV", number / 1000, "V")
        ]


def test_hex_messages_in_between_do_not_count() -> None:
    content = block(FIELDS)
    message = b":A0102000543\n"
    assert make().receive(message + content) == make().receive(content)
    inside = content.replace(b"\r\nI", message + b"\r\nI")
    assert make().receive(inside) == make().receive(content)


def test_blocks_of_real_devices() -> None:
    """With the line ends and check values that the protocol asks for."""
    adapter = make()
    for fields in ve_direct_blocks():
        items = adapter.receive(block(fields))
        assert set(kinds(items)) <= {"no-value"}
        found = {reading.sensor: reading.value for reading in readings(items)}
        assert found.keys() <= {label.decode() for label in fields}
        if b"V" in fields:
            assert found["V"] == int(fields[b"V"]) / 1000
        if b"H19" in fields:
            assert found["H19"] == int(fields[b"H19"]) / 100
    assert len(ve_direct_blocks()) > 100


def test_the_first_block_after_opening_may_be_cut() -> None:
    adapter = make()
    for _ in range(2):
        assert kinds(adapter.receive(block(FIELDS)[7:])) == ["cut-frame"]
        assert len(readings(adapter.receive(block(FIELDS)))) == 5
        adapter.receive(block(FIELDS)[:20])
        adapter.reset()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (block(FIELDS).replace(b"12810", b"12811"), "bad-crc"),
        (block({"": "1"}), "malformed"),
        (block({"V": ""}), "malformed"),
        (block({"V": "1\xff"}), "malformed"),
        (block({"V": "1\r\nV\t2"}), "malformed"),
        (b"x" * MAX_BLOCK, "too-long"),
    ],
)
def test_damaged_blocks(content: bytes, kind: str) -> None:
    adapter = make()
    adapter.receive(block(FIELDS))
    items = adapter.receive(content)
    assert (kinds(items), readings(items)) == ([kind], [])


def test_an_empty_block_is_a_heartbeat() -> None:
    assert make().receive(block({})) == [Event("heartbeat", "a frame without readings")]


BLOCKS = st.fixed_dictionaries(
    {"V": st.integers(0, 99_999).map(str), "I": st.integers(-9999, 9999).map(str)},
    optional={"Relay": st.sampled_from(["ON", "OFF"]), "MODEL": st.just("SmartSolar")},
)


@given(st.lists(BLOCKS, min_size=1, max_size=5), damages(), st.data())
def test_damage(blocks: list[dict[str, str]], damage: Damage, data: st.DataObject) -> None:
    sent = [block(fields) for fields in blocks]
    stream = damage(b"".join(sent))
    items = survive(make, stream, data, MAX_BLOCK)
    # The check value is a sum: what counts is that it was it that was deceived.
    found = []
    rest = stream
    while (end := rest.find(b"\r\nChecksum\t") + 12) > 11 and len(rest) >= end:
        found.append(rest[:end])
        rest = rest[end:]
    if not any(sum(one) % 256 == 0 and one not in sent for one in found):
        good = [reading for one in sent for reading in readings(make().receive(one))]
        assert all(reading in good for reading in readings(items))


@given(st.binary(max_size=3000), st.data())
def test_anything_may_arrive(noise: bytes, data: st.DataObject) -> None:
    content = noise + b"\r\nChecksum\t"
    survive(make, content + bytes([-sum(content) % 256]), data, MAX_BLOCK)


def test_settings_and_commands() -> None:
    with pytest.raises(SettingsError, match="takes none"):
        create("ve-direct", {"version": 1})
    with pytest.raises(ValueError, match="no commands"):
        make().encode({"rate": 1})
