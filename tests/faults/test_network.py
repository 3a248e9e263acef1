"""What networks do to a gateway, one by one: a real gateway and a real hub, with what is between
them under the test's control.

Each time the same is asked: it says clearly what is wrong, takes nothing for data that is none,
goes on by itself when it is over, and in the end both sides have everything.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import ssl
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from tests.faults.site import PASSWORD, USER, Place, Site, contents, get
from tests.patience import PATIENCE, until
from tests.peers.pouchdb_server import PouchDBServer
from tests.replication.test_lanes import back_up
from tests.rig.line import Line
from tests.rig.wire import Wire, can_make_wires

HEARTBEAT = 1.0


@contextlib.asynccontextmanager
async def running(folder: Path, line: Line, **options: Any) -> AsyncIterator[Trial]:
    """A gateway whose remote, the hub, is at the end of the line."""
    options = {"url": f"http://127.0.0.1:{line.port}/edge", "heartbeat": HEARTBEAT, **options}
    site = Site(folder, user=USER, password=PASSWORD, **options)
    line.target = site.hub.port
    async with site.running() as session:
        trial = Trial(site, session)
        yield trial
        await site.converge(session)
    found = contents(site.gateway.file)
    assert found.leaves == contents(site.hub.file).leaves
    # With TLS the remote also tells the time, and the agent keeps account of its clock.
    ours = {id for id in found.documents() if not id.startswith("clock:")}
    assert ours == trial.written


class Trial:
    """A site, and what the test has written there."""

    def __init__(self, site: Site, session: aiohttp.ClientSession) -> None:
        self.site = site
        self.hub, self.gateway = site.hub, site.gateway
        self.session = session
        self.written: set[str] = set()

    async def write(self, place: Place, *, count: int = 1, name: str = "") -> None:
        """Write documents at one side; `name`, by default the place's, begins their ids."""
        name = name or place.name
        docs = [{"_id": f"{name}:{len(self.written) + n}"} for n in range(count)]

        async def done() -> bool:
            with contextlib.suppress(aiohttp.ClientError):  # it may still be starting
                url = f"{place.url}/edge/_bulk_docs"
                async with self.session.post(url, json={"docs": docs}) as response:
                    return response.status == 201
            return False

        if place is self.hub:
            await self.made()
        await until(done, f"{place.name} takes documents")
        self.written |= {doc["_id"] for doc in docs}

    async def made(self) -> None:
        """The hub's database is there."""

        async def there() -> bool:
            with contextlib.suppress(aiohttp.ClientError):
                async with self.session.put(f"{self.hub.url}/edge") as response:
                    return response.status in (201, 412)
            return False

        await until(there, "the hub has a database")

    async def nothing_is_pending(self) -> None:
        """Wait until neither direction has anything left to do."""

        async def there() -> bool:
            jobs = await self.jobs()
            return bool(jobs) and all(job["pending"] == 0 for job in jobs.values())

        await until(there, "nothing is pending", every=0.1)

    async def noted(self) -> dict[str, Any]:
        """Wait until both directions have written a checkpoint of all that there is; returns the
        logs."""
        await self.nothing_is_pending()
        before = await self.logs()
        after: dict[str, Any] = {}

        async def newer() -> bool:
            await self.write(self.gateway)  # which comes back, so both have something to record
            after.update(await self.logs())
            return len(after) == 2 and all(before.get(id) != rev for id, rev in after.items())

        await until(newer, "checkpoints", every=0.2)
        return after

    async def moved(self, hub: Place) -> None:
        """Another hub has taken the place of the one that there was."""
        await self.hub.stop()
        self.hub = self.site.hub = hub
        self.site.places = (hub, self.gateway)

    async def logs(self) -> dict[str, Any]:
        """The replication logs at the hub."""
        page = await get(self.session, f"{self.hub.url}/edge/_local_docs?include_docs=true")
        return {row["id"]: row["doc"]["_rev"] for row in (page or {}).get("rows", ())}

    async def arrive(self, *more: Place) -> None:
        """Wait until everything that was written is at both sides, and at `more`."""

        async def there() -> bool:
            for place in (*self.site.places, *more):
                page = await get(self.session, f"{place.url}/edge/_all_docs")
                rows = (page or {}).get("rows", ())
                if not self.written <= {row["id"] for row in rows}:
                    return False
            return True

        await until(there, "everything arrives", every=0.1)

    async def exchange(self, *, count: int = 1) -> None:
        """Write something at both sides, and wait until both have it."""
        for place in self.site.places:
            await self.write(place, count=count)
        await self.arrive()

    async def jobs(self) -> dict[str, Any]:
        """The status of "push" and "pull"; empty while the gateway does not answer."""
        status = await get(self.session, f"{self.gateway.url}/_status")
        return {each: status["remotes"][0][each] for each in ("push", "pull")} if status else {}

    async def complaint(self, about: str) -> dict[str, Any]:
        """Wait until both directions complain of something in these words; returns their status."""
        found: dict[str, Any] = {}

        async def complains() -> bool:
            found.update(await self.jobs())
            return bool(found) and all(about in (job["last_error"] or "") for job in found.values())

        await until(complains, f"both complain: {about}", every=0.1)
        return found

    async def quiet(self) -> None:
        """Wait until neither direction complains any more."""

        async def calm() -> bool:
            jobs = await self.jobs()
            return bool(jobs) and not any(job["last_error"] for job in jobs.values())

        await until(calm, "the complaints end", every=0.1)


