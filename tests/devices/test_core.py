"""The C core of the reference firmware against the agent's adapter and its account of numbers."""

from __future__ import annotations

import random
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cbor2
import hypothesis
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from agent.sensors.sequence import SequenceState
from firmware_adapters import CborFrames, Reading
from firmware_adapters.adapter import Held, Value
from firmware_adapters.cbor_subset import check_subset
from firmware_adapters.fields import MalformedError
from tests.devices.building import HELD, core_on_this_machine
from tests.devices.core import NO_VALUE, Core
from tests.firmware_adapters.frames import crc16, frame, frame_bytes

UNSIGNED = st.integers(0, 2**32 - 1)
VALUES = st.tuples(*[st.integers(-(2**31), 2**31 - 1) | st.just(NO_VALUE)] * 3)


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return core_on_this_machine(tmp_path_factory.mktemp("core"))


@pytest.fixture
def core(program: Path) -> Iterator[Core]:
    with Core(program) as core:
        core.start()
        yield core


@pytest.fixture(scope="module")
def long_lived(program: Path) -> Iterator[Core]:
    """For hypothesis: each example starts it anew."""
    with Core(program) as core:
        yield core


def sent(core: Core) -> list[Any]:
    """All that it has to send now."""
    return list(iter(core.message, None))


def ack(*numbers: int) -> bytes:
    return CborFrames().encode({"ack": list(numbers)})


@hypothesis.settings(deadline=None)
@example(board=0, boot=0, uptime=2**32 - 1, age=1, values=(0, 0, 0))
@given(
    board=st.integers(0, 2**21 - 1),
    boot=UNSIGNED,
    uptime=st.integers(0, 2**35),
    age=st.integers(0, 2**31),
    values=VALUES,
)
def test_the_adapter_reads_what_the_core_writes(
    long_lived: Core, board: int, boot: int, uptime: int, age: int, values: tuple[int, ...]
) -> None:
    core, adapter = long_lived, CborFrames()
    core.time(0)
    core.start(board, boot)
    for passing in [*range(2**31, uptime, 2**31), uptime]:  # it has to see its clock go round
        core.time(passing)
        core.due()
    core.measured(values)
    core.time(uptime + age)
    shared: Any = {"sequence": 0, "boot": board << 32 | boot, "held": Held(0)}
    shared |= {"uptime_ms": uptime, "age_ms": age}
    units = {"level": "mm", "flow": "l/min", "pump": None}
    items = [item for item in adapter.receive(b"\0" + core.frame()) if isinstance(item, Reading)]
    assert items == [
        Reading(sensor, value, unit, **shared)
        for (sensor, unit), value in zip(units.items(), values, strict=True)
        if value != NO_VALUE
    ]


def test_readings_are_due_in_a_rhythm(core: Core) -> None:
    def due(now_ms: int) -> bool:
        core.time(now_ms)
        if core.due()[0]:
            core.measured((1, 2, 3))
            return True
        return False

    assert [now for now in range(0, 5000, 3) if due(now)] == [0, 1002, 2001, 3000, 4002]
    # After a long pause it begins a new one.
    assert [now for now in range(10_100, 12_200, 50) if due(now)] == [10_100, 11_100, 12_100]


def test_commands_are_obeyed_and_answered(core: Core) -> None:
    core.receive(b"\x03\x11\x13 noise before the first command")
    core.receive(CborFrames().encode({"interval_ms": 20}))
    assert core.due() == (True, 20)
    assert core.message() == {"b": 1, "t": 0, "l": "interval_ms is now 20"}
    refused = {"interval_ms": 5, "paint": ["it", {"black": 1.5}], "naïve\n" * 5: None}
    core.receive(CborFrames().encode(refused))
    answer = core.message()
    assert answer is not None
    assert answer["l"] == "refused: interval_ms; refused: paint; refused: na??ve?na??ve?na"
    assert core.due()[1] == 20


@pytest.mark.parametrize("value", [9, 86_400_001, 2**32 + 20, -20, 20.0, "20", True, None, [20]])
def test_intervals_that_are_refused(core: Core, value: object) -> None:
    core.receive(CborFrames().encode({"interval_ms": value, "x": 1}))
    assert core.due()[1] == 1000
    answer = core.message()
    assert answer is not None
    assert answer["l"] == "refused: interval_ms; refused: x"


