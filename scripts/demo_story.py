"""The demo: what happens to readings, and to a document, when the network goes away.

Two agents run as processes of their own: a hub, which plays the cloud, and a gateway. Between
them is a line that can be cut, or an MQTT broker that can be stopped. The device is the reference
firmware under MicroPython on a pseudo-terminal; it keeps its own account of what it sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import click
import msgspec
from rich.console import Console
from rich.table import Table

from tests.devices.micropython import SensorNode, Witness
from tests.mqtt.mosquitto import PROGRAM, Mosquitto

FRAMES = 240
INTERVAL_MS = 50
BEFORE_OUTAGE = 60  # frames that have reached the hub when the line is cut
DURING_OUTAGE = 80  # frames that the gateway has stored meanwhile
LONGEST_WAIT = 120.0  # seconds for any one step

Leaves = dict[str, dict[str, Any]]
"""By document id and revision: the bodies of all leaf revisions."""


class DemoFailedError(Exception):
    """Something did not happen in time, or not as promised."""


class Network(Protocol):
    """What is between the gateway and the hub."""

    name: str
    hub_options: tuple[str, ...]
    """For the command line of the hub."""

    async def begin(self, hub_url: str) -> str:
        """Connect the two; returns the URL at which the gateway finds the hub."""

    async def cut(self) -> None: ...

    async def mend(self) -> None: ...


class Line:
    """TCP connections to the hub that can be cut and mended."""

    name = "network"
    hub_options = ()

    def __init__(self) -> None:
        self._target = ("127.0.0.1", 0)
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self._port = 0

    async def begin(self, hub_url: str) -> str:
        self._target = ("127.0.0.1", int(hub_url.rpartition(":")[2].rstrip("/")))
        await self.mend()
        return f"http://127.0.0.1:{self._port}"

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._open):
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        self._open |= {writer, far_writer}
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        self._open -= {writer, far_writer}


class Broker:
    """A Mosquitto on which the hub answers; it is stopped and started again."""

    name = "broker"

    def __init__(self, folder: Path) -> None:
        if PROGRAM is None:
            raise DemoFailedError("there is no mosquitto here; install it")
        self._broker = Mosquitto(folder)
        self.hub_options = ("--broker", self._broker.url)

    async def begin(self, hub_url: str) -> str:
        await self.mend()
        return self._broker.url

    async def cut(self) -> None:
        await self._broker.stop()

    async def mend(self) -> None:
        await self._broker.start()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


class Database:
    """A database of an agent, over its HTTP interface."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self.url = url

    async def request(self, method: str, path: str, body: Any = None) -> Any:
        async with self._session.request(method, self.url + path, json=body) as response:
            return msgspec.json.decode(await response.read())

    async def doc_count(self) -> int:
        return int((await self.request("GET", "")).get("doc_count", 0))

    async def leaves(self) -> Leaves:
        """Every leaf revision of every document, with its body."""
        feed = await self.request("GET", "/_changes?style=all_docs")
        asked = [
            {"id": row["id"], "rev": change["rev"]}
            for row in feed["results"]
            for change in row["changes"]
        ]
        found: Leaves = {}
        for start in range(0, len(asked), 500):
            body = {"docs": asked[start : start + 500]}
            answer = await self.request("POST", "/_bulk_get?revs=true", body)
            for result in answer["results"]:
                for entry in result["docs"]:
                    doc = entry["ok"]
                    found.setdefault(doc["_id"], {})[doc["_rev"]] = doc
        return found