@contextlib.asynccontextmanager
async def standing_in(answer: Callable[[], web.Response]) -> AsyncIterator[TestServer]:
    """A server that has the same answer for everybody."""

    async def handle(_: web.Request) -> web.Response:
        return answer()

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handle)
    server = TestServer(app)
    await server.start_server(shutdown_timeout=0.1)
    try:
        yield server
    finally:
        await server.close()


# --- links -----------------------------------------------------------------------------------


@pytest.mark.parametrize("feed", ["continuous", "longpoll"])
async def test_connections_whose_other_end_is_gone(feed: str, tmp_path: Path) -> None:
    """No FIN, no RST: only that heartbeats stay away tells it. New connections work."""
    async with Line() as line, running(tmp_path, line, feed=feed) as trial:
        await trial.exchange()
        line.abandon()
        await trial.exchange()


async def test_two_seconds_of_latency(tmp_path: Path) -> None:
    async with Line() as line, running(tmp_path, line) as trial:
        await trial.exchange()
        line.delay = 2.0
        await trial.exchange(count=20)
        assert all(job["state"] != "failed" for job in (await trial.jobs()).values())
        line.delay = 0.0


async def test_a_proxy_that_cuts_connections(tmp_path: Path) -> None:
    async with Line() as line, running(tmp_path, line, heartbeat=30) as trial:
        line.lifetime = 1.0
        while line.accepted < 8:
            await trial.exchange()
        assert all(job["state"] != "failed" for job in (await trial.jobs()).values())


@pytest.fixture
async def wire() -> AsyncIterator[Wire]:
    if not can_make_wires():
        pytest.skip("only root may make network devices")
    async with Wire(seed=7) as wire:
        yield wire


async def test_a_third_of_all_packets_is_lost(wire: Wire, tmp_path: Path) -> None:
    async with Line(host=wire.near) as line:
        url = f"http://{wire.far}:{line.port}/edge"
        async with running(tmp_path, line, url=url, heartbeat=30) as trial:
            await trial.exchange()
            wire.loss = 0.3
            for _ in range(3):
                await trial.exchange(count=20)
            assert wire.lost > 5
            wire.loss = 0.0


async def test_eight_kilobits_a_second(wire: Wire, tmp_path: Path) -> None:
    async with Line(host=wire.near) as line:
        url = f"http://{wire.far}:{line.port}/edge"
        wire.bits_per_second = 8000
        async with running(tmp_path, line, url=url, heartbeat=30) as trial:
            await trial.exchange(count=10)
            assert all(job["state"] != "failed" for job in (await trial.jobs()).values())
            wire.bits_per_second = None


async def test_a_link_that_goes_dead_in_the_middle(wire: Wire, tmp_path: Path) -> None:
    """Nothing comes through in either direction, and nobody is told. Then it is back."""
    async with Line(host=wire.near) as line:
        url = f"http://{wire.far}:{line.port}/edge"
        async with running(tmp_path, line, url=url) as trial:
            await trial.exchange()
            wire.loss = 1.0
            for place in trial.site.places:
                await trial.write(place, count=50)
            await trial.complaint("does not answer")
            wire.loss = 0.0
            await trial.arrive()
            await trial.quiet()


