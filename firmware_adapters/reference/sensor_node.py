"""Reference firmware: a sensor node that speaks CBOR frames. For MicroPython.

Copy this one file to a board as main.py, or run it with MicroPython's Unix port. It uses
nothing but standard input and output, which are the USB serial port on most boards. What goes
over the wire is described in docs/firmware.md.

On the Unix port it takes up to two arguments, the interval in milliseconds and the number of
frames with readings to send (0: no end). There it writes a line on standard error before each
frame: "sent" (or "lost", if nobody reads), the boot id, the sequence number, and sensor=value.
"""

import os
import select
import struct
import sys
import time

INTERVAL_MS = 1000
MIN_INTERVAL_MS = 10
MAX_INTERVAL_MS = 86400000
MAX_COMMAND = 256  # bytes on the wire


# --- sensors: replace these by the real ones -------------------------------------------
#
# A source takes the uptime in milliseconds and returns a number, text, True or False, or
# None when it has no value. These make up a curve, with steps that show each frame.


def read_temperature(uptime_ms):
    return (2000 + uptime_ms // 100 % 500) / 100


def read_humidity(uptime_ms):
    return 40 + uptime_ms // 1000 % 20


def read_door_open(uptime_ms):
    return uptime_ms // 5000 % 2 == 1


SENSORS = (
    # name, unit, source
    ("temperature", "C", read_temperature),
    ("humidity", "%", read_humidity),
    ("door_open", None, read_door_open),
)


# --- frames: CBOR, CRC-16/CCITT-FALSE, COBS --------------------------------------------


def cbor_head(major, number):
    if number < 24:
        return bytes([major << 5 | number])
    if number < 0x100:
        return struct.pack(">BB", major << 5 | 24, number)
    if number < 0x10000:
        return struct.pack(">BH", major << 5 | 25, number)
    if number < 0x100000000:
        return struct.pack(">BI", major << 5 | 26, number)
    return struct.pack(">BQ", major << 5 | 27, number)


def cbor_encode(value):
    if value is None:
        return b"\xf6"
    if value is True:
        return b"\xf5"
    if value is False:
        return b"\xf4"
    if isinstance(value, int):
        return cbor_head(0, value) if value >= 0 else cbor_head(1, -1 - value)
    if isinstance(value, float):
        return struct.pack(">Bd", 0xFB, value)
    if isinstance(value, str):
        text = value.encode()
        return cbor_head(3, len(text)) + text
    if isinstance(value, dict):
        parts = [cbor_head(5, len(value))]
        for key in value:
            parts.append(cbor_encode(key))
            parts.append(cbor_encode(value[key]))
        return b"".join(parts)
    raise ValueError("cannot be sent")


def cbor_decode(data, at=0):
    """Return a value and the index after it. Raises ValueError, IndexError or UnicodeError."""
    head = data[at]
    major, number = head >> 5, head & 31
    at += 1
    if major == 7:
        if number in (20, 21, 22):
            return (False, True, None)[number - 20], at
        size, form = {26: (4, ">f"), 27: (8, ">d")}[number]
        return struct.unpack(form, data[at : at + size])[0], at + size
    if number >= 24:
        size = {24: 1, 25: 2, 26: 4, 27: 8}[number]
        number = 0
        for _ in range(size):
            number = number << 8 | data[at]
            at += 1
    if major == 0:
        return number, at
    if major == 1:
        return -1 - number, at
    if major == 3:
        if at + number > len(data):
            raise ValueError("cut")
        return bytes(data[at : at + number]).decode(), at + number
    if major == 4:
        items = []
        for _ in range(number):
            item, at = cbor_decode(data, at)
            items.append(item)
        return items, at
    if major == 5:
        members = {}
        for _ in range(number):
            key, at = cbor_decode(data, at)
            members[key], at = cbor_decode(data, at)
        return members, at
    raise ValueError("not used in frames")


def crc16(data):
    crc = 0xFFFF
    for byte in data:
        crc ^= byte << 8
        for _ in range(8):
            crc = (crc << 1) ^ 0x1021 if crc & 0x8000 else crc << 1
        crc &= 0xFFFF
    return crc


def cobs_encode(data):
    out = bytearray(1)
    code_at = 0  # where the length of the current block goes
    for byte in data:
        if byte:
            out.append(byte)
        if not byte or len(out) - code_at == 255:
            out[code_at] = len(out) - code_at
            code_at = len(out)
            out.append(0)
    out[code_at] = len(out) - code_at
    return out


def cobs_decode(data):
    out = bytearray()
    at = 0
    while at < len(data):
        code = data[at]
        if at + code > len(data):
            raise ValueError("cut")
        out.extend(data[at + 1 : at + code])
        at += code
        if code < 255 and at < len(data):
            out.append(0)
    return out


def encode_frame(message):
    payload = cbor_encode(message)
    return bytes(cobs_encode(payload + struct.pack(">H", crc16(payload)))) + b"\0"


def decode_frame(frame):
    """Return the map in a frame (given without its 0x00), or None if it is damaged."""
    try:
        content = cobs_decode(frame)
        payload = content[:-2]
        if len(content) < 3 or struct.unpack(">H", content[-2:])[0] != crc16(payload):
            return None
        message, end = cbor_decode(payload)
    except (ValueError, IndexError, KeyError, TypeError, RuntimeError):
        return None
    return message if end == len(payload) and isinstance(message, dict) else None


# --- the node ---------------------------------------------------------------------------


class Node:
    def __init__(self, interval_ms, count):
        self.interval_ms = interval_ms
        self.count = count
        self.stopped = False
        # Sequence numbers start anew with each boot; this says which boot it is.
        self.boot = struct.unpack(">I", os.urandom(4))[0]
        self.sequence = 0
        self.uptime_ms = 0
        self.last_ticks = time.ticks_ms()
        self.command = bytearray()
        self.poller = select.poll()
        self.poller.register(sys.stdin, select.POLLIN)
        self.room = select.poll()
        self.room.register(sys.stdout, select.POLLOUT)

    def run(self):
        # Ends whatever the other side heard before, such as a boot loader's messages.
        self.write(b"\0")
        frames = 0
        last = -self.interval_ms
        while not self.stopped and (self.count == 0 or frames < self.count):
            wait = last + self.interval_ms - self.uptime()
            if wait > 0:
                self.listen(min(wait, 1000))
                continue
            last = self.uptime()
            self.send_readings()
            frames += 1

    def uptime(self):
        # ticks_ms() wraps, after 12 days on most boards; this does not.
        now = time.ticks_ms()
        self.uptime_ms += time.ticks_diff(now, self.last_ticks)
        self.last_ticks = now
        return self.uptime_ms

    def send_readings(self):
        uptime_ms = self.uptime()
        values = {}
        units = {}
        for name, unit, source in SENSORS:
            values[name] = source(uptime_ms)
            if unit is not None:
                units[name] = unit
        self.send({"t": uptime_ms, "r": values, "u": units})

    def send_log(self, text):
        self.send({"t": self.uptime(), "l": text})

    def send(self, message):
        message["q"] = self.sequence
        message["b"] = self.boot
        frame = encode_frame(message)
        # With nobody reading, a frame is lost as it is on a plain wire; its number shows it.
        sent = bool(self.room.poll(0))
        self.witness("sent" if sent else "lost", message.get("r", {}))
        self.sequence = (self.sequence + 1) & 0xFFFFFFFF
        if sent:
            self.write(frame)

    def write(self, data):
        out = sys.stdout.buffer  # not sys.stdout, which turns 0x0A into 0x0D 0x0A
        at = 0
        while at < len(data):
            at += out.write(data[at:]) or 0

    def witness(self, what, values):
        if sys.platform != "linux":
            return
        line = "%s %d %d" % (what, self.boot, self.sequence)
        for name in values:
            line += " %s=%r" % (name, values[name])
        sys.stderr.write(line + "\n")

    def listen(self, wait_ms):
        """Take one byte if there is one within `wait_ms`."""
        if not self.poller.poll(wait_ms):
            return
        byte = sys.stdin.buffer.read(1)
        if not byte:  # the other side is gone for good; cannot happen on a board
            self.stopped = True
        elif byte != b"\0":
            if len(self.command) <= MAX_COMMAND:
                self.command.extend(byte)
        elif self.command:
            frame = self.command
            self.command = bytearray()
            command = decode_frame(frame) if len(frame) <= MAX_COMMAND else None
            if command is not None:
                self.obey(command)

    def obey(self, command):
        for name in command:
            value = command[name]
            if name == "interval_ms" and is_interval(value):
                self.interval_ms = value
                self.send_log("interval_ms is now %d" % value)
            elif name == "stop" and value is True:
                self.send_log("stopped")
                self.stopped = True
            else:
                self.send_log("refused: %s" % name)


def is_interval(value):
    return type(value) is int and MIN_INTERVAL_MS <= value <= MAX_INTERVAL_MS


def main():
    try:
        import micropython

        # A byte 0x03 in a command must not interrupt the program.
        micropython.kbd_intr(-1)
    except (ImportError, AttributeError):
        pass
    arguments = [int(argument) for argument in getattr(sys, "argv", [])[1:]]
    interval_ms = arguments[0] if arguments else INTERVAL_MS
    if not is_interval(interval_ms):
        raise ValueError("the interval is %d to %d ms" % (MIN_INTERVAL_MS, MAX_INTERVAL_MS))
    Node(interval_ms, arguments[1] if len(arguments) > 1 else 0).run()


if __name__ == "__main__":
    main()