@contextlib.asynccontextmanager
async def agent(*arguments: str) -> AsyncIterator[str]:
    """Runs `edge-agent` with these arguments; yields its URL. SIGTERM ends it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "agent",
        "--log-level",
        "error",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        words = (await process.stdout.readline()).decode().split()
        if words[:2] != ["listening", "on"]:
            raise DemoFailedError(f"edge-agent {arguments[0]} did not start")
        yield words[2]
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
    if process.returncode:
        raise DemoFailedError(f"edge-agent {arguments[0]} ended with status {process.returncode}")


async def until(what: str, condition: Callable[[], Awaitable[bool]]) -> None:
    try:
        async with asyncio.timeout(LONGEST_WAIT):
            while not await condition():
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise DemoFailedError(f"waited {LONGEST_WAIT:.0f} s in vain: {what}") from None


class Story:
    """Tells what happens, and does it."""

    def __init__(self, folder: Path, network: Network, console: Console, *, pauses: bool) -> None:
        self._folder = folder
        self._network = network
        self._console = console
        self._pauses = pauses
        self._node = SensorNode(
            folder / "device", folder / "sent.txt", interval_ms=INTERVAL_MS, count=FRAMES
        )

    async def tell(self) -> dict[str, Any]:
        """The whole story; returns the result."""
        async with contextlib.AsyncExitStack() as stack:
            session = await stack.enter_async_context(aiohttp.ClientSession())
            stack.callback(self._node.unplug)
            where = ("--data", str(self._folder / "hub"), "--listen", "127.0.0.1:0")
            hub_url = await stack.enter_async_context(
                agent("hub", *where, *self._network.hub_options)
            )
            far_url = await self._network.begin(hub_url)
            stack.push_async_callback(self._network.cut)
            self._node.plug_in(start=False)
            gateway_url = await stack.enter_async_context(
                agent("run", "--config", str(self._write_config(far_url)))
            )
            hub = Database(session, f"{hub_url}/edge")
            gateway = Database(session, f"{gateway_url}/edge")
            await self._say(
                f"A hub runs at {hub_url}, a gateway at {gateway_url}; /_utils/ is a dashboard."
            )
            return await self._acts(hub, gateway, Database(session, gateway_url))

    async def _acts(
        self, hub: Database, gateway: Database, gateway_root: Database
    ) -> dict[str, Any]:
        async def listening() -> bool:
            status = await gateway_root.request("GET", "/_status")
            return bool(status["devices"][0]["state"] == "open")

        await until("the gateway opens the device's port", listening)
        self._node.start()
        await self._say("The device sends readings; the gateway stores and replicates them.")
        per_frame = await self._values_per_frame()

        async def before_outage() -> bool:
            return await hub.doc_count() >= BEFORE_OUTAGE * per_frame

        await until("readings arrive at the hub", before_outage)
        await self._say(f"{await hub.doc_count()} readings have reached the hub.")

        written = await hub.request("PUT", "/setpoint", {"type": "setpoint", "value": 20})

        async def has_setpoint() -> bool:
            return bool((await gateway.request("GET", "/setpoint")).get("_rev") == written["rev"])

        await until("the gateway gets the setpoint", has_setpoint)
        await self._say("A setpoint written at the hub has reached the gateway.")

        await self._network.cut()
        at_cut = await gateway.doc_count()
        for place, value in ((hub, 22), (gateway, 18)):
            edit = {"type": "setpoint", "value": value, "_rev": written["rev"]}
            await place.request("PUT", "/setpoint", edit)
        await self._say(
            f"The {self._network.name} goes away. Both sides change the setpoint: to 22, to 18."
        )

        async def during_outage() -> bool:
            return await gateway.doc_count() >= at_cut + DURING_OUTAGE * per_frame

        await until("readings go on during the outage", during_outage)
        behind = await gateway.doc_count() - await hub.doc_count()
        if behind < DURING_OUTAGE * per_frame:
            raise DemoFailedError("the network was not cut")
        await self._say(f"Readings go on; the hub is {behind} documents behind.")

        await self._network.mend()
        mended = time.monotonic()

        async def finished() -> bool:
            if self._node.running:
                return False
            ours, theirs = await gateway.leaves(), await hub.leaves()
            return ours == theirs and len(ours) > self._sent_values()

        await until("both sides are equal", finished)
        await self._say(
            f"The {self._network.name} is back; {time.monotonic() - mended:.1f} s later the device "
            "has sent its last frame and both sides are equal."
        )
        return await self._result(gateway, hub)

    async def _values_per_frame(self) -> int:
        async def sent_one() -> bool:
            return bool(self._sent())

        await until("the device sends its first frame", sent_one)
        return len(self._sent()[0].values)

    def _sent(self) -> list[Witness]:
        return self._node.witnesses()

    def _sent_values(self) -> int:
        return sum(len(witness.values) for witness in self._sent())

    async def _result(self, gateway: Database, hub: Database) -> dict[str, Any]:
        """Holds the device's own account, the gateway and the hub against each other."""
        sent = {
            (witness.boot, witness.sequence, sensor, value)
            for witness in self._sent()
            for sensor, value in witness.values.items()
        }
        ours, theirs = await gateway.leaves(), await hub.leaves()
        stored, replicated = _readings(ours), _readings(theirs)
        conflicts = [
            (await place.request("GET", "/setpoint?conflicts=true")) for place in (gateway, hub)
        ]
        same_winner = conflicts[0]["_rev"] == conflicts[1]["_rev"]
        found = [len(document.get("_conflicts", ())) for document in conflicts]
        if found[0] != found[1]:
            raise DemoFailedError(f"conflicts: {found[0]} at the gateway, {found[1]} at the hub")
        return {
            "sent": len(sent),
            "stored": stored.total(),
            "replicated": replicated.total(),
            "missing": len(sent - stored.keys()) + len(sent - replicated.keys()),
            "duplicated": sum((stored - Counter(sent)).values())
            + sum((replicated - Counter(sent)).values()),
            "conflicts": found[0],
            "converged": ours == theirs and same_winner,
        }

    def _write_config(self, hub_url: str) -> Path:
        path = self._folder / "gateway.toml"
        path.write_text(
            f"""\
[agent]
name = "demo"
data = "gateway"

[server]
listen = "127.0.0.1:0"

[[device]]
name = "node"
port = "{self._node.port}"
adapter = "cbor-frames"

[[remote]]
name = "hub"
url = "{hub_url}/edge"
create = true
retry_cap = 1
"""
        )
        return path

    async def _say(self, text: str) -> None:
        self._console.print(f"• {text}", highlight=False)
        if self._pauses:
            await asyncio.sleep(1.5)


