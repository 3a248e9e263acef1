"""What the commands on conflicts ask of a running agent, and read of its answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec

from agent.cli.running import Running, ask, own_database
from agent.documents.attachment import attachments_from_json
from agent.documents.conflict import Conflict, Join, Version
from agent.documents.merge import Merge, Path
from agent.documents.policies import Undecided, base_of
from agent.documents.revision import Rev
from agent.errors import (
    AuthError,
    ConfigError,
    ConflictError,
    NotFoundError,
    RemoteError,
)

_PAGE = 100


class Shown(msgspec.Struct, frozen=True):
    """A conflict as the agent tells of it. `row` is its row in `_conflicts`."""

    conflict: Conflict
    row: Mapping[str, Any]


class ConflictClient:
    """The conflicts of one database of a running agent. Raises ConnectError, RemoteError."""

    def __init__(self, running: Running, database: str) -> None:
        self._running = running
        self._path = quote(database, safe="")
        self.database = database

    @classmethod
    async def find(cls, running: Running, database: str | None) -> ConflictClient:
        """By default of the agent's own database. Raises ConfigError for a hub, which has none."""
        return cls(running, database or await own_database(running))

    async def rows(self, limit: int) -> dict[str, Any]:
        """`total`, how many there are, and up to `limit` `rows` without the documents, by id."""
        answer: dict[str, Any] = await self._ask("GET", "_conflicts", query={"limit": str(limit)})
        return answer

    async def all(self) -> AsyncIterator[Shown]:
        """All of them, by id."""
        start: str | None = ""
        while start is not None:
            found = await self._whole(limit=_PAGE, start_key=start)
            for row in found["rows"]:
                yield _shown(row)
            start = found["next"]

    async def one(self, id: str) -> Shown:
        """Raises NotFoundError when this document is not in conflict."""
        rows = (await self._whole(key=id))["rows"]
        if not rows:
            raise NotFoundError(
                f"{id!r} is not in conflict in {self.database}; edge-agent conflicts list shows "
                "what is"
            )
        return _shown(rows[0])

    async def _whole(self, **query: str | int) -> Any:
        """With all documents that a decision takes."""
        asked = {name: msgspec.json.encode(value).decode() for name, value in query.items()}
        return await self._ask("GET", "_conflicts", query={**asked, "joins": "true"})

    async def resolve(self, conflict: Conflict, **how: Any) -> dict[str, Any]:
        """`choose` or `doc`, as `_resolve` has it. Raises ConflictError when it was overtaken."""
        body = {"id": conflict.id, "leaves": [str(rev) for rev in conflict.revs], **how}
        answer: dict[str, Any] = await self._ask("POST", "_resolve", body=body)
        return answer

    async def _ask(self, method: str, path: str, **options: Any) -> Any:
        status, answer = await ask(self._running, method, f"{self._path}/{path}", **options)
        if status in (200, 201):
            return answer
        told = answer if isinstance(answer, dict) else {}
        reason = told.get("reason", f"HTTP {status}")
        if status == 409:
            raise ConflictError(f"{reason}; look at it again with edge-agent conflicts show")
        where = f"{self._running.url.rstrip('/')}/{self._path}"
        if status in (401, 403):
            raise AuthError(
                f"{where}: {reason} Name a user in the URL (http://USER@HOST:PORT) with "
                "--password-file, or give --config",
                status=status,
            )
        raise RemoteError(f"{where}/{path}: {reason}", status=status)


def merged(conflict: Conflict) -> tuple[dict[str, Any], list[Path]]:
    """All leaves in one body as far as they can be, and the fields that they disagree on.

    Those are as the winner has them. Where no common ancestor is known it is taken for empty.
    Raises ConfigError where not all leaves are there to look at.
    """
    if not conflict.complete:
        raise ConfigError(
            f"{conflict.id!r} has {len(conflict.revs)} revisions in conflict, too many or too "
            "large ones to merge; keep one with --choose"
        )
    values = [dict(leaf.body) for leaf in conflict.leaves]
    clashes: dict[Path, None] = {}
    for join in conflict.joins:
        base = base_of(conflict, join)
        before = {} if isinstance(base, Undecided) else base.body
        merge = Merge()
        values[join.mine] = merge.merge(before, values[join.mine], values[join.theirs])
        clashes |= dict.fromkeys(merge.clashes)
    return values[0], list(clashes)


def leaf_of(conflict: Conflict, text: str) -> Version:
    """The leaf whose revision begins with `text`. Raises ConfigError unless there is just one."""
    found = [leaf for leaf in conflict.leaves if str(leaf.rev).startswith(text)]
    if len(found) != 1 or not text:
        known = ", ".join(str(leaf.rev) for leaf in conflict.leaves)
        which = "more than one" if found else "none"
        raise ConfigError(f"{text!r} is {which} of the revisions in conflict; these are: {known}")
    return found[0]


def _shown(row: Mapping[str, Any]) -> Shown:
    leaves = tuple(_version(doc) for doc in row["leaves"])
    joins = tuple(map(_join, row["joins"]))
    bases = {version.rev: version for version in map(_version, row["bases"])}
    revs = tuple(Rev.parse(rev) for rev in row["revs"])
    return Shown(Conflict(row["id"], revs, leaves, joins, bases, row["rounds"]), row)


def _join(told: Mapping[str, Any]) -> Join:
    bases = tuple(map(Rev.parse, told["bases"]))
    inner = tuple(map(_join, told["joins"]))
    return Join(told["mine"], told["theirs"], bases, told["complete"], inner)


def _version(doc: Mapping[str, Any]) -> Version:
    body = {name: value for name, value in doc.items() if name not in _HEAD}
    attachments = attachments_from_json(doc.get("_attachments", {}))
    return Version(Rev.parse(doc["_rev"]), body, attachments)


_HEAD: Sequence[str] = ("_id", "_rev", "_attachments")
