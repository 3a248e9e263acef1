"""Modbus RTU: requests, register types, refusals, silence, and damage."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_adapters import (
    Event,
    PollingAdapter,
    Reading,
    Report,
    SettableAdapter,
    SettingsError,
    create,
)
from tests.firmware_adapters.damage import Damage, damages, pieces
from tests.firmware_adapters.noise import kept, kinds, readings

REGISTERS: list[dict[str, Any]] = [
    {"name": "voltage", "address": 0, "scale": 0.1, "unit": "V"},
    {"name": "power", "address": 1, "type": "int32", "words": "low-first", "unit": "W"},
    {"name": "energy", "address": 3, "type": "float32", "unit": "kWh"},
    {"name": "level", "address": 40, "table": "input", "type": "int16", "offset": -40},
    {"name": "pump", "address": 7, "table": "coil"},
    {"name": "alarm", "address": 9, "table": "coil"},
]


def settings(**more: Any) -> dict[str, Any]:
    slaves = [{"address": 1, "name": "a", "map": "meter", "interval": 1}]
    return {"map": [{"name": "meter", "register": REGISTERS}], "slave": slaves, **more}


def one(**register: Any) -> dict[str, Any]:
    return settings(map=[{"name": "meter", "register": [{"name": "x", "address": 0, **register}]}])


def make(given_settings: dict[str, Any] | None = None) -> PollingAdapter:
    adapter = create("modbus-rtu", given_settings or settings())
    assert isinstance(adapter, PollingAdapter)
    adapter.reset()
    return adapter


def crc16(data: bytes) -> bytes:
    """CRC-16/MODBUS bit by bit from its definition, as it is sent."""
    crc = 0xFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0xA001 if crc & 1 else 0)
    return struct.pack("<H", crc)


def framed(content: bytes) -> bytes:
    return content + crc16(content)


def answer(slave: int, function: int, content: bytes) -> bytes:
    return framed(bytes((slave, function, len(content))) + content)


def ask(adapter: PollingAdapter, now: float = 0.0) -> bytes:
    """The next request; time goes by as the adapter says."""
    for _ in range(20):
        turn = adapter.poll(now)
        assert turn.events == []
        if turn.send:
            return turn.send
        now = turn.wake
    raise AssertionError("nothing is asked")


def exchange(adapter: PollingAdapter, answers: dict[bytes, bytes]) -> list[Reading | Event]:
    """Ask everything once; the answers are found by the requests."""
    items: list[Reading | Event] = []
    now = 0.0
    while answers:
        turn = adapter.poll(now)
        items += turn.events
        if turn.send:
            items += adapter.receive(answers.pop(turn.send))
            now += 0.01
        else:
            now = turn.wake
    return items


def test_requests_and_values() -> None:
    assert crc16(b"123456789") == b"\x37\x4b"  # the check value of CRC-16/MODBUS, 0x4B37
    words = struct.pack(">HHHf", 2351, 0x0001, 0xFFFF, 1234.5)
    items = exchange(
        make(),
        {
            framed(b"\x01\x01\x00\x07\x00\x01"): answer(1, 1, b"\x01"),
            framed(b"\x01\x01\x00\x09\x00\x01"): answer(1, 1, b"\x00"),
            framed(b"\x01\x03\x00\x00\x00\x05"): answer(1, 3, words),
            framed(b"\x01\x04\x00\x28\x00\x01"): answer(1, 4, struct.pack(">h", -3)),
        },
    )
    assert set(items) == {
        Reading("a.voltage", 235.1, "V"),
        Reading("a.power", 0xFFFF0001 - 2**32, "W"),
        Reading("a.energy", 1234.5, "kWh"),
        Reading("a.level", -43.0),
        Reading("a.pump", True),
        Reading("a.alarm", False),
    }


@pytest.mark.parametrize(
    ("kind", "words", "value"),
    [
        ("int16", "8000", -(2**15)),
        ("uint16", "8000", 2**15),
        ("int32", "80000001", 1 - 2**31),
        ("uint32", "80000001", 2**31 + 1),
        ("int64", "8000000000000000", -(2**63)),
        ("uint64", "7fffffffffffffff", 2**63 - 1),
        ("float32", "41aa6666", 21.3),
        ("float64", "40354ccccccccccd", 21.3),
    ],
)
def test_types(kind: str, words: str, value: float) -> None:
    content = bytes.fromhex(words)
    for order in ("high-first", "low-first"):
        adapter = make(one(type=kind, words=order))
        ask(adapter)
        assert adapter.receive(answer(1, 3, content)) == [Reading("a.x", value)]
        content = b"".join(content[at : at + 2] for at in range(len(content) - 2, -1, -2))


@pytest.mark.parametrize(
    ("kind", "words", "event"),
    [
        ("float32", "7fc00000", "no-value"),
        ("float32", "ff800000", "no-value"),
        ("uint64", "8000000000000000", "malformed"),
    ],
)
def test_what_is_no_number(kind: str, words: str, event: str) -> None:
    adapter = make(one(type=kind))
    ask(adapter)
    assert kinds(adapter.receive(answer(1, 3, bytes.fromhex(words)))) == [event]


def test_a_refusal_is_told_and_the_slave_is_asked_again() -> None:
    adapter = make(one(address=9))
    ask(adapter)
    assert adapter.receive(framed(b"\x01\x83\x02")) == [
        Event("refused", "slave 1: holding 9 to 9: illegal data address", sensors=("a.x",))
    ]
    assert ask(adapter, 1.0) == framed(b"\x01\x03\x00\x09\x00\x01")


def test_silence_of_one_slave_leaves_the_line_to_the_others() -> None:
    slaves = [{"address": n, "name": f"s{n}", "map": "meter", "interval": 1} for n in (1, 2)]
    adapter = make({**one(), "slave": slaves, "timeout": 0.2})
    now, answers, events = 0.0, 0, []
    while now < 60:
        turn = adapter.poll(now)
        events += turn.events
        now = turn.wake
        if turn.send[:1] == b"\x02":
            now -= 0.19
            answers += len(adapter.receive(answer(2, 3, b"\x00\x07")))
    assert answers >= 55
    assert {event.kind for event in events} == {"no-answer"}
    assert 4 <= len(events) <= 8
    assert events[0].detail == "slave 1 said nothing for 0.2 s"


def test_only_what_was_asked_for_is_an_answer() -> None:
    adapter = make(one())
    good = answer(1, 3, b"\x00\x07")
    assert kinds(adapter.receive(good)) == ["noise"]
    request = ask(adapter)
    assert adapter.receive(request) == []  # as it comes back from some RS-485 converters
    assert adapter.receive(answer(2, 3, b"\x00\x01")) == []
    assert adapter.receive(answer(1, 4, b"\x00\x02")) == []
    assert adapter.receive(answer(1, 3, b"\x00\x03\x00\x04")) == []
    assert adapter.receive(good) == [Reading("a.x", 7)]
    assert kinds(adapter.receive(good)) == ["noise"]


def test_damage_is_told_apart() -> None:
    for damaged, kind in ((b"\x01\x03\x02\x00\x07\x00\x00", "bad-crc"), (b"\x01\x03", "cut-frame")):
        adapter = make(one())
        ask(adapter)
        assert adapter.receive(damaged) == []
        assert [event.kind for event in adapter.poll(1.0).events] == [kind]
        assert ask(adapter, 1.1)
        assert adapter.receive(answer(1, 3, b"\x00\x07")) == [Reading("a.x", 7)]


def test_what_came_before_the_port_was_opened_anew_is_forgotten() -> None:
    adapter = make(one())
    ask(adapter)
    adapter.receive(answer(1, 3, b"\x00\x07")[:4])
    adapter.reset()
    ask(adapter)
    assert adapter.receive(answer(1, 3, b"\x00\x07")[4:]) == []


def test_a_flood_is_not_kept_and_the_answer_found_in_it() -> None:
    adapter = make(one())
    ask(adapter)
    for _ in range(100):
        assert adapter.receive(b"\x01\x03\x02\x00" * 50) == []
        assert kept(adapter) <= 512
    assert adapter.receive(answer(1, 3, b"\x00\x07")) == [Reading("a.x", 7)]


@given(st.lists(st.integers(0, 65535), min_size=5, max_size=5), damages(), st.data())
def test_damage(words: list[int], damage: Damage, data: st.DataObject) -> None:
    sent = answer(1, 3, struct.pack(">5H", *words))
    stream = damage(sent)
    # One damaged answer in 65,536 passes: what counts is that it was the CRC that was deceived.
    deceived = any(
        stream[at : at + 2] in (b"\x01\x03", b"\x01\x83")
        and crc16(stream[at : at + size - 2]) == stream[at + size - 2 : at + size]
        and stream[at : at + size] != sent
        for at in range(len(stream))
        for size in (5, len(sent))
    )
    register = {"name": "x", "address": 0}
    block = [{**register, "name": f"x{n}", "address": n} for n in range(5)]
    adapter = make(settings(map=[{"name": "meter", "register": block}]))
    ask(adapter)
    items: list[Reading | Event] = []
    for piece in pieces(data, stream):
        items += adapter.receive(piece)
        assert kept(adapter) <= 512
    if not deceived:
        assert [reading.value for reading in readings(items)] in ([], words)


@given(st.lists(st.binary(max_size=300), max_size=12))
def test_anything_may_arrive(noise: list[bytes]) -> None:
    adapter = make()
    now = 0.0
    for piece in noise:
        turn = adapter.poll(now)
        now = turn.wake
        items = [*turn.events, *adapter.receive(piece)]
        assert all(item.detail.isprintable() for item in items if isinstance(item, Event))
        assert kept(adapter) <= 512


def test_neighbours_are_read_together_as_far_as_an_answer_goes() -> None:
    block = [{"name": f"x{n}", "address": n, "type": "uint32"} for n in range(0, 300, 2)]
    adapter = make(settings(map=[{"name": "meter", "register": block}]))
    answers = {
        framed(struct.pack(">BBHH", 1, 3, first, count)): answer(1, 3, bytes(2 * count))
        for first, count in ((0, 124), (124, 124), (248, 52))
    }
    assert len(readings(exchange(adapter, answers))) == 150


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({}, "map"),
        (settings(slave=[]), r"\[\[device.settings.slave\]\] is missing"),
        (settings(slave=[{"address": 1, "name": "a", "map": "m"}]), "known are: meter"),
        (settings(slave=[{"address": 248, "name": "a", "map": "meter"}]), "address"),
        (settings(slave=[{"address": n, "name": "a", "map": "meter"} for n in (1, 2)]), "twice"),
        (settings(slave=[{"address": 1, "name": n, "map": "meter"} for n in "ab"]), "twice"),
        (settings(timeout=0), "timeout"),
        (settings(map=[{"name": "meter", "register": []}]), "map.register"),
        (settings(map=[{"name": "meter", "register": REGISTERS[:1] * 2}]), "used twice"),
        (one(address=65536), "address"),
        (one(address=65535, type="uint32"), "beyond address 65535"),
        (one(scale=0), "scale"),
        (one(scale=float("nan")), "finite"),
        (one(table="coil", type="int16"), "of no use"),
        (one(type="int17"), "type"),
    ],
)
def test_settings_that_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        create("modbus-rtu", wrong)


def test_it_takes_no_other_commands() -> None:
    with pytest.raises(ValueError, match="no commands but"):
        make().encode({"a.x": 1})


# --- writing ---------------------------------------------------------------------------


class Settable(PollingAdapter, SettableAdapter):
    """What the adapter is, for mypy."""


def settable(*registers: dict[str, Any]) -> Settable:
    maps = [{"name": "meter", "register": [{"writable": True, **each} for each in registers]}]
    adapter: Any = make(settings(map=maps))
    assert isinstance(adapter, SettableAdapter)
    return adapter


def reports(items: list[Reading | Event]) -> list[Report]:
    return [item.report for item in items if isinstance(item, Event) and item.report is not None]


SETPOINT = {"name": "setpoint", "address": 2, "type": "int16", "scale": 0.1, "min": 5, "max": 30}
READ = framed(b"\x01\x03\x00\x02\x00\x01")


def test_a_register_is_written_and_read_back_at_once() -> None:
    adapter = settable(SETPOINT)
    assert ask(adapter) == READ
    assert reports(adapter.receive(answer(1, 3, b"\x00\xd2"))) == [Report({"a.setpoint": 21.0})]
    assert adapter.command(7, {"a.setpoint": 22.5}) == b""
    # The next regular question is due in a second: both come before it.
    write = framed(b"\x01\x06\x00\x02\x00\xe1")
    adapter.poll(0.5)
    assert adapter.poll(0.6).send == write
    assert adapter.receive(write) == []
    adapter.poll(0.6)
    assert adapter.poll(0.7).send == READ
    items = adapter.receive(answer(1, 3, b"\x00\xe1"))
    assert items[0] == Reading("a.setpoint", 22.5)
    assert reports(items) == [Report({"a.setpoint": 22.5}, answers=7)]
    adapter.poll(0.7)
    assert adapter.poll(0.8).send == b""


def test_a_slave_that_writes_something_else_is_reported_as_it_is() -> None:
    adapter = settable(SETPOINT)
    adapter.command(7, {"a.setpoint": 22.5})
    adapter.receive(ask(adapter))
    assert ask(adapter) == READ
    assert reports(adapter.receive(answer(1, 3, b"\x00\xdc"))) == [
        Report({"a.setpoint": 22.0}, answers=7)
    ]


def test_a_slave_that_refuses_to_write() -> None:
    adapter = settable(SETPOINT)
    adapter.command(7, {"a.setpoint": 22.5})
    ask(adapter)
    assert reports(adapter.receive(framed(b"\x01\x86\x03"))) == [
        Report({}, {"a.setpoint": "illegal data value"}, 7)
    ]


def test_a_write_without_an_answer_is_given_up() -> None:
    adapter = settable(SETPOINT)
    adapter.command(7, {"a.setpoint": 22.5})
    assert adapter.poll(0.0).send == framed(b"\x01\x06\x00\x02\x00\xe1")
    turn = adapter.poll(1.0)
    assert [event.kind for event in turn.events] == ["no-answer"]
    assert ask(adapter, turn.wake) == READ


def test_the_last_of_two_commands_counts() -> None:
    adapter = settable(SETPOINT, {"name": "fan", "address": 9, "table": "coil"})
    adapter.command(7, {"a.setpoint": 22.5, "a.fan": True})
    adapter.command(8, {"a.setpoint": 20})
    sent = []
    for now in range(2):
        sent.append(adapter.poll(float(now)).send)
        adapter.receive(sent[-1])
        adapter.poll(float(now))
    assert sent == [
        framed(b"\x01\x05\x00\x09\xff\x00"),
        framed(b"\x01\x06\x00\x02\x00\xc8"),
    ]


@pytest.mark.parametrize("kind", ["int32", "uint32", "int64", "uint64", "float32", "float64"])
@pytest.mark.parametrize("order", ["high-first", "low-first"])
def test_what_is_written_to_several_registers_is_read_as_it_was(kind: str, order: str) -> None:
    adapter = settable({"name": "x", "address": 0, "type": kind, "words": order})
    adapter.command(1, {"a.x": 70_000})
    request = ask(adapter)
    assert request[:2] == b"\x01\x10"
    assert adapter.receive(framed(request[:6])) == []
    ask(adapter)
    assert reports(adapter.receive(answer(1, 3, request[7:-2]))) == [
        Report({"a.x": 70_000}, answers=1)
    ]


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("a.setpoint", 4.9, "from 5 up to 30"),
        ("a.setpoint", 30.1, "from 5 up to 30"),
        ("a.setpoint", True, "a number"),
        ("a.setpoint", "warm", "a number"),
        ("a.level", 70_000, "beyond what uint16 can hold"),
        ("a.level", -1, "beyond what uint16 can hold"),
        ("a.fan", 1, "true or false"),
        ("a.fixed", 1, "no register of this name"),
        ("b.setpoint", 1, "no register of this name"),
    ],
)
def test_values_that_are_not_written(name: str, value: Any, reason: str) -> None:
    adapter = settable(
        SETPOINT,
        {"name": "level", "address": 5},
        {"name": "fan", "address": 9, "table": "coil"},
        {"name": "fixed", "address": 6, "writable": False},
    )
    for attempt in (adapter.check, lambda settings: adapter.command(1, settings)):
        with pytest.raises(ValueError, match=reason):
            attempt({name: value})


@pytest.mark.parametrize(
    ("register", "reason"),
    [
        ({"table": "input", "writable": True}, "read only"),
        ({"min": 5}, "writable = true"),
        ({"table": "coil", "writable": True, "max": 5}, "in the table holding"),
        ({"writable": True, "max": float("nan")}, "finite"),
    ],
)
def test_registers_that_cannot_be_written(register: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        make(one(**register))


@given(st.integers(-(2**15), 2**15 - 1), st.sampled_from([1, 0.1, 0.01, -2.5]))
def test_a_value_that_was_read_can_be_written_back(raw: int, scale: float) -> None:
    adapter = settable({"name": "x", "address": 0, "type": "int16", "scale": scale})
    ask(adapter)
    words = struct.pack(">h", raw)
    [report] = reports(adapter.receive(answer(1, 3, words)))
    adapter.poll(0.0)
    adapter.command(1, dict(report.settings))
    assert adapter.poll(0.1).send == framed(b"\x01\x06\x00\x00" + words)
