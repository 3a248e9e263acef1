"""The boards that can be flashed, and the commands that do it. Pure.

The programs are avrdude, esptool and mpremote; what each prints is left to `programmer`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

import firmware_adapters
from agent.errors import FlashError
from agent.sensors.ports import is_network

REFERENCE = Path(firmware_adapters.__file__).parent / "reference"
"""The reference firmware, as it is installed."""

_ESPTOOL_BAUD = 460_800
_FIRST_START = "5"
"""Seconds in which MicroPython makes its file system, on a chip that was empty."""

_PIECE = 32
"""Bytes of a file in one command for a micro:bit, which holds 64 of what it receives."""


class Tool(msgspec.Struct, frozen=True):
    """A program, the command that installs it, and what helps when it refuses."""

    program: str
    install: str
    advice: str


_FROM_PYPI = "pip install 'edge-sync-agent[flash]'"
_AVRDUDE = Tool(
    "avrdude",
    "sudo apt install avrdude",
    "is it that kind of board (an old Nano is nano-old), and does its cable carry data?",
)
_ESPTOOL = Tool(
    "esptool", _FROM_PYPI, "hold the board's BOOT button while you press RESET, then try again"
)
_MPREMOTE = Tool(
    "mpremote",
    _FROM_PYPI,
    "is MicroPython on the board? If so, press its reset button, then try again",
)
_COMPILER_PACKAGES = "sudo apt install gcc-avr avr-libc make"
_COMPILER = Tool("avr-gcc", _COMPILER_PACKAGES, "the compiler's words say what is wrong")
_MAKE = Tool("make", _COMPILER_PACKAGES, _COMPILER.advice)


class Board(msgspec.Struct, frozen=True):
    """A kind of board.

    `usb_ids` are VID:PIDs that such boards have, in hexadecimal. One of an AVR has a boot loader,
    at `baud`. One of Espressif has a `chip`, whose image of MicroPython belongs at `image_at`.
    `firmware` are the files for those with MicroPython, what becomes main.py first. `small`: there
    is little memory, and no more of Python than opening files and writing them.
    """

    what: str
    usb_ids: frozenset[str]
    baud: int | None = None
    chip: str | None = None
    image_at: str = "0x0"
    firmware: tuple[str, ...] = ("sensor_node.py",)
    small: bool = False

    @property
    def runs_micropython(self) -> bool:
        return self.baud is None


# Arduino's own and the USB converters on the others' boards: FTDI, CH340, CP210x.
_UNO_IDS = frozenset({"2341:0043", "2341:0001", "2341:0243", "2a03:0043", "1a86:7523"})
_NANO_IDS = frozenset({"0403:6001", "1a86:7523"})
_ESP_IDS = frozenset({"10c4:ea60", "1a86:7523", "1a86:55d4", "303a:1001", "303a:4001"})

BOARDS = {
    "uno": Board("Arduino Uno (ATmega328P)", _UNO_IDS, baud=115_200),
    "nano": Board("Arduino Nano (ATmega328P)", _NANO_IDS, baud=115_200),
    "nano-old": Board("Arduino Nano with its old boot loader", _NANO_IDS, baud=57_600),
    "esp8266": Board("ESP8266", _ESP_IDS, chip="esp8266"),
    "esp32": Board("ESP32", _ESP_IDS, chip="esp32", image_at="0x1000"),
    "esp32c3": Board("ESP32-C3", _ESP_IDS, chip="esp32c3"),
    "esp32s3": Board("ESP32-S3", _ESP_IDS, chip="esp32s3"),
    "pico": Board("Raspberry Pi Pico with MicroPython", frozenset({"2e8a:0005"})),
    "microbit": Board(
        "BBC micro:bit with MicroPython",
        frozenset({"0d28:0204"}),
        firmware=("microbit/main.py", "microbit/frames.py", "microbit/node.py"),
        small=True,
    ),
    "micropython": Board(
        "any board with MicroPython", frozenset({"f055:9800", "2e8a:0005", "303a:4001"})
    ),
}


class Step(msgspec.Struct, frozen=True):
    """A command to run; `what` says for people what it does. `needs` has to be there as well."""

    what: str
    tool: Tool
    arguments: tuple[str, ...]
    needs: Tool | None = None

    @property
    def command(self) -> tuple[str, ...]:
        return (self.tool.program, *self.arguments)


def steps(
    board: Board, port: str, folder: Path, image: Path | None, script: Path | None
) -> list[Step]:
    """What is to be run, one after the other; `folder` is for what is built.

    `image`: for an AVR the firmware to write instead of the reference firmware, for a chip of
    Espressif MicroPython, which stays as it is without one. `script` takes the place of the
    reference firmware for MicroPython. Raises FlashError for what such a board cannot have.
    """
    if not board.runs_micropython:
        if script is not None:
            raise FlashError("--script is for boards with MicroPython; --image names a .hex file")
        return list(_avr_steps(board, port, folder, image))
    found: list[Step] = []
    before: tuple[str, ...] = ()
    if image is not None:
        if board.chip is None:
            raise FlashError(
                "--image is for an AVR or an ESP; copy MicroPython's image to the drive that the "
                "board shows as, or see micropython.org/download"
            )
        baud = ("--baud", f"{_ESPTOOL_BAUD}")
        chip = ("--chip", board.chip, "--port", port, *baud)
        write_flash = ("write-flash", "--erase-all", board.image_at, f"{image}")
        found.append(Step("write MicroPython", _ESPTOOL, (*chip, *write_flash)))
        before = ("sleep", _FIRST_START)
    main, *others = [script] if script else [REFERENCE / file for file in board.firmware]
    files = {"main.py": main, **{file.name: file for file in others}}
    write = _by_commands if board.small else _by_copying
    # Without `resume` mpremote restarts the board first, which not all of them can do.
    arguments = (*before, "connect", port, "resume", *write(files))
    return [*found, Step("copy the firmware", _MPREMOTE, arguments)]


def _by_copying(files: Mapping[str, Path]) -> Iterator[str]:
    for name, file in files.items():
        yield from ("fs", "cp", f"{file}", f":{name}")


def _by_commands(files: Mapping[str, Path]) -> Iterator[str]:
    """Raises FlashError."""
    for name, file in files.items():
        try:
            content = file.read_bytes()
        except OSError as error:
            raise FlashError(f"{file}: cannot be read ({error.strerror})") from error
        yield from ("exec", f"f=open({name!r},'wb');w=f.write")
        for at in range(0, len(content), _PIECE):
            yield from ("exec", f"w({content[at : at + _PIECE]!r})")
        yield from ("exec", "f.close()")


def _avr_steps(board: Board, port: str, folder: Path, image: Path | None) -> Iterator[Step]:
    if port.startswith("rfc2217://"):
        raise FlashError(
            f"{port}: avrdude knows no RFC 2217; use a plain TCP port, socket://HOST:PORT, or plug "
            "the board in here"
        )
    if image is None:
        image = folder / "sensor_node.hex"
        source = REFERENCE / "c"
        build = ("--no-print-directory", "-C", f"{source}", f"BUILD={folder}")
        yield Step("build the firmware", _MAKE, build, needs=_COMPILER)
    place = port.replace("socket://", "net:") if is_network(port) else port
    programmer = ("-p", "atmega328p", "-c", "arduino", "-P", place, "-b", f"{board.baud}")
    # Each attempt takes 5 seconds, and resets the board once more.
    write = ("-x", "attempts=3", "-D", "-U", f"flash:w:{image}:i")
    yield Step("write the firmware", _AVRDUDE, (*programmer, *write))
