"""A Modbus RTU server made with pymodbus. Usage: server PORT ADDRESS [SHIFT]

Its holding registers from 0 on hold 230.5 as a float and -7 as a 32-bit integer, both with the high
word first, then 2351, then 12, which cannot be written; coil 3 is on.
"""

from __future__ import annotations

import asyncio
import sys

from pymodbus.framer import FramerType
from pymodbus.server import ModbusSerialServer
from pymodbus.simulator import DataType, SimData, SimDevice


async def main(port: str, address: int) -> None:
    coils = [SimData(0, values=[False, False, False, True], datatype=DataType.BITS)]
    registers = [
        SimData(0, values=230.5, datatype=DataType.FLOAT32),
        SimData(2, values=-7, datatype=DataType.INT32),
        SimData(4, values=2351, datatype=DataType.REGISTERS),
        SimData(5, values=12, datatype=DataType.REGISTERS, readonly=True),
    ]
    unused = [SimData(0, values=0, datatype=DataType.REGISTERS)]
    bits = [SimData(0, values=[False], datatype=DataType.BITS)]
    device = SimDevice(id=address, simdata=(coils, bits, registers, unused))
    server = ModbusSerialServer(device, framer=FramerType.RTU, port=port, baudrate=115200)
    serving = asyncio.create_task(server.serve_forever())
    print("ready", flush=True)
    await serving


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
