"""Modbus RTU: registers of meters, inverters and controllers, any number of them on one line.

pymodbus encodes the requests and decodes the answers, none of its transports is used. Source:
Modbus Application Protocol V1.1b3 and Modbus over Serial Line V1.02.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn

from pymodbus.framer import FramerRTU
from pymodbus.pdu import DecodePDU, ExceptionResponse, ModbusPDU

from firmware_adapters.adapter import Event, Reading, Turn
from firmware_adapters.fields import Header, frame_items
from firmware_adapters.modbus_map import Block, ModbusSettings, blocks
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


class Modbus:
    """A `PollingAdapter` that asks Modbus RTU slaves for their registers.

    Neighbouring registers are read with one request. The sensors are `slave.register`. An answer
    counts when it has the slave, the function and the length that were asked for and its CRC
    holds. An answer does not say which registers it holds: one that comes after the time-out may
    be taken for that to the next request to the same slave, if that is as long.
    """

    Settings = ModbusSettings

    def __init__(self, settings: ModbusSettings) -> None:
        self._framer = FramerRTU(DecodePDU(is_server=False))
        self._blocks: dict[Question, Block] = {}
        for slave, block in blocks(settings):
            request = self._framer.buildFrame(block.request)
            asked = f"slave {block.request.dev_id}"
            self._blocks[Question(asked, request, slave.interval)] = block
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
        if self._rota.current is None or turn.send:
            self._clear()
        return turn

    def receive(self, data: bytes) -> list[Reading | Event]:
        """Decode the answer to what was asked; see `Adapter.receive`."""
        if self._rota.current is None:
            return [Event("noise", "bytes that were not asked for", len(data))] if data else []
        self._buffer += data
        items = self._answer(self._blocks[self._rota.current])
        if items is not None:
            self._rota.answered()
            self._clear()
        elif len(self._buffer) > 2 * _LONGEST_ANSWER:
            # The answer may be in what is kept; whether it is complete is looked at each time.
            del self._buffer[: -_LONGEST_ANSWER + 1]
        return items or []

    def encode(self, command: Mapping[str, Any]) -> NoReturn:
        """Raises ValueError: registers are only read."""
        raise ValueError("Modbus slaves are sent no commands: their registers are only read")

    def reset(self) -> None:
        """Forget the question and what came of its answer."""
        self._rota.reset()
        self._clear()

    def _clear(self) -> None:
        self._buffer.clear()
        self._damaged = False

    def _answer(self, block: Block) -> list[Reading | Event] | None:
        """What the slave says, wherever in the noise it is; None while there is no good answer."""
        for start in range(len(self._buffer) - _REFUSAL_SIZE + 1):
            frame = bytes(self._buffer[start:])
            if frame.startswith(block.refusal):
                size = _REFUSAL_SIZE
            elif frame.startswith(block.beginning) and len(frame) >= block.answer_size:
                size = block.answer_size
            else:
                continue
            pdu = self._pdu(frame[:size])
            if pdu is not None:
                return _items(block, pdu)
            self._damaged = True
        return None

    def _pdu(self, frame: bytes) -> ModbusPDU | None:
        """None when the CRC does not hold."""
        _, _, _, content = self._framer.decode(frame)
        return self._framer.decoder.decode(content) if content else None


def _items(block: Block, pdu: ModbusPDU) -> list[Reading | Event]:
    if isinstance(pdu, ExceptionResponse):
        reason = _EXCEPTIONS.get(pdu.exception_code, f"exception {pdu.exception_code}")
        return [Event("refused", f"slave {block.request.dev_id}: {block.what}: {reason}")]
    values, units = block.values(pdu)
    return frame_items(Header(), values, units)
