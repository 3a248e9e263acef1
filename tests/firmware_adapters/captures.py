"""What real devices sent, out of other projects' source packages; see tests/captures.txt."""

from __future__ import annotations

import ast
import re
import tarfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / ".venv" / "captures"


def _members(archive: str, pattern: str) -> dict[str, bytes]:
    """The files in an archive whose name matches. Skips the test if there is no such archive."""
    found = next(FOLDER.glob(archive), None)
    if found is None:
        pytest.skip(f"the recordings in {archive} are missing; scripts/test fetches them")
    contents = {}
    with tarfile.open(found) as opened:
        for member in opened:
            if member.isfile() and re.search(pattern, member.name):
                file = opened.extractfile(member)
                assert file is not None
                contents[Path(member.name).name] = file.read()
    assert contents
    return contents


@cache
def receiver_logs() -> dict[str, bytes]:
    """Logs of GPS receivers, in NMEA 0183 and other protocols, with comments."""
    return _members("gpsd_*.orig.tar.xz", r"/test/daemon/[^/]*\.log$")


@cache
def p1_telegrams() -> dict[str, bytes]:
    """Telegrams of P1 meters, by a name with the version in it."""
    source = _members("dsmr*parser-0.8.tar.gz", r"/example_telegrams\.py$")
    telegrams = {}
    for node in ast.parse(source["example_telegrams.py"]).body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            telegrams[node.targets[0].id] = str(ast.literal_eval(node.value)).encode()
    assert telegrams
    return telegrams


@cache
def mbus_telegrams() -> list[bytes]:
    """Answers of M-Bus meters whose sum is right."""
    sources = _members("py[mM]eter[bB]us-*.tar.gz", r"/tests/test_[^/]*\.py$")
    frames = {frame for source in sources.values() for frame in _long_frames(ast.parse(source))}
    assert frames
    return sorted(frames)


def _long_frames(source: ast.AST) -> Iterator[bytes]:
    for node in ast.walk(source):
        for candidate in _candidates(node):
            if (
                len(candidate) > 15
                and candidate[0] == candidate[3] == 0x68
                and candidate[4] & 0xCF == 0x08
                and len(candidate) == candidate[1] + 6
                and sum(candidate[4:-2]) % 256 == candidate[-2]
            ):
                yield candidate


def _candidates(node: ast.AST) -> Iterator[bytes]:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        if re.fullmatch(r"(?:[0-9A-Fa-f]{2}\s*)+", node.value):
            yield bytes.fromhex(node.value)
        elif all(ord(character) < 256 for character in node.value):
            yield node.value.encode("latin-1")
    elif isinstance(node, ast.Constant) and isinstance(node.value, bytes):
        yield node.value
    elif isinstance(node, ast.List):
        values = [item.value for item in node.elts if isinstance(item, ast.Constant)]
        if len(values) == len(node.elts) and all(
            isinstance(value, int) and 0 <= value < 256 for value in values
        ):
            yield bytes(values)  # type: ignore[arg-type]


@cache
def ve_direct_blocks() -> list[dict[bytes, bytes]]:
    """Blocks of a battery monitor and two chargers. Their line ends and check values were damaged
    when they were recorded; labels and values are whole."""
    blocks: list[dict[bytes, bytes]] = []
    for dump in _members("vedirect*m8-*.tar.gz", r"/sim_data/[^/]*\.dump$").values():
        block: dict[bytes, bytes] = {}
        for label, value in re.findall(rb"([^\t\n]+)\t([^\n]*)\n", dump):
            if label == b"Checksum":
                blocks.append(block)
                block = {}
            else:
                block[label] = value
    assert blocks
    return blocks
