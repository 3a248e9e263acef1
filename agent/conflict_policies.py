"""Conflict policies, made from their places in the configuration."""

from __future__ import annotations

from collections.abc import Iterable

from agent.config_conflicts import ConflictConfig
from agent.documents.fields import parse_field
from agent.documents.policies import (
    Best,
    Choice,
    Keep,
    Newest,
    Policy,
    PolicyContext,
    PolicyFunction,
    Python,
    Rule,
    Side,
    ThreeWay,
)
from agent.documents.selector import Selector, SelectorError, parse_selector
from agent.errors import ConfigError
from agent.published import published_function

ENTRY_POINT_GROUP = "edge_sync_agent.conflict_policies"


def policies_for(
    entries: Iterable[ConflictConfig], default_database: str | None = None
) -> dict[str, list[Policy]]:
    """The policies of each database, in their order. Imports the functions of packages.

    `default_database` is that of entries which name none. Raises ConfigError.
    """
    found: dict[str, list[Policy]] = {}
    for entry in entries:
        database = entry.database or default_database or ""
        found.setdefault(database, []).append(policy_for(entry, database))
    return found


def policy_for(entry: ConflictConfig, database: str) -> Policy:
    """A configured policy. Raises ConfigError."""
    rule = _rule(entry, database)
    # People merge by hand as `merge` does.
    ancestors = entry.ancestors if rule is None or isinstance(rule, ThreeWay | Python) else 0
    return Policy(entry.name, _selector(entry, "selector"), rule, ancestors)


def _rule(entry: ConflictConfig, database: str) -> Rule | None:
    if entry.policy == "manual":
        return None
    if entry.policy == "merge":
        then = None if entry.then == "manual" else _choice(entry, entry.then)
        keys = {_path(entry, "keys", name): member for name, member in entry.keys.items()}
        return ThreeWay(then, keys)
    if entry.policy == "python":
        context = PolicyContext("", database, entry.name, entry.settings)
        return Python(_function(entry), context, entry.needs_base)
    return Keep(_choice(entry, entry.policy))


def _choice(entry: ConflictConfig, name: str) -> Choice:
    if name == "winner":
        return Best()
    if name == "newest":
        return Newest(_path(entry, "field", entry.field or ""), entry.tolerance)
    return Side(_selector(entry, "cloud"), name == "prefer-cloud")


def _path(entry: ConflictConfig, key: str, name: str) -> tuple[str, ...]:
    try:
        return parse_field(name)
    except ValueError as error:
        raise _mistake(entry, key, str(error)) from None


def _selector(entry: ConflictConfig, key: str) -> Selector:
    try:
        return parse_selector(getattr(entry, key))
    except SelectorError as error:
        raise _mistake(entry, key, str(error)) from None


def _function(entry: ConflictConfig) -> PolicyFunction:
    try:
        return published_function(ENTRY_POINT_GROUP, entry.entry_point or "")
    except ConfigError as error:
        raise ConfigError(f"conflict {entry.name!r}: {error}") from error


def _mistake(entry: ConflictConfig, key: str, reason: str) -> ConfigError:
    return ConfigError(f"conflict {entry.name!r}: {key}: {reason}")
