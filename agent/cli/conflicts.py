"""`edge-agent conflicts`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec

from agent.cli.conflict_client import ConflictClient, Shown, leaf_of, merged
from agent.cli.conflict_view import (
    body_after,
    field_name,
    show_conflict,
    show_decision,
    show_list,
    state_of,
)
from agent.cli.options import DEFAULT_CONFIG, json_option, print_json
from agent.cli.running import Where, database_option, running_options
from agent.cli.showing import plain_console
from agent.config import Config
from agent.config_conflicts import ConflictConfig
from agent.config_explain import explain
from agent.config_file import load_either, naming
from agent.conflict_policies import policies_for, policy_for
from agent.documents.conflict import Conflict
from agent.documents.differences import value_at
from agent.documents.fields import Absent, parse_field
from agent.documents.merge import Path as FieldPath
from agent.documents.policies import Policy
from agent.errors import ConfigError
from agent.peers.http_errors import one_line
from agent.replication.conflicts import Outcome, decide
from agent.store.resolutions import Resolution


@click.group()
def conflicts_command() -> None:
    """Look at conflicts in a running agent, and resolve them."""


@conflicts_command.command("list")
@running_options
@database_option
@click.option(
    "--limit",
    type=click.IntRange(1, 1000),
    default=100,
    show_default=True,
    help="How many are listed, at most.",
)
@json_option
def list_command(
    where: Where,
    database: str | None,
    limit: int,
    as_json: bool,
) -> None:
    """List the documents in conflict, and what their policies say."""

    running = where.find()

    async def listed() -> dict[str, Any]:
        return await (await ConflictClient.find(running, database)).rows(limit)

    found = asyncio.run(listed())
    if as_json:
        print_json({"total": found["total"], "rows": found["rows"]})
    else:
        show_list(found["total"], found["rows"])


@conflicts_command.command()
@click.argument("id")
@running_options
@database_option
@json_option
def show(
    id: str,
    where: Where,
    database: str | None,
    as_json: bool,
) -> None:
    """Show one conflict: its revisions side by side, with the common ancestor.

    Fields that only one side has changed are marked '*', those that the sides disagree on '!'.
    """

    running = where.find()

    async def found() -> Shown:
        return await (await ConflictClient.find(running, database)).one(id)

    shown = asyncio.run(found())
    if as_json:
        print_json(shown.row)
    else:
        show_conflict(shown)


@conflicts_command.command()
@click.argument("id")
@click.option("--choose", metavar="REV", help="Keep this revision; its first letters will do.")
@click.option(
    "--field", "fields", multiple=True, metavar="FIELD=REV", help="Take a field from a revision."
)
@click.option(
    "--set", "values", multiple=True, metavar="FIELD=JSON", help="Give a field this value."
)
@click.option("--edit", is_flag=True, help="Write the document in $EDITOR.")
@click.option("--delete", is_flag=True, help="Delete the document.")
@running_options
@database_option
@json_option
def resolve(
    id: str,
    choose: str | None,
    fields: tuple[str, ...],
    values: tuple[str, ...],
    edit: bool,
    delete: bool,
    where: Where,
    database: str | None,
    as_json: bool,
) -> None:
    """Resolve one conflict.

    With --field and --set, and in the editor, what only one side has changed is merged already;
    every field that the sides disagree on has to be decided. Refused, with what has changed, when
    the document is not as it was any more.
    """
    ways = [bool(choose), bool(fields or values), edit, delete]
    if sum(ways) != 1:
        raise click.UsageError("give one of --choose, --field and --set, --edit, --delete")

    running = where.find()

    async def found() -> tuple[ConflictClient, Conflict]:
        client = await ConflictClient.find(running, database)
        return client, (await client.one(id)).conflict

    client, conflict = asyncio.run(found())
    how: dict[str, Any]
    if choose:
        how = {"choose": str(leaf_of(conflict, choose).rev)}
    elif delete:
        how = {"doc": None}
    else:
        how = {"doc": _edited(conflict) if edit else _by_field(conflict, fields, values)}
    answer = asyncio.run(client.resolve(conflict, **how))
    if as_json:
        print_json(answer)
    else:
        click.echo(f"{id}: resolved, {one_line(answer['rev'])}")


@conflicts_command.command("test-policy")
@click.argument("name", required=False)
@click.option(
    "--table",
    metavar="JSON",
    help="Try this policy instead of those in --config: a [[conflict]] table as JSON.",
)
@running_options
@database_option
@json_option
def test_policy(
    name: str | None,
    table: str | None,
    where: Where,
    database: str | None,
    as_json: bool,
) -> None:
    """Show what a policy would do to the conflicts that there are. Writes nothing.

    The policies are those of the file --config as it is now, whether the agent has them already or
    not. With NAME only the conflicts are shown that come to that policy.
    """

    running = where.find()
    client = asyncio.run(ConflictClient.find(running, database))
    policies = _policies(where.config_path, table, client.database)
    if name is not None and name not in [policy.name for policy in policies]:
        known = ", ".join(policy.name for policy in policies) or "there is none"
        raise ConfigError(f"no policy for {client.database} is called {name!r}: {known}")

    async def tested() -> list[tuple[Shown, Policy | None, Outcome]]:
        found = []
        async for shown in client.all():
            policy, decision = decide(policies, shown.conflict, time.time())
            if name is None or (policy is not None and policy.name == name):
                found.append((shown, policy, decision))
        return found

    found = asyncio.run(tested())
    counts = {"resolved": 0, "undecided": 0, "failed": 0}
    for _, _, decision in found:
        counts[state_of(decision)] += 1
    if as_json:
        print_json({"rows": [_tested_row(*each) for each in found], **counts})
        return
    out = plain_console()
    for shown, policy, decision in found:
        show_decision(out, shown, None if policy is None else policy.name, decision)
    out.print(", ".join(f"{count} {state}" for state, count in counts.items()))


def _policies(config_path: Path | None, table: str | None, database: str) -> Sequence[Policy]:
    """Raises ConfigError."""
    if table is not None:
        return [policy_for(_table(table), database)]
    path = config_path or DEFAULT_CONFIG
    config = load_either(path)
    own = config.agent.database if isinstance(config, Config) else None
    with naming(path):
        return policies_for(config.conflict, own).get(database, [])


def _table(text: str) -> ConflictConfig:
    try:
        raw = msgspec.json.decode(text)
        if not isinstance(raw, dict):
            raise ConfigError("--table: give a JSON object")
        raw.setdefault("name", "test")
        return msgspec.convert(raw, ConflictConfig)
    except msgspec.ValidationError as error:
        reason = explain(str(error), raw, ConflictConfig) if "`$" in str(error) else str(error)
        raise ConfigError(f"--table: {reason}") from None
    except msgspec.DecodeError as error:
        raise ConfigError(f"--table is no JSON: {error}") from None


def _tested_row(shown: Shown, policy: Policy | None, decision: Outcome) -> dict[str, Any]:
    resolved = isinstance(decision, Resolution)
    return {
        "id": shown.conflict.id,
        "policy": None if policy is None else policy.name,
        "outcome": state_of(decision),
        "doc": body_after(shown, decision) if isinstance(decision, Resolution) else None,
        "reason": None if resolved else decision.reason,  # type: ignore[union-attr]
    }


def _by_field(conflict: Conflict, fields: Sequence[str], values: Sequence[str]) -> dict[str, Any]:
    """The merged body with these fields as they are said to be. Raises ConfigError."""
    body, clashes = merged(conflict)
    open_fields = dict.fromkeys(clashes)
    given = [("--field", text) for text in fields] + [("--set", text) for text in values]
    for option, text in given:
        name, equals, told = text.partition("=")
        try:
            path = parse_field(name)
        except ValueError as error:
            raise ConfigError(f"{option} {text}: {error}") from None
        if not equals:
            raise ConfigError(f"{option} {text}: expected {option} FIELD=…")
        if path[0].startswith("_"):
            raise ConfigError(f"{option} {text}: what begins with _ is CouchDB's, and no field")
        if option == "--field":
            value = value_at(leaf_of(conflict, told).body, path)
            if path not in open_fields and not _is_known(conflict, path):
                raise ConfigError(f"{option} {text}: none of the revisions has a field {name}")
        else:
            try:
                value = msgspec.json.decode(told)
            except msgspec.DecodeError as error:
                raise ConfigError(f"{option} {text}: no JSON value ({error})") from None
        if not _assign(body, path, value):
            raise ConfigError(
                f"{option} {text}: what it is to be in is no object; name all of that instead"
            )
        for clash in [clash for clash in open_fields if clash[: len(path)] == path]:
            del open_fields[clash]
    if open_fields:
        names = ", ".join(map(field_name, open_fields))
        raise ConfigError(f"the sides disagree on {names}, too; give --field or --set for each")
    return body


def _is_known(conflict: Conflict, path: FieldPath) -> bool:
    versions = [*conflict.leaves, *conflict.bases.values()]
    return any(value_at(each.body, path) is not Absent.NOT_FOUND for each in versions)


def _assign(body: dict[str, Any], path: FieldPath, value: Any) -> bool:
    """False, and nothing done, where something on the way is there and is no object."""
    if any(
        not isinstance(value_at(body, path[:end]), dict | Absent) for end in range(1, len(path))
    ):
        return False
    for part in path[:-1]:
        # A copy: what was merged may belong to a leaf.
        body[part] = inner = dict(body.get(part, {}))
        body = inner
    if value is Absent.NOT_FOUND:
        body.pop(path[-1], None)
    else:
        body[path[-1]] = value
    return True


def _edited(conflict: Conflict) -> dict[str, Any]:
    """What somebody writes in their editor. Raises ConfigError."""
    body, clashes = merged(conflict)
    lines = [f"# {one_line(conflict.id)}: write what the document is to be, and save it.\n"]
    for path in clashes:
        lines.append(f"# The sides disagree on {field_name(path)}:\n")
        for leaf in conflict.leaves:
            value = value_at(leaf.body, path)
            shown = "-" if value is Absent.NOT_FOUND else msgspec.json.encode(value).decode()
            lines.append(f"#   {one_line(leaf.rev)}: {shown}\n")
    text = msgspec.json.format(msgspec.json.encode(body), indent=2).decode()
    written = click.edit("".join(lines) + text + "\n", extension=".json")
    if written is None:
        raise ConfigError("the editor has saved nothing; nothing was written")
    try:
        # Not `splitlines`: a text in JSON may hold what that takes for the end of a line, too.
        kept = "\n".join(line for line in written.split("\n") if not line.startswith("#"))
        result = msgspec.json.decode(kept)
    except msgspec.DecodeError as error:
        raise ConfigError(f"that is no JSON ({error}); nothing was written") from None
    if not isinstance(result, dict):
        raise ConfigError("a document is a JSON object; nothing was written")
    return result
