"""Reference firmware: a sensor node that speaks CBOR frames. For MicroPython.

Copy this one file to a board as main.py, or run it with MicroPython's Unix port. It uses
nothing but standard input and output, which are the USB serial port on most boards. What goes
over the wire is described in docs/firmware.md. Readings are held until the gateway acknowledges
them; of more than HELD of them the oldest are dropped.

On the Unix port it takes up to two arguments, the interval in milliseconds and how often to
take readings (0: no end). There it writes a line on standard error each time: the boot id, the
sequence number, and sensor=value for each sensor.
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
HELD = 128  # frames with readings; each takes some 200 bytes of memory here

# Without an acknowledgement the oldest frame is sent again after a pause, twice as long each time.
SHORTEST_PATIENCE_MS = 2000
LONGEST_PATIENCE_MS = 60000
ON_ITS_WAY_MS = 500  # what the gateway asks for so soon after it was sent may yet arrive
LAST_WAIT_MS = 5000  # for acknowledgements, before the program ends


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
        self.uptime_ms = 0
        self.last_ticks = time.ticks_ms()
        self.command = bytearray()
        self.poller = select.poll()
        self.poller.register(sys.stdin, select.POLLIN)
        self.room = select.poll()
        self.room.register(sys.stdout, select.POLLOUT)

        self.held = []  # (uptime, values), the oldest first
        self.oldest = 0  # the sequence number of the first of them
        self.dropped = 0
        self.unsent = 0  # the first number that has not been sent yet
        self.again = 0  # the numbers from here on that the gateway has asked for
        self.again_end = 0  # up to here
        self.again_at = -ON_ITS_WAY_MS
        self.sent_at = 0
        self.patience_ms = SHORTEST_PATIENCE_MS
        self.acknowledged = False

    def run(self):
        # Ends whatever the other side heard before, such as a boot loader's messages.
        self.write(b"\0")
        taken = 0
        last = -self.interval_ms
        while not self.stopped and (self.count == 0 or taken < self.count):
            if self.uptime() - last >= self.interval_ms:
                last = self.uptime()
                self.take_readings()
                taken += 1
            self.serve(last + self.interval_ms - self.uptime())
        end = self.uptime() + LAST_WAIT_MS
        while not self.stopped and self.acknowledged and self.held and self.uptime() < end:
            self.serve(100)

    def uptime(self):
        # ticks_ms() wraps, after 12 days on most boards; this does not.
        now = time.ticks_ms()
        self.uptime_ms += time.ticks_diff(now, self.last_ticks)
        self.last_ticks = now
        return self.uptime_ms

    def take_readings(self):
        uptime_ms = self.uptime()
        values = {}
        for name, _, source in SENSORS:
            values[name] = source(uptime_ms)
        if len(self.held) == HELD:
            self.let_go(1)
            self.dropped += 1
        self.witness(self.next_number(), values)
        self.held.append((uptime_ms, values))

    def next_number(self):
        return after(self.oldest, len(self.held))

    def let_go(self, count):
        self.held = self.held[count:]
        self.oldest = after(self.oldest, count)

    def serve(self, wait_ms):
        """Send a frame, or wait for bytes if there is none to send."""
        # With nobody reading the port takes nothing, and everything waits.
        if self.room.poll(0):
            number = self.next_to_send()
            if number is not None:
                self.send_readings(number)
                wait_ms = 0
        while self.listen(max(0, min(wait_ms, 100))):
            wait_ms = 0

    def next_to_send(self):
        """Return the number of the frame to send now, or None. New ones come before old ones."""
        now = self.uptime()
        number = None
        if distance(self.unsent, self.oldest) > 0:  # some were dropped before they were sent
            self.unsent = self.oldest
        if distance(self.again, self.oldest) > 0:
            self.again = self.oldest
        if self.unsent != self.next_number():
            number = self.unsent
            self.unsent = after(number)
        elif distance(self.again, self.again_end) > 0:
            number = self.again
            self.again = after(number)
            self.again_at = now
        elif self.held and now - self.sent_at >= self.patience_ms:
            number = self.oldest
            self.patience_ms = min(2 * self.patience_ms, LONGEST_PATIENCE_MS)
        return number

    def send_readings(self, number):
        self.sent_at = now = self.uptime()
        uptime_ms, values = self.held[distance(self.oldest, number)]
        units = {name: unit for name, unit, _ in SENSORS if unit is not None}
        message = {"q": number, "b": self.boot, "t": uptime_ms, "r": values, "u": units}
        message["g"] = now - uptime_ms
        message["a"] = self.oldest
        message["d"] = self.dropped
        self.write(encode_frame(message))

    def send_log(self, text):
        # It is not held, so it has no sequence number.
        self.write(encode_frame({"b": self.boot, "t": self.uptime(), "l": text}))

    def write(self, data):
        out = sys.stdout.buffer  # not sys.stdout, which turns 0x0A into 0x0D 0x0A
        at = 0
        while at < len(data):
            at += out.write(data[at:]) or 0

    def witness(self, number, values):
        if sys.platform != "linux":
            return
        line = "%d %d" % (self.boot, number)
        for name in values:
            line += " %s=%r" % (name, values[name])
        sys.stderr.write(line + "\n")

    def listen(self, wait_ms):
        """Take one byte if there is one within `wait_ms`; return whether there was."""
        if not self.poller.poll(wait_ms):
            return False
        byte = sys.stdin.buffer.read(1)
        if not byte:  # the other side is gone for good; cannot happen on a board
            self.stopped = True
            return False
        if byte != b"\0":
            if len(self.command) <= MAX_COMMAND:
                self.command.extend(byte)
        elif self.command:
            frame = self.command
            self.command = bytearray()
            command = decode_frame(frame) if len(frame) <= MAX_COMMAND else None
            if command is not None:
                self.obey(command)
        return True

    def obey(self, command):
        for name in command:
            value = command[name]
            if name == "interval_ms" and self.set_interval(value):
                self.send_log("interval_ms is now %d" % value)
            elif name == "set" and isinstance(value, dict):
                self.set_and_report(value, command.get("n"))
            elif name == "n":
                pass  # the number of the command, which belongs to "set"
            elif name == "stop" and value is True:
                self.send_log("stopped")
                self.stopped = True
            elif name == "ack" and is_acknowledgement(value):
                self.take_acknowledgement(*value)
            else:
                self.send_log("refused: %s" % name)

    def set_and_report(self, wanted, number):
        """Take settings, and answer with all of them as they are now."""
        refused = {}
        if "interval_ms" in wanted and not self.set_interval(wanted["interval_ms"]):
            refused["interval_ms"] = "%d to %d" % (MIN_INTERVAL_MS, MAX_INTERVAL_MS)
        report = {"b": self.boot, "t": self.uptime(), "s": {"interval_ms": self.interval_ms}}
        if refused:
            report["e"] = refused
        if type(number) is int:
            report["n"] = number
        self.write(encode_frame(report))

    def set_interval(self, value):
        if not is_interval(value):
            return False
        self.interval_ms = value
        return True

    def take_acknowledgement(self, boot, last, *missing):
        """Everything up to `last` is durable. What is `missing`, if given, has not arrived."""
        count = distance(self.oldest, last) + 1
        if boot != self.boot or not 0 <= count <= len(self.held):
            return  # for another boot or device, or older than one that has come already
        self.let_go(count)
        self.acknowledged = True
        self.patience_ms = SHORTEST_PATIENCE_MS
        busy = distance(self.again, self.again_end) > 0
        if missing and not busy and self.uptime() - self.again_at >= ON_ITS_WAY_MS:
            first, end = missing[0], after(missing[1])
            # We hold a part of what is asked for, or nothing.
            self.again = first if distance(self.oldest, first) > 0 else self.oldest
            self.again_end = end if distance(end, self.unsent) > 0 else self.unsent


def after(number, count=1):
    """Return the sequence number `count` after another; after 4294967295 comes 0."""
    return (number + count) & 0xFFFFFFFF


def distance(start, end):
    """Return how far a sequence number is after another; negative: before it."""
    return ((end - start + 0x80000000) & 0xFFFFFFFF) - 0x80000000


def is_interval(value):
    return type(value) is int and MIN_INTERVAL_MS <= value <= MAX_INTERVAL_MS


def is_acknowledgement(value):
    if not isinstance(value, list) or len(value) not in (2, 4):
        return False
    return type(value[0]) in (int, str) and all(type(number) is int for number in value[1:])


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