# --- who answers in the hub's place ----------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (
            lambda: web.Response(text="<title>Log in</title>", content_type="text/html"),
            "is not CouchDB's JSON; check the URL, or log in to the network",
        ),
        (
            lambda: web.Response(status=302, headers={"Location": "http://portal.test/login"}),
            "redirects to 'http://portal.test/login' (302)",
        ),
    ],
    ids=["a page", "a redirect"],
)
async def test_a_captive_portal(
    answer: Callable[[], web.Response], words: str, tmp_path: Path
) -> None:
    async with standing_in(answer) as portal, Line() as line, running(tmp_path, line) as trial:
        await trial.exchange()
        await trial.nothing_is_pending()
        line.target = portal.port or 0
        await line.break_all()
        await trial.write(trial.gateway, count=5)
        jobs = await trial.complaint(words)
        assert jobs["push"]["pending"] == 5
        line.target = trial.hub.port
        await trial.exchange()
        await trial.quiet()


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize("wait", [None, 2])
async def test_a_hub_that_is_busy(status: int, wait: int | None, tmp_path: Path) -> None:
    headers = {} if wait is None else {"Retry-After": str(wait)}
    asked: list[float] = []

    def refuse() -> web.Response:
        asked.append(time.time())
        return web.json_response({"error": "busy"}, status=status, headers=headers)

    async with standing_in(refuse) as busy, Line() as line, running(tmp_path, line) as trial:
        await trial.exchange()
        line.target = busy.port or 0
        await line.break_all()
        await trial.write(trial.gateway)
        jobs = await trial.complaint(f"is busy or out of order ({status}")
        if wait is None:
            await until(lambda: len(asked) > 6, "it is tried again and again")
        else:
            tries = [job["retry_at"] for job in jobs.values() if job["retry_at"]]
            assert tries
            assert min(datetime.fromisoformat(each).timestamp() for each in tries) > asked[0] + wait
        line.target = trial.hub.port
        await line.break_all()
        await trial.exchange()
        await trial.quiet()


@pytest.fixture
def certificates(tmp_path: Path) -> tuple[Path, Path]:
    """One that has expired and one that has not, for 127.0.0.1, each with its key in the file."""
    folder = tmp_path / "certificates"
    folder.mkdir()
    key = folder / "key.pem"
    request = folder / "request.pem"
    (folder / "index.txt").touch()
    (folder / "ca.cnf").write_text(
        f"[ca]\ndefault_ca=own\n[own]\ndatabase={folder}/index.txt\nnew_certs_dir={folder}\n"
        "default_md=sha256\npolicy=any\nrand_serial=yes\nx509_extensions=ext\n"
        "unique_subject=no\n[any]\ncommonName=supplied\n[ext]\nsubjectAltName=IP:127.0.0.1\n"
    )
    openssl(
        "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
        "-subj", "/CN=127.0.0.1", "-keyout", key, "-out", request,
    )  # fmt: skip
    made = []
    for name, begins, ends in (
        ("expired", "20200101000000Z", "20200201000000Z"),
        ("valid", "20200101000000Z", "20990101000000Z"),
    ):
        file = folder / f"{name}.pem"
        openssl(
            "ca", "-batch", "-selfsign", "-notext", "-config", folder / "ca.cnf", "-keyfile", key,
            "-in", request, "-out", file, "-subj", f"/CN={name}", "-startdate", begins,
            "-enddate", ends,
        )  # fmt: skip
        made.append(file)
    return made[0], made[1]


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


async def test_a_certificate_that_has_expired(
    certificates: tuple[Path, Path], tmp_path: Path
) -> None:
    expired, valid = certificates
    key = valid.with_name("key.pem")
    trusted = tmp_path / "ca.pem"
    trusted.write_text(expired.read_text() + valid.read_text())
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(valid, key)
    async with Line(tls=tls) as line:
        url = f"https://127.0.0.1:{line.port}/edge"
        async with running(tmp_path, line, url=url, ca_file=str(trusted)) as trial:
            await trial.exchange()
            tls.load_cert_chain(expired, key)
            await line.break_all()
            await trial.write(trial.gateway)
            await trial.complaint(
                "the certificate does not verify (certificate has expired); check this device's "
                "clock, then the certificate's dates"
            )
            tls.load_cert_chain(valid, key)
            await trial.exchange()
            await trial.quiet()


async def test_a_name_that_is_not_found(tmp_path: Path) -> None:
    """The agent has a hosts file of its own, and a resolver that does not answer."""
    if not can_make_wires():
        pytest.skip("only root may lay files over those in /etc")
    hosts, resolver = tmp_path / "hosts", tmp_path / "resolv.conf"
    known = "127.0.0.1 hub.test\n"
    hosts.write_text(known)
    resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    over = f'mount --bind {hosts} /etc/hosts; mount --bind {resolver} /etc/resolv.conf; exec "$@"'
    prefix = ["unshare", "--mount", "sh", "-c", over, "sh"]
    async with Line() as line:
        url = f"http://hub.test:{line.port}/edge"
        async with running(tmp_path, line, url=url, prefix=prefix) as trial:
            await trial.exchange()
            hosts.write_text("")
            await line.break_all()
            await trial.write(trial.gateway)
            await trial.complaint("the host name cannot be resolved")
            hosts.write_text(known)
            await trial.exchange()
            await trial.quiet()


