"""What is wrong with a configuration file, in terms of the file.

The texts come from the types: the description and the example of a key's `msgspec.Meta`.
"""

from __future__ import annotations

import difflib
import re
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from agent.errors import without_login

_SECRETS = frozenset({"password", "password_hash", "signing_key"})


def explain(message: str, raw: dict[str, Any], root: type[Struct], within: str = "") -> str:
    """msgspec's message in terms of the file: the key, what was expected, an example.

    `within` is the place of a table of the type `root` in the file, if that is not all of it.
    """
    problem, _, place = message.partition(" - at `$")
    keys = re.findall(r"\.([^.\[\]`]+)|\[(\d+)\]", place)
    steps = [int(index) if index else name for name, index in keys]
    unknown = re.search(r"unknown field `(.*)`", problem)
    if unknown:
        return _unknown(steps, unknown[1], root, within)
    missing = re.search(r"missing required field `(.*)`", problem)
    if missing:
        steps.append(missing[1])
        return f"{_shown(steps, within)} is missing; expected {hint(steps, root, within)}"
    # Never a secret, as the path of a webhook often is one, nor a table that has one in it.
    if not re.match(r"(Expected|Invalid|Object|Unsupported) ", problem):  # a type's own words
        return f"{_shown(steps, within)}: {problem}"
    value = _value_at(raw, steps)
    secret = steps[-1] in _SECRETS or (steps[0] == "hook" and steps[-1] == "url")
    text = repr(without_login(value) if isinstance(value, str) else value)
    given = "" if secret or isinstance(value, dict | list) else f" = {text}"
    shown = _shown(steps, within)
    return f"{shown}{given} is not allowed; expected {hint(steps, root, within)}"


def _unknown(steps: list[str | int], key: str, root: type[Struct], within: str) -> str:
    struct = _type_at(steps, root)
    fields = [field.name for field in msgspec.structs.fields(struct)] if struct else []
    shown = _shown([*steps, key], within)
    close = difflib.get_close_matches(key, fields, n=1, cutoff=0.6)
    if close:
        expected = hint([*steps, close[0]], root, within)
        return f"{shown}: unknown key; did you mean {close[0]}? Expected {expected}"
    return f"{shown}: unknown key; expected one of: {', '.join(fields)}"


def _shown(steps: list[str | int], within: str) -> str:
    """A place in the file as people count: `remote.url (in [[remote]] number 1)`."""
    names = _names(steps, within)
    tables = [
        f"[[{_names(steps[:index], within)}]] number {step + 1}"
        for index, step in enumerate(steps)
        if isinstance(step, int) and (index == 1 or index + 1 < len(steps))
    ]
    return f"{names} (in {', '.join(tables)})" if tables else names


def _names(steps: list[str | int], within: str) -> str:
    return ".".join(filter(None, [within, *(step for step in steps if isinstance(step, str))]))


def _value_at(raw: Any, steps: list[str | int]) -> Any:
    for step in steps:
        raw = raw[step]
    return raw


def hint(steps: list[str | int], root: type[Struct], within: str = "") -> str:
    """What belongs at a place in the file, with an example."""
    found = _type_at(steps, root)
    key = next(step for step in reversed(steps) if isinstance(step, str))
    meta = _meta(found)
    if meta is not None and meta.examples:
        example = msgspec.json.encode(meta.examples[0]).decode()
        return f"{meta.description}, for example {key} = {example}"
    if isinstance(found, type) and issubclass(found, Struct):
        table = _names(steps, within)
        return f"a table [{table}]" if len(steps) == 1 else f"a table [[{table}]]"
    if get_origin(found) is list:
        return f"tables that begin with [[{_names(steps, within)}]]"
    return str(key)


def _type_at(steps: list[str | int], root: type[Struct]) -> Any:
    """The annotation at a place in the file; None where there is none."""
    found: Any = root
    for step in steps:
        if isinstance(step, int):
            found = get_args(found)[0] if get_origin(found) is list else found
        elif isinstance(found, type) and issubclass(found, Struct):
            found = get_type_hints(found, include_extras=True).get(step)
        else:
            return None
    return found


def _meta(annotation: Any) -> Meta | None:
    if get_origin(annotation) is Annotated:
        return next((item for item in get_args(annotation) if isinstance(item, Meta)), None)
    for part in get_args(annotation):
        meta = _meta(part)
        if meta is not None:
            return meta
    return None
