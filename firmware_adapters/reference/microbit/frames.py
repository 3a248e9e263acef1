"""CBOR frames, as docs/firmware.md describes them, in as little memory as can be."""

import ustruct
from microbit import uart


def head(major, number):
    if number < 24:
        return bytes([major << 5 | number])
    if number < 65536:
        return ustruct.pack(">BH", major << 5 | 25, number)
    return ustruct.pack(">BI", major << 5 | 26, number)


def members(values):
    out = b""
    for name in values:
        value = values[name]
        out += head(3, len(name)) + bytes(name, "utf-8")
        if value is True or value is False:
            out += b"\xf5" if value else b"\xf4"
        elif isinstance(value, str):
            out += head(3, len(value)) + bytes(value, "utf-8")
        else:
            out += head(0, value) if value >= 0 else head(1, -1 - value)
    return out


def commands(data):
    """Names and what follows them: numbers, True and False, whether they are in an array or map or
    not. Without recursion, for which there is little room."""
    found = []
    at = 0
    while at < len(data):
        major, number = data[at] >> 5, data[at] & 31
        at += 1
        if major == 7:
            found[-1].append(number == 21)
            continue
        if number >= 24:
            size = 1 << (number - 24)
            number = 0
            for byte in data[at : at + size]:
                number = number << 8 | byte
            at += size
        if major == 3:
            found.append([str(data[at : at + number], "utf-8")])
            at += number
        elif major < 2:
            found[-1].append(number if major == 0 else -1 - number)
    return found


def crc16(data):
    crc = 0xFFFF
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1
        crc &= 0xFFFF
    return crc


def send(header, maps):
    """Send a map: the members of `header`, and the `maps` by their names."""
    data = head(5, len(header) + len(maps)) + members(header)
    for name in maps:
        data += b"\x61" + bytes(name, "utf-8") + head(5, len(maps[name])) + members(maps[name])
    data += ustruct.pack(">H", crc16(data))
    parts = data.split(b"\0")  # COBS; no part is longer than 253 bytes
    uart.write(b"".join([bytes([len(part) + 1]) + part for part in parts]) + b"\0")


def received(frame):
    """The commands in a frame, given without its 0x00; none if it is damaged."""
    data = b""
    try:
        while frame:
            data += frame[1 : frame[0]] + b"\0"
            frame = frame[frame[0] :]
        data = data[:-1]
        if len(data) > 2 and crc16(data) == 0:
            return commands(data[:-2])
    except (IndexError, ValueError):
        pass
    return ()
