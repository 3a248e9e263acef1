"""What the client libraries work with: a real hub with users, and databases of a test's own."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.agents import AgentProcess
from tests.server.accounts import password_of, quick_hash

ADMIN = "anna"
MEMBER = "mia"
"""A user without the role `_admin`; a member of what lets in the role `staff`."""

_USERS = {ADMIN: ["_admin"], MEMBER: ["staff"]}
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Hub:
    """A running hub, and the names and passwords of its users."""

    url: str

    def url_for(self, name: str, password: str | None = None) -> str:
        """The address with credentials in it, as users write it into a client's settings."""
        secret = password_of(name) if password is None else password
        return self.url.replace("//", f"//{name}:{quote(secret, safe='')}@")


@contextmanager
def running_hub(folder: Path, *, port: int = 0) -> Iterator[Hub]:
    """A hub in a process of its own; it must end in order, without having logged a traceback."""
    config = folder / "hub.toml"
    config.write_text(
        "\n".join(
            f'[[user]]\nname = "{name}"\npassword_hash = "{quick_hash(password_of(name))}"\n'
            f"roles = {roles}"
            for name, roles in _USERS.items()
        ),
        encoding="utf-8",
    )
    listen = f"127.0.0.1:{port}"
    arguments = ("hub", "--data", folder / "data", "--config", config, "--listen", listen)
    with AgentProcess(*arguments, log=folder / "hub.log") as process:
        yield Hub(process.wait_until_ready())
        assert process.running, process.log
        ended = process.stop()
        assert (ended.status, "Traceback" in ended.stderr) == (0, False), ended.stderr


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """One hub for all clients: give each database a name of its own."""
    with running_hub(tmp_path_factory.mktemp("hub-of-clients")) as hub:
        yield hub


@pytest.fixture
def new_name() -> str:
    """A name that no database has yet. It needs escaping in a URL."""
    return f"client/db+{next(_numbers)}"