def _readings(leaves: Leaves) -> Counter[tuple[int, int, str, str]]:
    """Boot, sequence, sensor and value of each reading; how often it is there."""
    return Counter(
        (doc["boot"], doc["sequence"], doc["sensor"], repr(doc["value"]))
        for revisions in leaves.values()
        for doc in revisions.values()
        if doc.get("type") == "reading"
    )


def _holds(result: dict[str, Any]) -> bool:
    return bool(
        result["sent"] > 0
        and result["sent"] == result["stored"] == result["replicated"]
        and result["missing"] == result["duplicated"] == 0
        and result["conflicts"] == 1
        and result["converged"]
    )


@click.command()
@click.option("--mqtt", is_flag=True, help="Replicate through an MQTT broker, Mosquitto.")
@click.option("--once", is_flag=True, help="Without pauses for reading.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def main(mqtt: bool, once: bool, as_json: bool) -> None:
    """Show how readings and documents get through an outage."""
    console = Console(stderr=as_json)
    with tempfile.TemporaryDirectory(prefix="edge-agent-demo-") as name:
        folder = Path(name)
        pauses = not once and console.is_terminal
        try:
            network = Broker(folder / "broker") if mqtt else Line()
            result = asyncio.run(Story(folder, network, console, pauses=pauses).tell())
        except DemoFailedError as error:
            raise click.ClickException(str(error)) from error
    if as_json:
        click.echo(msgspec.json.encode(result))
    else:
        table = Table("", "")
        for key, value in result.items():
            table.add_row(key, str(value).lower())
        console.print(table)
    if not _holds(result):
        raise click.ClickException("that is not what was promised")


if __name__ == "__main__":
    main()
