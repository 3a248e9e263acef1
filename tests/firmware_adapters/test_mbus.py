"""M-Bus: telegrams of real meters, several telegrams in a row, silence, and damage."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_adapters import Event, PollingAdapter, Reading, SettingsError, create
from tests.firmware_adapters.captures import mbus_telegrams
from tests.firmware_adapters.damage import Damage, damages, pieces
from tests.firmware_adapters.noise import kept, kinds, readings

MOST_KEPT = 522
HEADER = bytes.fromhex("08 05 72 78563412 2423 28 04 2A 00 0000")
ENERGY = bytes.fromhex("04 03 15CD5B07")  # 123456789 Wh
VOLUME = bytes.fromhex("0C 13 78563412")  # 12345.678 m3, in BCD
FLOW = bytes.fromhex("0A 5A 4502")  # 24.5 C
MORE = bytes.fromhex("1F")


def make(*addresses: int, **settings: Any) -> PollingAdapter:
    meters = [{"name": f"m{n}", "address": n, "interval": 10} for n in addresses or (5,)]
    adapter = create("mbus", {"meter": meters, **settings})
    assert isinstance(adapter, PollingAdapter)
    adapter.reset()
    return adapter


def telegram(*records: bytes, header: bytes = HEADER) -> bytes:
    content = header + b"".join(records)
    size = len(content)
    return bytes((0x68, size, size, 0x68)) + content + bytes((sum(content) % 256, 0x16))


def asked(adapter: PollingAdapter, now: float = 0.0) -> bytes:
    """The next frame to a meter; time goes by as the adapter says."""
    for _ in range(20):
        turn = adapter.poll(now)
        assert turn.events == []
        if turn.send:
            return turn.send
        now = turn.wake
    raise AssertionError("nothing is asked")


def exchange(
    *answers: bytes, adapter: PollingAdapter | None = None, now: float = 0.0
) -> list[Reading | Event]:
    """Ask a meter that acknowledges its initialisation and then answers."""
    adapter = adapter or make()
    assert asked(adapter, now)[:2] == b"\x10\x40"
    items = adapter.receive(b"\xe5")
    for number, content in enumerate(answers):
        # Each request has the other frame count bit: that says that the last answer came.
        assert asked(adapter, now)[:2] == (b"\x10\x7b", b"\x10\x5b")[number % 2]
        items += adapter.receive(content)
    return items


def test_values_and_units() -> None:
    adapter = make()
    assert asked(adapter) == bytes.fromhex("10 40 05 45 16")
    adapter.receive(b"\xe5")
    assert asked(adapter) == bytes.fromhex("10 7B 05 80 16")
    assert adapter.receive(telegram(ENERGY, VOLUME, FLOW)) == [
        Reading("m5.energy_wh", 123456789.0, "Wh"),
        Reading("m5.volume", 12345.678, "m3"),
        Reading("m5.flow_temperature", 24.5, "C"),
    ]
    assert asked(adapter, 10.0) == bytes.fromhex("10 40 05 45 16")


def test_names_tell_what_else_a_record_says() -> None:
    items = exchange(
        telegram(
            bytes.fromhex("14 03 01000000"),  # the maximum
            bytes.fromhex("44 03 02000000"),  # stored
            bytes.fromhex("84 10 03 03000000"),  # of a tariff
            bytes.fromhex("84 40 03 04000000"),  # of a subunit
            ENERGY,
            ENERGY,
        )
    )
    assert [(reading.sensor, reading.value) for reading in readings(items)] == [
        ("m5.energy_wh.max", 1.0),
        ("m5.energy_wh.s1", 2.0),
        ("m5.energy_wh.t1", 3.0),
        ("m5.energy_wh.u1", 4.0),
        ("m5.energy_wh", 123456789.0),
        ("m5.energy_wh#2", 123456789.0),
    ]


def test_several_telegrams_in_a_row() -> None:
    items = exchange(telegram(ENERGY, MORE), telegram(ENERGY, MORE), telegram(VOLUME))
    assert [reading.sensor for reading in readings(items)] == [
        "m5.energy_wh",
        "m5.energy_wh#2",
        "m5.volume",
    ]


def test_a_meter_without_an_end_is_given_up() -> None:
    adapter = make()
    asked(adapter)
    adapter.receive(b"\xe5")
    now, requests = 0.0, 0
    while now < 9.5:
        turn = adapter.poll(now)
        now = turn.wake
        if turn.send:
            requests += 1
            now -= 2.999
            adapter.receive(telegram(ENERGY, MORE))
    assert 30 < requests < 40


@pytest.mark.parametrize("digits", ["EEEEEEEE", "000000A0", "0A000000"])
def test_digits_beyond_nine_are_no_value(digits: str) -> None:
    items = exchange(telegram(bytes.fromhex("0C 13") + bytes.fromhex(digits)))
    assert kinds(items) == ["no-value"]


def test_a_negative_number_and_dates() -> None:
    items = exchange(
        telegram(bytes.fromhex("0A 5A 45F2"), bytes.fromhex("02 6C 5F2C"), bytes.fromhex("02 5A"))
    )
    assert readings(items)[0].value == -24.5
    assert kinds(exchange(telegram(bytes.fromhex("02 6C 5F2C")))) == []


def test_telegrams_of_real_meters() -> None:
    found: dict[str, Any] = {}
    for content in mbus_telegrams():
        items = exchange(content, adapter=make(254))
        assert readings(items)
        assert set(kinds(items)) <= {"no-value"}
        found.update((reading.sensor, (reading.value, reading.unit)) for reading in readings(items))
    assert len(mbus_telegrams()) >= 5
    # Two climate sensors and a heat meter.
    assert found["m254.external_temperature.max"] == (23.39, "C")
    assert found["m254.relative_humidity"] == (53.1, "%")
    assert found["m254.volume"] in ((1369.443, "m3"), (0.0, "m3"))
    assert not [name for name in found if "password" in name]


def test_a_silent_meter_leaves_the_line_to_the_others() -> None:
    adapter = make(1, 2, timeout=0.5)
    now, answers, events = 0.0, 0, []
    while now < 300:
        turn = adapter.poll(now)
        events += turn.events
        now = turn.wake
        if turn.send[2:3] == b"\x02":
            now -= 0.4
            reply = (
                b"\xe5"
                if turn.send[1] == 0x40
                else telegram(ENERGY, header=b"\x08\x02" + HEADER[2:])
            )
            answers += len(adapter.receive(reply))
    assert answers >= 29
    assert {event.kind for event in events} == {"no-answer"}
    assert len(events) <= 6


def test_only_the_meter_that_was_asked_answers() -> None:
    adapter = make()
    assert kinds(adapter.receive(telegram(ENERGY))) == ["noise"]
    asked(adapter)
    assert adapter.receive(telegram(ENERGY)) == []  # before its initialisation was acknowledged
    adapter.receive(b"\xe5")
    asked(adapter)
    assert adapter.receive(telegram(ENERGY, header=b"\x08\x06" + HEADER[2:])) == []
    assert len(readings(adapter.receive(telegram(ENERGY)))) == 1


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (telegram(ENERGY)[:20], "cut-frame"),
        (telegram(ENERGY)[:-3] + b"\x00\x00\x16", "bad-crc"),
        (telegram(ENERGY)[:-1] + b"\x17", "cut-frame"),
    ],
)
def test_damage_is_told_apart(content: bytes, kind: str) -> None:
    adapter = make()
    assert exchange(content, adapter=adapter) == []
    assert [event.kind for event in adapter.poll(9.0).events] == [kind]


@pytest.mark.parametrize(
    "content",
    [
        telegram(header=bytes.fromhex("08 05 73 78563412 2423 28 04 2A 00 0000")),  # fixed data
        telegram(header=bytes.fromhex("08 05 51")),
        telegram(b"\x84" * 30),
        telegram(b"\x0d\xfd"),
        telegram(b"\x04\xfb"),
        telegram(b"\x04\x7f\x01\x02\x03\x04"),
    ],
)
def test_telegrams_that_say_nothing_known(content: bytes) -> None:
    items = exchange(content)
    assert set(kinds(items)) <= {"malformed", "no-value", "heartbeat"}


def test_a_flood_is_not_kept_and_the_answer_found_in_it() -> None:
    for flood, reply in ((b"\x10", b"\xe5"), (telegram(ENERGY)[:20], telegram(ENERGY))):
        adapter = make()
        asked(adapter)
        if flood != b"\x10":
            adapter.receive(b"\xe5")
            asked(adapter)
        for _ in range(100):
            assert adapter.receive(flood * 20) == []
            assert kept(adapter) <= MOST_KEPT
        assert len(readings(adapter.receive(reply))) == (flood != b"\x10")


@given(st.integers(0, 2**31 - 1), damages(), st.data())
def test_damage(number: int, damage: Damage, data: st.DataObject) -> None:
    sent = telegram(b"\x04\x03" + number.to_bytes(4, "little"), VOLUME)
    stream = damage(sent)
    # The check value is a sum: what counts is that it was it that was deceived.
    deceived = any(
        stream[at : at + 1] == b"\x68"
        and (frame := stream[at : at + stream[at + 1] + 6]) != sent
        and len(frame) > 6
        and sum(frame[4:-2]) % 256 == frame[-2]
        for at in range(len(stream) - 1)
    )
    adapter = make()
    items = exchange(adapter=adapter)
    asked(adapter)
    for piece in pieces(data, stream):
        items += adapter.receive(piece)
        assert kept(adapter) <= MOST_KEPT
    if not deceived:
        good = readings(exchange(sent))
        assert readings(items) in ([], good)


@given(st.binary(max_size=230), st.lists(st.binary(max_size=300), max_size=6))
def test_anything_may_arrive(records: bytes, noise: list[bytes]) -> None:
    exchange(telegram(records))
    adapter = make()
    now = 0.0
    for piece in noise:
        turn = adapter.poll(now)
        now = turn.wake
        items = [*turn.events, *adapter.receive(piece)]
        assert all(item.detail.isprintable() for item in items if isinstance(item, Event))
        assert kept(adapter) <= MOST_KEPT


@pytest.mark.parametrize(
    ("meters", "said"),
    [
        ([], r"\[\[device.settings.meter\]\] is missing"),
        ([{"name": "a", "address": 251}], "251 to 253"),
        ([{"name": "a", "address": 255}], "address"),
        ([{"name": "a", "address": 1}, {"name": "a", "address": 2}], "twice"),
        ([{"name": "a", "address": 1}, {"name": "b", "address": 1}], "twice"),
        ([{"name": "a", "address": 1, "interval": 0}], "interval"),
    ],
)
def test_settings_that_are_refused(meters: list[dict[str, Any]], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        create("mbus", {"meter": meters})


def test_it_takes_no_commands() -> None:
    with pytest.raises(ValueError, match="only read"):
        make().encode({"m5": 1})