def test_settings_are_taken_and_reported(core: Core) -> None:
    core.receive(CborFrames().command(2**32 - 1, {"interval_ms": 20, "colour": "red"}))
    assert core.due()[1] == 20
    report = {"b": 1, "t": 0, "n": 2**32 - 1, "s": {"interval_ms": 20}}
    assert core.message() == report
    assert core.message() is None
    core.receive(CborFrames().command(7, {}))
    assert core.message() == {**report, "n": 7}
    core.receive(CborFrames().encode({"set": {}}))
    assert core.message() == {"b": 1, "t": 0, "s": {"interval_ms": 20}}


@pytest.mark.parametrize("value", [9, 86_400_001, 2**32 + 20, -20, 20.5, "20", True])
def test_settings_that_are_refused(core: Core, value: Value) -> None:
    core.receive(CborFrames().command(7, {"interval_ms": value}))
    report = {"b": 1, "t": 0, "n": 7, "s": {"interval_ms": 1000}}
    assert core.message() == {**report, "e": {"interval_ms": "10 to 86400000"}}
    core.receive(CborFrames().command(8, {"interval_ms": 20}))
    assert core.message() == {**report, "n": 8, "s": {"interval_ms": 20}}


@pytest.mark.parametrize("command", [{"n": "7", "set": [1]}, {"n": -1, "set": 3}, {"n": 2**32}])
def test_commands_to_set_that_are_malformed(core: Core, command: dict[str, Any]) -> None:
    core.receive(CborFrames().encode(command))
    answer = core.message()
    assert answer is not None
    assert answer["l"] == "; ".join(f"refused: {name}" for name in command)
    assert core.message() is None


@pytest.mark.parametrize(
    "value", [None, 1, [], [1], [1, 2, 3], [1, -1], [1, "x"], [1, 2**32], [1, 0, 1, None], [[], 0]]
)
def test_acknowledgements_that_are_refused(core: Core, value: object) -> None:
    core.measured((1, 2, 3))
    core.receive(CborFrames().encode({"ack": value}))
    core.measured((1, 2, 3))
    answer, *readings = sent(core)
    assert answer["l"] == "refused: ack"
    assert [reading["a"] for reading in readings] == [0, 0]


def test_what_is_acknowledged_is_let_go(core: Core) -> None:
    for number in range(5):
        core.measured((number, 0, 0))
    assert [message["q"] for message in sent(core)] == [0, 1, 2, 3, 4]
    core.receive(ack(2, 4) + ack(1, 2) + ack(1, 1) + ack(1, 7))  # one is good, others are not ours
    core.measured((5, 0, 0))
    assert [(message["q"], message["a"]) for message in sent(core)] == [(5, 3)]


def test_what_is_missing_is_sent_again_once(core: Core) -> None:
    for number in range(6):
        core.measured((number, 0, 0))
    sent(core)
    core.time(1000)
    core.receive(ack(1, 1, 2, 4))
    core.receive(ack(1, 1, 2, 4))  # it is being sent
    core.measured((6, 0, 0))
    assert [message["q"] for message in sent(core)] == [6, 2, 3, 4]
    core.receive(ack(1, 2, 3, 4))  # it may still be on its way
    assert sent(core) == []
    core.time(1600)
    core.receive(ack(1, 2, 3, 4_000_000))
    assert [message["q"] for message in sent(core)] == [3, 4, 5, 6]
    core.time(3000)
    core.receive(ack(1, 2, 100, 200))  # there is no such thing
    assert sent(core) == []


def test_what_is_let_go_meanwhile_is_not_sent_again(core: Core) -> None:
    for number in range(5):
        core.measured((number, 0, 0))
    sent(core)
    core.time(1000)
    core.receive(ack(1, 2**32 - 1, 0, 4) + ack(1, 2))
    assert [message["q"] for message in sent(core)] == [3, 4]
    core.time(2000)
    core.receive(ack(1, 2, 3, 4) + ack(1, 4))
    assert sent(core) == []


