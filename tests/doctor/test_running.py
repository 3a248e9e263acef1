"""What the doctor makes of a running agent's status, and the commands that it prints for it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.cli.doctor import options_for
from agent.cli.running import Where
from agent.config import AgentConfig, Config, HubConfig
from agent.doctor.running import status
from tests import agents
from tests.agents import AgentProcess
from tests.cli.helpers import documents, in_process, make_store, request
from tests.doctor.examined import examined
from tests.patience import when_true
from tests.rig.network import find_free_port

SALVAGED = {"documents": 5, "before": 6000}
DAMAGED = {"database": "edge", "file": "d/edge.sqlite.damaged-1", "reason": None}
HASH = "$scrypt$ln=14,r=8,p=5$AAAAAAAAAAAAAAAAAAAAAA$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
CLOUD = {"name": "cloud", "url": "https://cloud.example.org/edge"}


def mended(config: dict[str, Any], told: dict[str, Any]) -> list[str | None]:
    made = msgspec.convert({"agent": {"data": "d"}, **config}, Config)
    return [finding.mend for finding in status(told, made)[1:]]


def different(**remote: Any) -> dict[str, Any]:
    return {"remotes": [{"name": "cloud", "verified": {"different": 2}, **remote}]}


@pytest.mark.parametrize(
    ("config", "command"),
    [
        (
            {"remote": [CLOUD]},
            "edge-agent verify http://127.0.0.1:5984/edge https://cloud.example.org/edge --repair",
        ),
        (
            {
                "server": {"listen": "[::]:7000"},
                "user": [{"name": "an na", "password_hash": HASH, "roles": ["_admin"]}],
                "remote": [
                    {**CLOUD, "user": "g@1", "password_file": "/a b", "ca_file": "/etc/ca.pem"}
                ],
            },
            "edge-agent verify 'http://an%20na@[::1]:7000/edge'"
            " https://g%401@cloud.example.org/edge --source-password-file PASSWORD_FILE"
            " --target-password-file '/a b' --ca-file /etc/ca.pem --repair",
        ),
        (
            {"remote": [{**CLOUD, "url": "mqtts://g:hunter2@broker.example.org/edge"}]},
            "edge-agent verify http://127.0.0.1:5984/edge mqtts://g@broker.example.org/edge"
            " --target-password-file PASSWORD_FILE --repair",
        ),
    ],
)
def test_the_command_for_documents_that_differ(config: dict[str, Any], command: str) -> None:
    assert mended(config, different()) == [command]


def test_the_file_of_a_damaged_database_stays_until_the_remotes_have_sent_the_rest() -> None:
    some = {**CLOUD, "name": "some", "pull_doc_ids": ["a"]}  # never has the same documents
    told = {"damaged": [{**DAMAGED, "salvaged": SALVAGED}]}
    [mend] = mended({"remote": [CLOUD, some, {**CLOUD, "name": "sink", "direction": "push"}]}, told)
    assert mend == (
        "edge-agent verify http://127.0.0.1:5984/edge https://cloud.example.org/edge"
        " && rm d/edge.sqlite.damaged-1*"
    )
    # Where nothing can be compared, a person has to know.
    for config in (HubConfig(), Config(agent=AgentConfig(data="d"))):
        _, found = status(told, config)
        assert found.mend == "rm d/edge.sqlite.damaged-1*"
        assert "5 of 6,000 documents could be copied, and d/edge.sqlite.damaged-1 is" in found.text
        assert "; remove that when those who replicate with it, if any, have sent" in found.text


def test_conflicts_of_all_databases_of_a_hub() -> None:
    told = {"conflicts": {"present": 3, "databases": {"a": 1, "b$c": 2}}}
    assert [(each.subject, each.mend) for each in status(told, HubConfig())[1:]] == [
        ("conflicts of a", "edge-agent conflicts list --database a"),
        ("conflicts of b$c", "edge-agent conflicts list --database 'b$c'"),
    ]
    own = {"database": {"name": "edge", "conflicts": 2}, "conflicts": {"present": 2}}
    assert mended({}, own) == ["edge-agent conflicts list"]


def test_what_is_printed_for_documents_that_differ_can_be_pasted(tmp_path: Path) -> None:
    with agents.hub(tmp_path / "hub") as hub:
        hub_url = hub.wait_until_ready()
        request("PUT", f"{hub_url}/edge")
        rev = request("PUT", f"{hub_url}/edge/lost", {})["rev"]
        remote = agents.table(
            "remote", name="cloud", url=f"{hub_url}/edge", direction="pull", verify_interval=1
        )
        config = agents.gateway_config(tmp_path / "gateway.toml", remote, port=find_free_port())
        with agents.gateway(config) as gateway:
            url = gateway.wait_until_ready()
            when_true(lambda: request("GET", f"{url}/edge")["doc_count"] == 1)
            request("POST", f"{url}/edge/_purge", {"lost": [rev]})
            subject = "remote 'cloud'"
            when_true(lambda: ("agent", subject) in examined(config).errors)
            mend = examined(config).of("agent", subject)[2]
            assert mend is not None
            done = in_process(*shlex.split(mend)[1:])
            assert done.status == 0, done
            assert request("GET", f"{url}/edge/lost")["_rev"] == rev


def test_what_is_printed_finds_the_same_agent(tmp_path: Path) -> None:
    hook = agents.table("hook", name="alarms", command=["/bin/false"], attempts=1)
    config = agents.gateway_config(tmp_path / "gate way.toml", hook, port=find_free_port())
    with agents.gateway(config) as gateway:
        url = gateway.wait_until_ready()
        request("PUT", f"{url}/edge/a", {})
        when_true(lambda: request("GET", f"{url}/_status")["hooks"][0]["dead"] == 1)
        for options, words in (((), ["--config", str(config)]), (("--url", url), ["--url", url])):
            mend = examined(config, *options).of("agent", "hook 'alarms'")[2]
            assert mend is not None
            assert shlex.split(mend) == ["edge-agent", "hooks", "dead", "alarms", *words]
            assert '"id":"a"' in in_process(*shlex.split(mend)[1:], "--json").stdout


def test_a_password_in_an_address_is_not_printed() -> None:
    where = Where(None, "http://an%20na:hunter2@h:1", Path("a b"), None)
    assert options_for(where) == " --url http://an%20na@h:1 --password-file 'a b'"
    trusting = Where(None, "https://h:1", None, Path("our ca.pem"))
    assert options_for(trusting) == " --url https://h:1 --ca-file 'our ca.pem'"
    told = {"hooks": [{"name": "a", "state": "failed", "last_error": "x", "dead": 0}]}
    found = status(told, HubConfig(), options_for(where))[1]
    assert found.mend == "edge-agent hooks list --url http://an%20na@h:1 --password-file 'a b'"


def test_a_hub_tells_how_much_of_a_damaged_database_was_copied(tmp_path: Path) -> None:
    path = make_store(tmp_path / "hub" / "db.sqlite", documents(3000))
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(size // 3)  # beyond the schema; without that nothing can be read
        file.write(os.urandom(size // 2))
    config = tmp_path / "hub.toml"
    config.write_text(f'[server]\nlisten = "127.0.0.1:{find_free_port()}"\n')
    arguments = ("hub", "--data", tmp_path / "hub", "--config", config)
    for _ in range(2):  # and after a restart, though nobody has asked for the database then
        with AgentProcess(*arguments, log=tmp_path / "log") as hub:
            url = hub.wait_until_ready()
            if not list(path.parent.glob("*.damaged-*")):
                request("GET", f"{url}/db")
            told = request("GET", f"{url}/_status")
            [damaged] = told["damaged"]
            salvaged = damaged["salvaged"]
            assert 100 < salvaged["documents"] < 3000
            [finding] = told["attention"]
            assert f"{salvaged['documents']:,} of 3,000 documents could be" in finding["what"]
            assert Path(damaged["file"]).name == Path(salvaged["aside"]).name
            assert "could be copied" in examined(config).of("agent", "database 'db'")[1]
            assert request("GET", f"{url}/db")["doc_count"] == salvaged["documents"]
