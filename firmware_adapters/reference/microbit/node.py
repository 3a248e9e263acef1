"""Takes readings, holds them, and sends them; the loop is `run`."""

import gc
import random

import micropython
from frames import received, send
from microbit import button_a, pin0, running_time, sleep, uart

HELD = 32
PATIENCE_MS = 2000  # without an acknowledgement the oldest frame is sent again
ON_ITS_WAY_MS = 500  # what the gateway asks for so soon after it was sent may yet arrive


# Replace these by what you measure: whole numbers, True or False.
def measure():
    return {"button": button_a.is_pressed(), "pin0": pin0.read_digital()}


class State:
    pass


state = State()
state.boot = random.getrandbits(30)
state.interval = 1000
state.held = []
state.oldest = state.dropped = state.unsent = state.sent_at = state.asked_at = 0
state.again = []
state.stopped = False


def obey(name, *value):
    """Returns what is to be said about it, which is why not if the name is not in it."""
    if name == "ack" and len(value) in (2, 4):
        count = (value[1] - state.oldest + 1) & 0xFFFFFFFF  # before 0 comes 4294967295
        if value[0] != state.boot or count > len(state.held):
            return None  # for another boot, or older than one that has come already
        state.held = state.held[count:]
        state.oldest += count
        if len(value) > 2 and not state.again and running_time() - state.asked_at > ON_ITS_WAY_MS:
            state.again = [value[2], value[3]]
        return None
    if name == "interval_ms":
        if not value or not 10 <= value[0] <= 86400000:
            return "10 to 86400000"
        state.interval = value[0]
        return "interval_ms is now %d" % value[0]
    if name == "stop":
        state.stopped = True
        return "stopped"
    return "unknown"


def answer(commands):
    """Obeys, and returns a header and maps to send, if there is something to say. To send it here
    would be too deep for the stack."""
    header = {"b": state.boot}
    refused = {}
    for each in commands:
        name = each[0]
        if name == "n":
            header["n"] = each[1]
        elif name != "set":
            text = obey(*each)
            if text:
                header["l"] = text
                if name not in text:
                    header["l"] = "refused: " + name
                    refused[name] = text
    if "n" in header:
        header.pop("l", None)
        state.stopped = False  # that was no command, but a setting that there is not
        return header, {"s": {"interval_ms": state.interval}, "e": refused}
    return (header, {}) if "l" in header else None


def next_number():
    state.unsent = max(state.unsent, state.oldest)
    end = state.oldest + len(state.held)
    if state.unsent < end:
        state.unsent += 1
        return state.unsent - 1
    if state.again:
        number = max(state.again[0], state.oldest)
        if number <= state.again[1] and number < end:
            state.again[0] = number + 1
            state.asked_at = running_time()
            return number
        state.again = []
    if state.held and running_time() - state.sent_at >= PATIENCE_MS:
        return state.oldest
    return None


def run():
    uart.init(115200)
    micropython.kbd_intr(-1)  # commands may contain the byte 0x03
    uart.write(b"\0")
    command = b""
    last = -state.interval
    while not state.stopped:
        if running_time() - last >= state.interval:
            last = running_time()
            if len(state.held) == HELD:
                state.held = state.held[1:]
                state.oldest += 1
                state.dropped += 1
            state.held.append((last, measure()))
        number = next_number()
        if number is not None:
            taken, values = state.held[number - state.oldest]
            state.sent_at = now = running_time()
            header = {"q": number, "b": state.boot, "t": taken, "g": now - taken}
            header["a"] = state.oldest
            header["d"] = state.dropped
            send(header, {"r": values})
        while uart.any():
            byte = uart.read(1)
            if byte == b"\0":
                reply = answer(received(command))
                if reply:
                    send(*reply)
                command = b""
            elif len(command) < 64:
                command += byte
        gc.collect()
        sleep(2)