# --- remotes that are not what they were -----------------------------------------------------


async def test_a_hub_restored_from_an_old_backup(tmp_path: Path) -> None:
    """The backup has the latest checkpoints, and lacks what came after them. It takes the hub's
    place at once, so no request fails, and the gateway has nothing new to send.
    """
    restored = Site(tmp_path / "restored", user=USER, password=PASSWORD)
    folder = restored.hub.file.parent
    async with Line() as line, running(tmp_path, line, checkpoint_interval=60) as trial:
        await trial.exchange(count=30)
        folder.mkdir(parents=True)
        while True:  # until there was none meanwhile; they come less and less often
            logs = await trial.noted()
            await asyncio.to_thread(back_up, trial.hub.file, restored.hub.file)
            restored.hub.start()
            await asyncio.to_thread(restored.hub.wait_until_ready)
            await trial.exchange(count=30)
            if await trial.logs() == logs:
                break
            await restored.hub.stop()
        line.target = restored.hub.port
        await line.break_all()
        await trial.moved(restored.hub)
        await trial.write(trial.hub, count=5)  # with sequences that the other has given before
        await trial.arrive()


async def test_a_hub_made_again_empty(tmp_path: Path) -> None:
    async with Line() as line, running(tmp_path, line) as trial:
        await trial.exchange(count=30)
        async with trial.session.delete(f"{trial.hub.url}/edge") as response:
            assert response.status == 200
        await trial.arrive()
        await trial.exchange()


async def test_a_pouchdb_server_restored_and_made_again(tmp_path: Path) -> None:
    """As above, with a server whose sequences and instances are not ours."""
    server = PouchDBServer(tmp_path / "pouchdb-server")
    site = Site(tmp_path, url=f"{server.url}/edge", heartbeat=HEARTBEAT)
    timeout = aiohttp.ClientTimeout(total=PATIENCE)
    await server.start()
    async with contextlib.AsyncExitStack() as stack:
        stack.push_async_callback(server.stop)
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        stack.callback(site.gateway.kill)
        site.gateway.start()
        trial = Trial(site, session)

        async def there() -> bool:
            page = await get(session, f"{server.url}/edge/_all_docs")
            return trial.written <= {row["id"] for row in (page or {}).get("rows", ())}

        async def arrive(count: int) -> None:
            await trial.write(site.gateway, count=count)
            await until(there, "everything arrives", every=0.1)

        await arrive(20)
        await server.stop()
        backup = tmp_path / "backup"
        shutil.copytree(server.directory, backup)
        await server.start()
        await arrive(20)
        await server.stop()
        shutil.rmtree(server.directory)
        shutil.copytree(backup, server.directory)
        await server.start()
        await arrive(1)
        async with session.delete(f"{server.url}/edge") as response:
            assert response.status == 200
        await arrive(1)
        await site.gateway.stop()


async def test_two_gateways_with_a_copied_card(tmp_path: Path) -> None:
    """Both say so, each goes on, and nothing of either is lost."""
    site, copied = Site(tmp_path), Site(tmp_path / "copied")
    copied.hub.port, copied.hub.url = site.hub.port, site.hub.url
    async with site.running() as session:
        trial = Trial(site, session)
        await trial.exchange(count=10)
        await site.gateway.stop()
        shutil.copytree(tmp_path / "gateway", tmp_path / "copied" / "gateway")
        site.gateway.start()
        copied.gateway.start()
        both = (site.gateway, copied.gateway)
        try:

            async def noticed() -> bool:
                statuses = []
                for name, gateway in zip("ab", both, strict=True):
                    await trial.write(gateway, name=name)
                    statuses.append(await get(session, f"{gateway.url}/_status"))
                return all(map(tells_of_a_clone, statuses))

            await until(noticed, "both notice the other", every=0.3)
            assert all("is this a copied card?" in gateway.log for gateway in both)
            await trial.arrive(copied.gateway)
            await copied.gateway.stop()
            await site.converge(session)
        finally:
            copied.gateway.kill()


def tells_of_a_clone(status: Any) -> bool:
    jobs = [status["remotes"][0][direction] for direction in ("push", "pull")]
    words = [each["what"] for each in status["attention"]]
    return any(job["clone_seen"] for job in jobs) and any(
        "another agent with this one's identity" in each for each in words
    )