def test_without_an_answer_the_oldest_is_sent_ever_more_seldom(core: Core) -> None:
    core.measured((1, 2, 3))
    core.measured((1, 2, 3))
    moments = []
    for now in range(0, 300_000, 100):
        core.time(now)
        moments += [(now // 1000, message["q"]) for message in sent(core)]
    again = [(at, 0) for at in (2, 6, 14, 30, 62, 122, 182, 242)]
    assert moments == [(0, 0), (0, 1), *again]
    core.receive(ack(1, 2**32 - 1))  # nothing is new to the gateway, but it is there
    core.time(303_000)
    assert [message["q"] for message in sent(core)] == [0]


def test_a_full_ring_drops_the_oldest_and_says_so(core: Core) -> None:
    for number in range(HELD + 3):
        core.measured((number, 0, 0))
    messages = sent(core)
    assert [message["q"] for message in messages] == list(range(3, HELD + 3))
    assert {(message["a"], message["d"]) for message in messages} == {(3, 3)}
    assert [message["r"]["level"] for message in messages] == list(range(3, HELD + 3))


def test_a_frame_that_does_not_fit_is_told(tmp_path: Path) -> None:
    with Core(core_on_this_machine(tmp_path, frame=64)) as core:
        core.start()
        core.measured((1, 2, 3))
        (message,) = sent(core)
        assert message["l"] == "NODE_FRAME is too small"


@pytest.mark.parametrize("size", [252, 253, 254, 255])
def test_the_longest_commands(core: Core, size: int) -> None:
    """COBS has a case of its own for 254 bytes without a zero."""
    empty = cbor2.dumps({"interval_ms": 4660, "x": "x" * 200})
    payload = cbor2.dumps({"interval_ms": 4660, "x": "x" * (200 + size - len(empty))})
    assert len(payload) == size
    core.receive(b"\0" + frame_bytes(payload))
    assert core.due()[1] == (1000 if size > 254 else 4660)


def test_damaged_commands_do_nothing(core: Core) -> None:
    good = CborFrames().encode({"interval_ms": 20})
    for at in range(1, len(good) - 1):
        for bit in range(8):
            damaged = bytearray(good)
            damaged[at] ^= 1 << bit
            core.receive(bytes(damaged))
    core.receive(b"\0" + b"\x02" * 1000 + b"\0")
    assert core.due()[1] == 1000
    core.receive(good)
    assert core.due()[1] == 20


@hypothesis.settings(deadline=None)
@given(st.lists(st.binary(max_size=300) | st.binary(max_size=60).map(frame_bytes), max_size=8))
def test_any_bytes_are_survived(long_lived: Core, pieces: list[bytes]) -> None:
    long_lived.start()
    for piece in pieces:
        long_lived.receive(piece)
    sent(long_lived)


@hypothesis.settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(["ack", "interval_ms", "set", "n", "x"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
            lambda inner: (
                st.lists(inner)
                | st.dictionaries(
                    st.just("interval_ms") | st.text(max_size=3) | st.integers(), inner
                )
            ),
            max_leaves=20,
        ),
    )
)
def test_any_cbor_is_survived(long_lived: Core, message: dict[str, Any]) -> None:
    long_lived.start()
    long_lived.receive(b"\0" + frame(message))
    sent(long_lived)


CBOR = st.dictionaries(
    st.text(max_size=3), st.integers() | st.text() | st.lists(st.floats() | st.none())
).flatmap(lambda message: st.integers(0, 12).map(lambda cut: cbor2.dumps(message)[: -cut or None]))


@hypothesis.settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40) | CBOR)
def test_the_reader_takes_what_the_adapter_takes(long_lived: Core, payload: bytes) -> None:
    try:
        check_subset(payload)
        good = payload[0] >> 5 == 5
    except MalformedError as error:
        good = False
        assume("deep" not in str(error) and "items" not in str(error))  # bounds of its own
    assert long_lived.is_map(payload) == good


