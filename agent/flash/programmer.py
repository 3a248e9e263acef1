"""Runs one of the programs, follows its progress, and says why it refused."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

from agent.errors import FlashError
from agent.flash.boards import Step, Tool
from agent.peers.http_errors import one_line

_KEPT_LINES = 50
_SHOWN_LINES = 2
_READ_SIZE = 4096

_STYLE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_PROGRESS = re.compile(r"([A-Za-z]+)[^%]*?(\d{1,3})(?:\.\d+)?\s?%")
_ERROR = re.compile(r"\berror\b|Error:", re.IGNORECASE)

log = logging.getLogger(__name__)

Advance = Callable[[str, int], None]
"""Takes what the program says that it is doing, such as "writing", and how many percent of it."""


def find_program(tool: Tool) -> str:
    """The path of a program: beside this Python, where an extra puts it, or elsewhere on PATH.

    Raises FlashError.
    """
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    found = shutil.which(tool.program, path=places)
    if found is None:
        raise FlashError(f"the program {tool.program} is missing; install it: {tool.install}")
    return found


def run(step: Step, advance: Advance) -> None:
    """Run a step to its end. Blocks. Raises FlashError when the program is missing or refuses.

    The programs tell their progress to terminals only, so they get one.
    """
    program = find_program(step.tool)
    if step.needs is not None:
        find_program(step.needs)
    output = Output(advance)
    near, far = os.openpty()
    try:
        process = subprocess.Popen(
            [program, *step.arguments], stdin=subprocess.DEVNULL, stdout=far, stderr=far
        )
    finally:
        os.close(far)
    try:
        while data := _read(near):
            output.feed(data)
        status = process.wait()
    finally:
        os.close(near)
        process.terminate()
        process.wait()
    if status != 0:
        raise FlashError(f"{step.tool.program} refused: {output.reason()}; {step.tool.advice}")


def _read(near: int) -> bytes:
    """What the program says next; nothing once nobody can say anything any more."""
    try:
        return os.read(near, _READ_SIZE)
    except OSError as error:
        if error.errno != errno.EIO:
            raise
        return b""


class Output:
    """What a program says on a terminal."""

    def __init__(self, advance: Advance) -> None:
        self._advance = advance
        self._rest = b""
        self._lines: deque[str] = deque(maxlen=_KEPT_LINES)

    def feed(self, data: bytes) -> None:
        # A bar is drawn again and again on the same line: each drawing is a piece.
        *pieces, self._rest = re.split(rb"[\r\n]", self._rest + data)
        for piece in pieces:
            line = _STYLE.sub("", piece.decode(errors="replace")).strip()
            found = _PROGRESS.search(line)
            if found is not None:
                self._advance(found[1].lower(), min(100, int(found[2])))
            elif line:
                log.info("%s", line)
                self._lines.append(line)

    def reason(self) -> str:
        """The last things that it said, on one line: errors, if it named any so."""
        lines = [*self._lines, self._rest.decode(errors="replace")]
        told = list(dict.fromkeys(one_line(line).rstrip(".") for line in lines if line.strip()))
        errors = [line for line in told if _ERROR.search(line)]
        return "; ".join((errors or told)[-_SHOWN_LINES:]) or "without a word"
