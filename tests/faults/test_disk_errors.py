"""A disk that reports errors (EIO) when it is read, written and synced, under real processes."""

from __future__ import annotations

import signal
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.agents import AgentProcess
from tests.cli.helpers import request
from tests.rig.disk_errors import DiskErrors


@pytest.fixture
def disk(tmp_path: Path) -> DiskErrors:
    return DiskErrors(tmp_path)


@pytest.fixture
def hub(tmp_path: Path, disk: DiskErrors) -> Callable[[], AgentProcess]:
    def start() -> AgentProcess:
        options = ("--data", tmp_path / "data", "--listen", "127.0.0.1:0")
        return AgentProcess("hub", *options, log=tmp_path / "log", environment=disk.environment)

    return start


def refused(method: str, url: str, body: Any = None) -> str:
    """The reason."""
    with pytest.raises(urllib.error.HTTPError) as caught:
        request(method, url, body)
    assert caught.value.code in (500, 503)
    assert (caught.value.headers["Retry-After"] is None) == (caught.value.code == 500)
    return caught.value.read().decode()


def ids(url: str) -> list[str]:
    return [row["id"] for row in request("GET", f"{url}/db/_all_docs")["rows"]]


def test_what_did_not_reach_the_disk_is_never_acknowledged(
    hub: Callable[[], AgentProcess], disk: DiskErrors
) -> None:
    """After a failed fsync the next one succeeds, though nothing was written; so what it was for
    must not count, neither at once nor after a restart."""
    acknowledged = []
    with hub() as process:
        url = process.wait_until_ready()
        request("PUT", f"{url}/db")
        for number, fault in enumerate(["fsync -wal", "write -wal", "fsync -wal", "write .sqlite"]):
            request("PUT", f"{url}/db/good{number}", {"n": number, "text": "x" * 20_000})
            disk.set(fault)
            if fault.endswith("-wal"):
                reason = refused("PUT", f"{url}/db/bad{number}", {"n": number})
                assert "the disk reports an error (SQLITE_IOERR_" in reason
                assert "check the card and the system's log" in reason
            else:  # what has to be written there has time
                request("PUT", f"{url}/db/bad{number}", {"n": number})
                request("DELETE", f"{url}/db/bad{number}?rev={rev_of(url, f'bad{number}')}")
            disk.set()
            acknowledged.append(f"good{number}")
            assert ids(url) == acknowledged
        process.send(signal.SIGKILL)
    with hub() as process:
        url = process.wait_until_ready()
        assert ids(url) == acknowledged
        assert process.stop().status == 0


def rev_of(url: str, id: str) -> str:
    return str(request("GET", f"{url}/db/{id}")["_rev"])


def test_a_store_that_cannot_be_read_is_no_other_store(
    hub: Callable[[], AgentProcess], disk: DiskErrors, tmp_path: Path
) -> None:
    """An error is said; nothing is set aside, nothing made anew; it goes on when the disk does."""
    with hub() as process:
        url = process.wait_until_ready()
        request("PUT", f"{url}/db")
        request("PUT", f"{url}/db/x", {"n": 1})
        process.send(signal.SIGKILL)
    for fault in ("read .sqlite", "read -wal", "fsync -wal"):
        disk.set(fault)
        with hub() as process:
            url = process.wait_until_ready()
            assert "disk" in refused("GET", f"{url}/db/x")
            disk.set()
            assert request("GET", f"{url}/db/x")["n"] == 1
            process.send(signal.SIGKILL)
    assert list(tmp_path.glob("data/*.damaged*")) == []


def test_a_stop_in_which_the_lock_cannot_be_written_is_one_in_order(
    hub: Callable[[], AgentProcess], disk: DiskErrors, tmp_path: Path
) -> None:
    with hub() as process:
        url = process.wait_until_ready()
        request("PUT", f"{url}/db")
        request("PUT", f"{url}/db/x", {"n": 1})
        disk.set("write .lock")
        stopped = process.stop()
        assert stopped.status == 0
        assert "Traceback" not in (tmp_path / "log").read_text()
        disk.set()
    assert not (tmp_path / "data" / "db.sqlite-wal").exists()
    with hub() as process:
        url = process.wait_until_ready()
        assert request("GET", f"{url}/db/x")["n"] == 1
        assert request("GET", f"{url}/_status")["damaged"] == []  # and no WAL was missed
        assert process.stop().status == 0