def test_much_noise_is_survived(core: Core) -> None:
    """Frames whose CRC holds, with contents made of what CBOR is made of; always the same."""
    rng = random.Random(1)
    heads = bytes(range(0x60, 0x78)) + b"\x00\x18\x19\x1a\x1b\x80\x82\x84\x98\x9b\xa1\xb8\xbb\xf6"
    for _ in range(20_000):
        size = rng.randrange(1, 40)
        body = b"\xa1\x63ack" if rng.random() < 0.3 else b""
        body += bytes(
            rng.choice(heads) if rng.random() < 0.7 else rng.randrange(256) for _ in range(size)
        )
        core.receive(b"\0" + frame_bytes(body))
    core.receive(rng.randbytes(200_000) + b"\0")
    core.receive(CborFrames().encode({"interval_ms": 50}))
    assert core.due()[1] == 50


def copy_of_settings(written: int, interval_ms: int, board: int) -> bytes:
    body = struct.pack("<IIH", written, interval_ms, board)
    return body + crc16(body).to_bytes(2, "little")


EMPTY = b"\xff" * 12


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (EMPTY + EMPTY, EMPTY + copy_of_settings(1, 1000, 0)),
        (
            EMPTY + copy_of_settings(1, 500, 7),
            copy_of_settings(2, 500, 7) + copy_of_settings(1, 500, 7),
        ),
        (
            copy_of_settings(8, 500, 7) + copy_of_settings(7, 20, 7),
            copy_of_settings(8, 500, 7) + copy_of_settings(9, 500, 7),
        ),
        # The power went while the newer copy was being written.
        (
            copy_of_settings(8, 500, 7)[:-1] + b"\0" + copy_of_settings(7, 20, 7),
            copy_of_settings(8, 20, 7) + copy_of_settings(7, 20, 7),
        ),
    ],
)
def test_settings_survive_a_power_cut(core: Core, before: bytes, after: bytes) -> None:
    assert core.rewrite_settings(before) == after


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["measure", "measure", "measure", "wait", "restart"]),
        st.integers(0, 3),  # which of the frames that are sent then is lost
        st.booleans(),  # whether the answers arrive
    ),
    max_size=60,
)


@hypothesis.settings(max_examples=200, deadline=None)
@given(STEPS)
def test_nothing_is_lost_or_doubled_as_long_as_the_ring_lasts(
    long_lived: Core, steps: list[tuple[str, int, bool]]
) -> None:
    """The core and the agent's account, with a wire that loses frames, and restarts."""
    core, site = long_lived, Site(long_lived)
    for step, lost, answered in steps:
        if step == "restart":
            site.restart()
        elif step == "wait":
            site.wait(3000)
        else:
            core.measured((site.next, 0, 0))
            site.next += 1
        site.carry(lost, answered=answered)
    for _ in range(6):
        site.wait(3000)
        site.carry(None, answered=True)
    core.measured((site.next, 0, 0))
    message = core.message()
    assert message is not None
    assert message["q"] == message["a"] == site.next, "something was not acknowledged"
    assert max(site.stored.values(), default=1) == 1
    stored = {number for boot, number in site.stored if boot == site.boot}
    assert site.next - len(stored) <= message["d"], "more are missing than were dropped"


class Site:
    """A node, a gateway without a store, and the wire between them."""

    def __init__(self, core: Core) -> None:
        self.stored: Counter[tuple[int | str | None, int]] = Counter()
        self.boot = 0
        self._core = core
        self._adapter = CborFrames()
        self._state = SequenceState()
        self._now = 0
        self.restart()

    def restart(self) -> None:
        self.boot += 1
        self.next = 0
        self._core.start(boot=self.boot)

    def wait(self, milliseconds: int) -> None:
        self._now += milliseconds
        self._core.time(self._now)

    def carry(self, lost: int | None, *, answered: bool) -> None:
        """Let the node send what it has, and the gateway answer each frame."""
        self._adapter.receive(b"\0")
        for at, sent in enumerate(iter(self._core.frame, b"")):
            if at == lost:
                continue
            reading = self._adapter.receive(sent)[0]
            assert isinstance(reading, Reading)
            assert reading.sequence is not None
            if self._state.accept(reading.boot, reading.sequence, {"level": 1}, reading.held):
                self.stored[reading.boot, reading.sequence] += 1
            confirmed = self._state.confirmed()
            if answered and confirmed is not None:
                last, hole = confirmed
                assert isinstance(reading.boot, int)
                self._core.receive(ack(reading.boot, last, *(hole or ())))
