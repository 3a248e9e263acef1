"""`edge-agent replicate`, between stores and a hub, to its end or until a signal."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.agents import AgentProcess, command, edge_agent
from tests.cli.helpers import documents, make_store, query, request
from tests.patience import PATIENCE, when_true
from tests.server.api import number_in

COUNT = 120


def test_store_to_store(tmp_path: Path) -> None:
    source = make_store(tmp_path / "a.sqlite", documents(COUNT))
    target = tmp_path / "b.sqlite"
    result = edge_agent("replicate", "--create-target", source, target)
    assert result.status == 0
    assert result.stderr == ""
    assert re.fullmatch(
        rf"{COUNT} revisions written, 0 were there already, 0 refused, in \d+\.\d s\n",
        result.stdout,
    )
    assert query(target, "SELECT id, gen, hash, body FROM docs ORDER BY seq") == query(
        source, "SELECT id, gen, hash, body FROM docs ORDER BY seq"
    )


def test_json_and_what_is_there_already(tmp_path: Path) -> None:
    source = make_store(tmp_path / "a.sqlite", documents(COUNT))
    target = make_store(tmp_path / "b.sqlite", documents(20))
    result = edge_agent("replicate", "--json", source, target)
    assert (result.status, result.stderr) == (0, "")
    answer = result.json()
    assert answer.pop("seconds") > 0
    assert answer == {
        "ok": True,
        "source": str(source),
        "target": str(target),
        "missing_checked": COUNT,
        "missing_found": COUNT - 20,
        "docs_read": COUNT - 20,
        "docs_written": COUNT - 20,
        "doc_write_failures": 0,
        "source_last_seq": COUNT,
        "error": None,
    }
    again = edge_agent("replicate", "--json", source, target).json()
    assert (again["ok"], again["missing_checked"]) == (True, 0)  # it goes on from the checkpoint


def test_store_to_hub_and_back(tmp_path: Path, hub_url: str) -> None:
    source = make_store(tmp_path / "a.sqlite", documents(COUNT))
    url = f"{hub_url}/there-and-back"
    pushed = edge_agent("replicate", "--json", "--create-target", source, url).json()
    assert (pushed["docs_written"], pushed["target"]) == (COUNT, url)
    assert request("GET", url)["doc_count"] == COUNT

    target = tmp_path / "b.sqlite"
    pulled = edge_agent("replicate", "--json", "--create-target", url, target).json()
    assert (pulled["docs_written"], pulled["source"]) == (COUNT, url)
    everything = "SELECT id, gen, hash, body FROM docs ORDER BY id"
    assert query(target, everything) == query(source, everything)


def test_hub_to_hub(hub_url: str) -> None:
    for name in ("one", "two"):
        request("PUT", f"{hub_url}/{name}")
    request("PUT", f"{hub_url}/one/doc", {"a": 1})
    result = edge_agent("replicate", f"{hub_url}/one", f"{hub_url}/two")
    assert (result.status, result.stderr) == (0, "")
    assert request("GET", f"{hub_url}/two/doc") == request("GET", f"{hub_url}/one/doc")


def test_a_password_may_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("hunter2\n")
    config = tmp_path / "hub.toml"
    config.write_text('[server]\nlisten = "127.0.0.1:0"\n')
    added = edge_agent(
        "user", "add", "anna", "--role", "_admin", "--config", config,
        "--password-file", tmp_path / "password",
    )  # fmt: skip
    assert added.status == 0, added
    arguments = ("hub", "--data", tmp_path / "hub", "--config", config)
    with AgentProcess(*arguments, log=tmp_path / "hub.log") as hub:
        _copy_with_password(tmp_path, hub.wait_until_ready())


def _copy_with_password(tmp_path: Path, hub_url: str) -> None:
    source = make_store(tmp_path / "a.sqlite", documents(3))
    url = f"{hub_url.replace('//', '//anna@')}/password-file"
    result = edge_agent(
        "replicate",
        "--create-target",
        "--target-password-file",
        tmp_path / "password",
        source,
        url,
    )
    assert (result.status, result.stderr) == (0, "")
    target = tmp_path / "back.sqlite"
    back = ("replicate", "--create-target", "--source-password-file", tmp_path / "password")
    assert edge_agent(*back, url, target).status == 0
    assert query(target, "SELECT count(*) FROM docs") == [(3,)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_continuous_ends_with_a_checkpoint(
    number: signal.Signals, tmp_path: Path, hub_url: str
) -> None:
    url = f"{hub_url}/continuous-{number}"
    request("PUT", url)
    request("PUT", f"{url}/before", {})
    target = tmp_path / "b.sqlite"

    def there(id: str) -> bool:
        return (id,) in query(target, "SELECT id FROM docs")

    arguments = ("--continuous", "--create-target", "--json", url, make_store(target))
    with AgentProcess("replicate", *arguments, log=tmp_path / "log") as process:
        when_true(lambda: there("before"))
        request("PUT", f"{url}/later", {})
        when_true(lambda: there("later"))
        result = process.stop(number)
    assert (result.status, result.stderr) == (0, "")
    answer = result.json()
    assert (answer["ok"], answer["docs_written"], answer["error"]) == (True, 2, None)

    ((id, body),) = query(target, "SELECT id, body FROM local")
    for log in (json.loads(body), request("GET", f"{url}/_local/{id}")):
        assert log["source_last_seq"] == answer["source_last_seq"]
        assert number_in(log["source_last_seq"]) == 2
        assert log["history"][0]["docs_written"] == 2


def test_an_interrupted_run_says_so(tmp_path: Path) -> None:
    """The server accepts connections and never answers: stands for one that hangs."""
    source = make_store(tmp_path / "a.sqlite", documents(3))
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/db"
        with AgentProcess("replicate", "--json", source, url, log=tmp_path / "log") as process:
            connection, _ = server.accept()
            with connection:
                result = process.stop(signal.SIGINT)
    assert result.complaint() == "interrupted; run it again, it goes on from where it was"
    assert result.json()["error"] == result.complaint()


def test_json_and_a_failure(tmp_path: Path, free_port: int) -> None:
    source = make_store(tmp_path / "a.sqlite")
    url = f"http://127.0.0.1:{free_port}/db"
    result = edge_agent("replicate", "--json", source, url)
    answer = result.json()
    assert answer["ok"] is False
    assert answer["error"] == result.complaint()


def test_progress_on_a_terminal(tmp_path: Path, hub_url: str) -> None:
    """What remains and documents per second; a terminal that is 100 columns wide."""
    source = make_store(tmp_path / "a.sqlite", documents(3000))
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        command("replicate", "--continuous", "--create-target", source, f"{hub_url}/terminal"),
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "COLUMNS": "100", "TERM": "xterm"},
        text=True,
    )
    os.close(theirs)
    try:
        shown = read_until(ours, rb"live.* 3000 done, 0 left, [1-9]\d*/s")
        process.send_signal(signal.SIGINT)
        drain(ours)
        stdout, _ = process.communicate(timeout=PATIENCE)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert b"Traceback" not in shown
    assert process.returncode == 0
    assert stdout.startswith("3000 revisions written, ")


def read_until(terminal: int, pattern: bytes) -> bytes:
    """What is written on a terminal, up to a match for `pattern`, without colours."""
    shown = b""
    end = time.monotonic() + PATIENCE
    while not re.search(pattern, re.sub(rb"\x1b\[[0-9;?]*[A-Za-z]", b"", shown)):
        assert time.monotonic() < end, shown
        if select.select([terminal], [], [], 1)[0]:
            shown += os.read(terminal, 65536)
    return shown


def drain(terminal: int) -> None:
    """Read the rest, so that the process does not wait for the terminal."""
    try:
        while os.read(terminal, 65536):
            pass
    except OSError:  # how Linux says that the other end was closed
        pass


def test_progress_is_not_shown_elsewhere(tmp_path: Path) -> None:
    source = make_store(tmp_path / "a.sqlite", documents(3))
    environment: dict[str, Any] = {"FORCE_COLOR": "1"}
    result = edge_agent(
        "replicate", "--create-target", source, tmp_path / "b.sqlite", environment=environment
    )
    assert result.stderr == ""
