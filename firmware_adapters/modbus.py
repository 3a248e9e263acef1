"""Modbus RTU: registers of meters, inverters and controllers, any number of them on one line.

pymodbus encodes the requests and decodes the answers, none of its transports is used. Source:
Modbus Application Protocol V1.1b3 and Modbus over Serial Line V1.02.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NoReturn, TypeVar

from pymodbus.framer import FramerRTU
from pymodbus.pdu import DecodePDU, ExceptionResponse, ModbusPDU

from firmware_adapters.adapter import Event, Reading, Report, Turn, Value
from firmware_adapters.fields import Header, frame_items, settings_event
from firmware_adapters.modbus_map import Block, ModbusSettings, Register, Slave, Write, blocks
from firmware_adapters.polling import Question, Rota

_LONGEST_ANSWER = 256
_REFUSAL_SIZE = 5  # address, function, exception, two bytes of CRC

_EXCEPTIONS = {
    1: "illegal function",
    2: "illegal data address",
    3: "illegal data value",
    4: "failure of the device",
    6: "busy",
    10: "the gateway has no path to the device",
    11: "the gateway got no answer from the device",
}


_AskedT = TypeVar("_AskedT", Block, Write)


class Modbus:
    """A `PollingAdapter` that asks Modbus RTU slaves for their registers, and a `SettableAdapter`
    that writes those that the map says are writable. What was written is read back at once.

    Neighbouring registers are read with one request. The sensors are `slave.register`. An answer
    counts when it has the slave, the function and the length that were asked for and its CRC
    holds. An answer does not say which registers it holds: one that comes after the time-out may
    be taken for that to the next request to the same slave, if that is as long. The settings are
    `slave.register`, too.
    """

    Settings = ModbusSettings

    def __init__(self, settings: ModbusSettings) -> None:
        self._framer = FramerRTU(DecodePDU(is_server=False))
        self._blocks: dict[Question, Block] = {}
        self._settings: dict[str, tuple[Slave, Register, Question]] = {}
        self._writes: dict[Question, tuple[Write, int]] = {}
        """What is to be written, with the numbers of the commands."""
        self._unread: dict[str, int] = {}
        """The settings that were written and not read back yet; for each the command's number."""
        for slave, block in blocks(settings):
            request = self._framer.buildFrame(block.request)
            asked = f"slave {block.request.dev_id}"
            question = Question(asked, request, slave.interval, tuple(block.sensors))
            self._blocks[question] = block
            for name, register in block.settings:
                self._settings[name] = slave, register, question
        self._rota = Rota([*self._blocks], timeout=settings.timeout, pause=settings.pause)
        self._buffer = bytearray()
        self._damaged = False

    def poll(self, now: float) -> Turn:
        """Ask the next slave when it is time; see `PollingAdapter.poll`."""
        heard = None
        if self._damaged:
            heard = Event("bad-crc", "an answer whose CRC does not match", len(self._buffer))
        elif self._buffer:
            heard = Event("cut-frame", "bytes that are no whole answer", len(self._buffer))
        turn = self._rota.turn(now, heard)
        for question in [*self._writes]:
            if not self._rota.is_open(question):  # without an answer: it may be commanded again
                del self._writes[question]
        if self._rota.current is None or turn.send:
            self._clear()
        return turn

    def receive(self, data: bytes) -> list[Reading | Event]:
        """Decode the answer to what was asked; see `Adapter.receive`."""
        if self._rota.current is None:
            return [Event("noise", "bytes that were not asked for", len(data))] if data else []
        self._buffer += data
        write = self._writes.get(self._rota.current)
        if write is None:
            items = self._answer(self._blocks[self._rota.current], self._items)
        else:
            items = self._answer(write[0], partial(self._written, write[1]))
        if items is not None:
            self._rota.answered()
            self._clear()
        elif len(self._buffer) > 2 * _LONGEST_ANSWER:
            # The answer may be in what is kept; whether it is complete is looked at each time.
            del self._buffer[: -_LONGEST_ANSWER + 1]
        return items or []

    def encode(self, command: Mapping[str, Any]) -> NoReturn:
        """Raises ValueError: see `command`."""
        raise ValueError("Modbus slaves are sent no commands but to set what is writable")

    def check(self, settings: Mapping[str, Value]) -> None:
        """See `SettableAdapter.check`."""
        for name, value in settings.items():
            self._write(name, value)

    def command(self, number: int, settings: Mapping[str, Value]) -> bytes:
        """Write registers when it is their turn; see `SettableAdapter.command`."""
        for write in [self._write(name, value) for name, value in settings.items()]:
            for question, (other, _) in self._writes.items():
                if other.setting == write.setting:
                    self._rota.withdraw(question)
            asked = f"slave {write.request.dev_id}"
            question = Question(asked, self._framer.buildFrame(write.request), 0.0)
            self._writes[question] = write, number
            self._rota.once(question)
        return b""

    def reset(self) -> None:
        """Forget the question and what came of its answer."""
        self._rota.reset()
        self._writes.clear()
        self._unread.clear()
        self._clear()

    def _clear(self) -> None:
        self._buffer.clear()
        self._damaged = False

    def _write(self, name: str, value: Value) -> Write:
        if name not in self._settings:
            raise ValueError("no register of this name is writable")
        slave, register, _ = self._settings[name]
        return Write.of(slave, register, value)

    def _answer(
        self, asked: _AskedT, read: Callable[[_AskedT, ModbusPDU], list[Reading | Event]]
    ) -> list[Reading | Event] | None:
        """What the slave says, wherever in the noise it is; None while there is no good answer."""
        for start in range(len(self._buffer) - _REFUSAL_SIZE + 1):
            frame = bytes(self._buffer[start:])
            if frame.startswith(asked.refusal):
                size = _REFUSAL_SIZE
            elif frame.startswith(asked.beginning) and len(frame) >= asked.answer_size:
                size = asked.answer_size
            else:
                continue
            pdu = self._pdu(frame[:size])
            if pdu is not None:
                return read(asked, pdu)
            self._damaged = True
        return None

    def _pdu(self, frame: bytes) -> ModbusPDU | None:
        """None when the CRC does not hold."""
        _, _, _, content = self._framer.decode(frame)
        return self._framer.decoder.decode(content) if content else None

    def _items(self, block: Block, pdu: ModbusPDU) -> list[Reading | Event]:
        if isinstance(pdu, ExceptionResponse):
            detail = f"slave {block.slave.address}: {block.what}: {_reason(pdu)}"
            return [Event("refused", detail, sensors=tuple(block.sensors))]
        values, units = block.values(pdu)
        return frame_items(Header(), values, units) + self._reports(block, values)

    def _reports(self, block: Block, values: Mapping[str, Any]) -> list[Reading | Event]:
        """How the slave is set, as far as the block tells; what was written is an answer."""
        told: dict[int | None, dict[str, Value]] = {}
        for name, _ in block.settings:
            if values[name] is not None:
                told.setdefault(self._unread.pop(name, None), {})[name] = values[name]
        return [
            settings_event(Header(), Report(settings, answers=number))
            for number, settings in told.items()
        ]

    def _written(self, number: int, write: Write, pdu: ModbusPDU) -> list[Reading | Event]:
        if isinstance(pdu, ExceptionResponse):
            report = Report({}, {write.setting: _reason(pdu)}, number)
            return [settings_event(Header(), report)]
        self._unread[write.setting] = number
        self._rota.once(self._settings[write.setting][2])
        return []


def _reason(pdu: ExceptionResponse) -> str:
    return _EXCEPTIONS.get(pdu.exception_code, f"exception {pdu.exception_code}")
