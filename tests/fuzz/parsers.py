"""`python -m tests.fuzz.parsers`: every parser of bytes that others send, over the kept corpus.

Only a parser's own error may come out of it, in bounded time and memory. HTTP requests, with their
query strings and bodies, are what `python -m tests.fuzz` makes.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import random
import sys
import time
import tracemalloc
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from agent.config_file import check_text
from agent.documents.selector import SelectorError, parse_selector
from agent.documents.wire import revision_from_doc
from agent.errors import ConfigError, EdgeAgentError, RequestError
from agent.peers import mqtt_calls, mqtt_revisions
from agent.peers.couchdb import CouchPeer
from agent.peers.mqtt_presence import Present
from agent.peers.mqtt_topics import Topics, parse_mqtt_url
from agent.peers.mqtt_wire import Assembly, Message, WireError, convert, decode_packet, unpack
from agent.peers.peer import START
from agent.peers.urls import parse_database_url
from agent.replication.checkpoint import common_entry
from agent.replication.lanes import ranges_from_log
from agent.replication.spec import parse_spec
from agent.server.find_options import find_options, index_options
from agent.server.multipart import MalformedError, Parser
from agent.server.sessions import Sessions
from firmware_adapters import PollingAdapter, create
from tests.firmware_adapters import test_csv_lines, test_key_value_lines, test_modbus
from tests.firmware_adapters.frames import frame_bytes
from tests.fuzz.mutation import mutated

CORPUS = Path(__file__).parent / "corpus"

_MOST_SECONDS = 5.0
"""Of processor time, for an input of at most 20 kB."""

_MOST_MEMORY = 64 * 2**20


@dataclass(frozen=True, slots=True)
class Target:
    """A parser, which may be a coroutine function, the errors it may raise, and its corpus."""

    parse: Callable[[bytes], Any]
    errors: tuple[type[Exception], ...] = ()
    corpus: str = ""


class FoundError(Exception):
    """An input that a parser does not take as it should."""


async def fuzz(name: str, target: Target, *, count: int, seed: int) -> None:
    """Try the corpus itself, and so many inputs made of it. Raises FoundError."""
    kept = [path.read_bytes() for path in sorted((CORPUS / (target.corpus or name)).iterdir())]
    chance = random.Random(f"{name} {seed}")
    tracemalloc.start(1)
    try:
        for number in range(-len(kept), count):
            data = kept[number] if number < 0 else mutated(kept, chance)
            await _try(name, target, data)
            await asyncio.sleep(0)  # each is a step of its own to who watches the loop
    finally:
        tracemalloc.stop()


async def _try(name: str, target: Target, data: bytes) -> None:
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    started = time.process_time()
    try:
        done = target.parse(data)
        if isinstance(done, Awaitable):
            await done
    except target.errors:
        pass
    except Exception as error:
        raise FoundError(f"{name}: {data!r} raises {error!r}") from error
    taken = time.process_time() - started
    _, peak = tracemalloc.get_traced_memory()
    if taken > _MOST_SECONDS or peak - before > _MOST_MEMORY:
        raise FoundError(f"{name}: {data!r} takes {taken:.1f} s, {peak - before} bytes")


# --- devices ---------------------------------------------------------------------------

_SETTINGS: Mapping[str, Mapping[str, Any]] = {
    "cbor-frames": {},
    "csv-lines": {"column": test_csv_lines.COLUMNS},
    "dsmr": {"version": "5"},
    "json-lines": {},
    "key-value-lines": {"key": test_key_value_lines.KEYS},
    "mbus": {"meter": [{"name": "m", "address": 5, "interval": 10}]},
    "modbus-rtu": test_modbus.settings(),
    "nmea": {},
    "ve-direct": {},
}


def _adapter(name: str) -> Callable[[bytes], None]:
    adapter = create(name, _SETTINGS[name])
    adapter.reset()
    now = 0.0

    def receive(data: bytes) -> None:
        nonlocal now
        if isinstance(adapter, PollingAdapter):
            now += 20
            for _ in range(3):
                turn = adapter.poll(now)
                now = max(now, min(turn.wake, now + 20))
        half = len(data) // 2
        adapter.receive(data[:half])
        adapter.receive(data[half:])

    return receive


def _cbor_payload() -> Callable[[bytes], None]:
    receive = _adapter("cbor-frames")
    return lambda data: receive(frame_bytes(data) + b"\0")  # with a check that is right


# --- MQTT ------------------------------------------------------------------------------


def _packet(data: bytes) -> None:
    packet = decode_packet(data)
    if isinstance(packet, Message):
        assembly = Assembly(packet)
        if assembly.complete:
            unpack(assembly.message())


def _call(data: bytes) -> None:
    value = unpack(data)
    for read in (
        mqtt_calls.request_from,
        mqtt_revisions.revision_from_wire,
        mqtt_revisions.found_from_wire,
        mqtt_calls.page_from_wire,
        mqtt_calls.info_from_wire,
        lambda value: convert(value, mqtt_calls.Answer),
    ):
        with contextlib.suppress(WireError):
            read(value)


def _call_plain(data: bytes) -> None:
    """As above, without a compression, which hides all damage but its own."""
    _call(b"\0" + data)


def _topic(data: bytes) -> None:
    topics = Topics("edge")
    text = data.decode(errors="replace")
    topics.asked(text)
    topics.node_of_status(text)


def _presence() -> Callable[[bytes], None]:
    present = Present()

    def take(data: bytes) -> None:
        present.take("node", data)
        msgspec.json.encode(present.gateways())

    return take


# --- JSON and texts --------------------------------------------------------------------


def _json(read: Callable[[dict[str, Any]], Any]) -> Callable[[bytes], None]:
    def parse(data: bytes) -> None:
        try:
            value = msgspec.json.decode(data, type=dict[str, Any])
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return  # which the HTTP server and the peers know; their own tests fuzz that
        read(value)

    return parse


def _text(read: Callable[[str], Any]) -> Callable[[bytes], None]:
    return lambda data: read(data.decode(errors="replace"))


def _multipart(data: bytes) -> None:
    parser = Parser('multipart/related; boundary="b"')
    for start in range(0, len(data), 500):
        list(parser.feed(data[start : start + 500]))
    parser.close()


def _logs(log: dict[str, Any]) -> None:
    entry = common_entry(log, log)
    if entry is not None:
        ranges_from_log(entry.get("ranges"), entry["recorded_seq"])


# --- what a remote answers -------------------------------------------------------------


@asynccontextmanager
async def remote() -> AsyncIterator[Callable[[bytes], Awaitable[None]]]:
    """A server that answers each request with the bytes that are fuzzed, and a peer before it."""
    said = b""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(said)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def ask(data: bytes) -> None:
        nonlocal said
        said = data
        peer = CouchPeer.from_url(f"http://gw:secret@127.0.0.1:{port}/edge", timeout=2.0)
        try:
            for call in (
                peer.info,
                lambda: peer.get_local("x"),
                lambda: peer.revs_diff({"a": ["1-a"]}),
                lambda: peer.fetch([("a", ["1-a"])]),
                lambda: anext(peer.changes(START, follow=False, limit=10), None),
            ):
                with contextlib.suppress(EdgeAgentError):
                    await call()
        finally:
            await peer.close()

    try:
        yield ask
    finally:
        server.close()
        await server.wait_closed()


def targets(ask: Callable[[bytes], Awaitable[None]]) -> Mapping[str, Target]:
    """All of them by name; `ask` as `remote` gives it."""
    sessions = Sessions(b"s" * 32, {"anna": "hash"})
    wire = (WireError,)
    refused = (RequestError,)
    return {
        **{f"adapter-{name}": Target(_adapter(name)) for name in _SETTINGS},
        "cbor-payload": Target(_cbor_payload()),
        "mqtt-packet": Target(_packet, wire),
        "mqtt-call": Target(_call, wire),
        "mqtt-call-plain": Target(_call_plain, wire),
        "mqtt-topic": Target(_topic),
        "mqtt-presence": Target(_presence()),
        "document": Target(_json(revision_from_doc), (ValueError,)),
        "selector": Target(_json(parse_selector), (SelectorError,)),
        "find": Target(_json(find_options), refused),
        "index": Target(_json(index_options), refused),
        "replicate": Target(_json(parse_spec), refused),
        "replication-log": Target(_json(_logs)),
        "config": Target(_text(lambda text: check_text(text, Path("x"))), (ConfigError,)),
        "database-url": Target(_text(parse_database_url), (ConfigError,), "url"),
        "mqtt-url": Target(_text(parse_mqtt_url), (ConfigError,), "url"),
        "session-cookie": Target(_text(sessions.read), refused),
        "multipart": Target(_multipart, (MalformedError,)),
        "remote-answer": Target(ask),
    }


async def _run(names: Sequence[str], minutes: float, seed: int) -> int:
    end = time.monotonic() + 60 * minutes
    failed = set()
    rounds = 0
    async with remote() as ask:
        every = targets(ask)
        while time.monotonic() < end:
            for name in names or every:
                try:
                    await fuzz(name, every[name], count=200, seed=seed + rounds)
                except FoundError as error:
                    failed.add(name)
                    print(f"--seed {seed + rounds} {error}", flush=True)
            rounds += 1
    print(f"{rounds} rounds of 200 inputs for {len(names or every)} parsers, {len(failed)} failed")
    return len(failed)


def main() -> int:
    """Returns the number of parsers that failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.parsers", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("name", nargs="*", help="parsers; all if none is named")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    return asyncio.run(_run(arguments.name, arguments.minutes, arguments.seed))


if __name__ == "__main__":
    sys.exit(main())
