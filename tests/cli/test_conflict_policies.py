"""Policies in real agents: a hub and a gateway over HTTP, and a policy of somebody's package."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest

from tests import agents
from tests.agents import table
from tests.cli.helpers import request
from tests.packages import example, publish
from tests.patience import when_true
from tests.rig.network import find_free_port

MERGE = table("conflict", name="merge", policy="merge", then="winner", database="edge")


def put(url: str, id: str, **members: Any) -> str:
    rev: str = request("PUT", f"{url}/edge/{id}", members)["rev"]
    return rev


def leaves(url: str, id: str) -> list[str]:
    """The revisions of all leaves, tombstones among them."""
    query = f"style=all_docs&filter=_doc_ids&doc_ids=%5B%22{id}%22%5D"
    [row] = request("GET", f"{url}/edge/_changes?{query}")["results"]
    return sorted(change["rev"] for change in row["changes"])


def test_a_hub_and_a_gateway_resolve_the_same_conflicts_to_the_same(tmp_path: Path) -> None:
    """Both edit while they are apart; both have the policy; both meet the conflict at once."""
    hub_config = tmp_path / "hub.toml"
    hub_config.write_text(MERGE)
    port = find_free_port()
    count = 20

    def start_hub() -> agents.AgentProcess:
        return agents.AgentProcess(
            "hub", "--data", tmp_path / "hub", "--config", hub_config, "--listen",
            f"127.0.0.1:{port}", log=tmp_path / "hub.log",
        )  # fmt: skip

    remote = table("remote", name="hub", url=f"http://127.0.0.1:{port}/edge", create=True,
                   retry_cap=0.2)  # fmt: skip
    config = agents.gateway_config(tmp_path / "gateway.toml", remote, MERGE)
    with agents.gateway(config) as gateway:
        url = gateway.wait_until_ready().rstrip("/")
        with start_hub() as hub:
            hub_url = hub.wait_until_ready().rstrip("/")
            bases = [put(url, f"d{n}", n=n, gateway=0, hub=0) for n in range(count)]
            for n in range(count):
                when_true(lambda n=n: exists(hub_url, f"d{n}"))
            hub.stop()
        for n, base in enumerate(bases):
            put(url, f"d{n}", _rev=base, n=n, gateway=1, hub=0)
        with agents.hub(tmp_path / "hub") as apart:  # where the gateway does not look for it
            apart_url = apart.wait_until_ready().rstrip("/")
            for n, base in enumerate(bases):
                put(apart_url, f"d{n}", _rev=base, n=n, gateway=0, hub=1)
            apart.stop()
        with start_hub() as hub:
            hub_url = hub.wait_until_ready().rstrip("/")
            for n in range(count):
                merged = {"n": n, "gateway": 1, "hub": 1}
                for side in (url, hub_url):
                    when_true(lambda n=n, side=side, merged=merged: body(side, f"d{n}") == merged)
                # The base, two edits, the merged one and the tombstone: two for the conflict.
                when_true(lambda n=n: leaves(url, f"d{n}") == leaves(hub_url, f"d{n}"))
                assert [leaf[0] for leaf in leaves(url, f"d{n}")] == ["3", "3"]
            resolved = 0
            for side in (url, hub_url):
                conflicts = request("GET", f"{side}/_status")["conflicts"]
                assert conflicts["present"] == 0
                assert conflicts["policies"]["merge"]["failed"] == 0
                resolved += conflicts["policies"]["merge"]["resolved"]
                record = request("GET", f"{side}/edge/_resolutions")["rows"]
                assert all(row["by"] == "policy merge" for row in record)
            assert resolved >= count
        assert "ERROR" not in gateway.log


def exists(url: str, id: str) -> bool:
    try:
        return bool(request("GET", f"{url}/edge/{id}"))
    except HTTPError as error:
        if error.code != 404:
            raise
        return False  # the database itself may not be there yet


def body(url: str, id: str) -> Any:
    doc = request("GET", f"{url}/edge/{id}?conflicts=true")
    return {name: value for name, value in doc.items() if name not in ("_id", "_rev")}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The example of docs/conflicts.md, and a policy that is broken."""
    folder = tmp_path / "site"
    broken = "\n\ndef broken(base, leaves, context):\n    raise RuntimeError('out of order')\n"
    policies = {"highest-bid": "auction:highest_bid", "broken": "auction:broken"}
    publish(folder, "auction", example() + broken, policies)
    monkeypatch.setenv("PYTHONPATH", str(folder))


def test_a_policy_of_a_package_decides_and_a_broken_one_harms_nobody(
    package: None, tmp_path: Path
) -> None:
    tables = """
[[conflict]]
name = "broken"
policy = "python"
entry_point = "broken"
selector = { type = "odd" }

[[conflict]]
name = "bids"
policy = "python"
entry_point = "highest-bid"

[conflict.settings]
field = "bid"
"""
    with agents.gateway(agents.gateway_config(tmp_path / "g.toml", tables)) as gateway:
        url = gateway.wait_until_ready().rstrip("/")

        def conflict(id: str, *sides: dict[str, Any]) -> None:
            base = put(url, id, **{**sides[0], "bid": 0})
            docs = [
                {**side, "_id": id, "_rev": f"2-{letter}",
                 "_revisions": {"start": 2, "ids": [letter, base[2:]]}}
                for letter, side in zip("ba", sides, strict=True)
            ]  # fmt: skip
            request("POST", f"{url}/edge/_bulk_docs", {"docs": docs, "new_edits": False})

        conflict("odd", {"type": "odd", "bid": 1}, {"type": "odd", "bid": 2})
        conflict("bids", {"bid": 5, "by": "anna"}, {"bid": 7, "by": "ben"})
        conflict("same", {"bid": 5, "by": "anna"}, {"bid": 5, "by": "ben"})
        when_true(lambda: body(url, "bids") == {"bid": 7, "by": "ben"})
        status = when_true(
            lambda: (
                (found := request("GET", f"{url}/_status")["conflicts"])["policies"]["bids"]
                == {"resolved": 1, "undecided": 1, "failed": 0}
                and found
            )
        )
        assert status["policies"]["broken"] == {"resolved": 0, "undecided": 0, "failed": 1}
        assert status["present"] == 2
        rows = request("GET", f"{url}/edge/_conflicts?include_docs=true")["rows"]
        odd, same = rows
        assert (odd["policy"], odd["state"]) == ("broken", "failed")
        assert odd["reason"] == "RuntimeError: out of order"
        assert [leaf["bid"] for leaf in odd["leaves"]] == [1, 2]
        assert (same["policy"], same["state"]) == ("bids", "undecided")
        assert "out of order" in gateway.log


def test_a_policy_that_hangs_does_not_keep_the_agent_from_stopping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
import pathlib, time

def hang(base, leaves, context):
    pathlib.Path(context.settings["called"]).touch()
    time.sleep(600)
"""
    publish(tmp_path / "site", "hangs", code, {"hang": "hangs:hang"})
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "site"))
    called = tmp_path / "called"
    entry = table("conflict", name="hang", policy="python", entry_point="hang")
    settings = f'[conflict.settings]\ncalled = "{called}"\n'
    with agents.gateway(agents.gateway_config(tmp_path / "g.toml", entry + settings)) as gateway:
        url = gateway.wait_until_ready().rstrip("/")
        base = put(url, "a", v=0)
        history = [{"start": 2, "ids": [letter, base[2:]]} for letter in "ba"]
        docs = [{"_id": "a", "_rev": f"2-{each['ids'][0]}", "_revisions": each} for each in history]
        request("POST", f"{url}/edge/_bulk_docs", {"docs": docs, "new_edits": False})
        when_true(called.exists)
        assert gateway.stop().status == 0
