"""Conflicts on a terminal: side by side with the common ancestor, in colour where there is one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from agent.cli.conflict_client import Shown
from agent.cli.showing import folding_table, plain_console
from agent.documents.differences import changed_fields, dotted, fields_of, value_at
from agent.documents.fields import Absent
from agent.documents.merge import Path, same
from agent.documents.policies import Failed
from agent.peers.http_errors import one_line
from agent.replication.conflicts import Outcome
from agent.store.resolutions import Resolution
from agent.words import counted

if TYPE_CHECKING:
    from rich.console import Console

_MOST_NAMED = 4
"""Fields, in a list of conflicts."""

_MOST_FIELDS = 50
"""Of a document, beyond which only those are shown that differ."""

_STYLES = {"resolved": "green", "undecided": "yellow", "failed": "bold red", "waiting": "yellow"}


def show_list(total: int, rows: Sequence[Mapping[str, Any]]) -> None:
    """A line for each conflict."""
    out = plain_console()
    table = folding_table("document", "revisions", "differ in", "policy", "state", "reason")
    for row in rows:
        fields = [one_line(field) for field in row["fields"][:_MOST_NAMED]]
        more = row["differences"] - len(fields)
        fields += [f"{more:,} more"] if more else []
        table.add_row(
            one_line(row["id"]),
            str(len(row["revs"])),
            ", ".join(fields),
            row["policy"] or "-",
            _styled(row["state"], _STYLES[row["state"]]),
            one_line(row["reason"] or ""),
        )
    if rows:
        out.print(table)
    part = f"{len(rows)} of " if len(rows) < total else ""
    out.print(f"{part}{counted(total, 'conflict')}")


def show_conflict(shown: Shown) -> None:
    """The fields of one conflict; those that the leaves disagree on are marked with a '!'."""
    from rich.text import Text

    out = plain_console()
    conflict, row = shown.conflict, shown.row
    out.print(one_line(conflict.id), style="bold")
    reason = f": {one_line(row['reason'])}" if row["reason"] else ""
    out.print(f"{row['policy'] or 'no policy'}, {row['state']}{reason}")
    base = conflict.base
    sides = [leaf.body for leaf in conflict.leaves]
    heads = ["base" if base is None else f"base\n{one_line(base.rev)}"]
    for place, leaf in enumerate(conflict.leaves):
        name = "winner" if place == 0 else f"other {place}"
        heads.append(f"{name}\n{one_line(leaf.rev)}")
    table = folding_table("", "field", *heads)
    bodies = [*([] if base is None else [base.body]), *sides]
    all_fields = fields_of(bodies)
    fields = all_fields if len(all_fields) <= _MOST_FIELDS else changed_fields(*bodies)
    for path in fields:
        values = [value_at(side, path) for side in sides]
        before = Absent.NOT_FOUND if base is None else value_at(base.body, path)
        changed = [value for value in values if base is not None and not same(value, before)]
        clash = any(not same(value, values[0]) for value in values) and (
            base is None or any(not same(value, changed[0]) for value in changed)
        )
        cells = [
            Text(
                _text(value), style=_cell_style(value, before, clash=clash, based=base is not None)
            )
            for value in values
        ]
        mark = Text("!", style="bold red") if clash else Text("*" if changed else "")
        field = Text(field_name(path), style="bold red" if clash else "")
        table.add_row(mark, field, Text(_text(before), style="dim"), *cells)
    out.print(table)
    left_out = len(all_fields) - len(fields)
    if left_out:
        out.print(f"the same on all sides, and not shown: {counted(left_out, 'field')}")
    for leaf in conflict.leaves:
        if leaf.attachments:
            names = ", ".join(one_line(attachment.name) for attachment in leaf.attachments)
            out.print(f"{one_line(leaf.rev)}: attachments {names}")
    if not conflict.complete:
        out.print(f"{len(conflict.revs) - len(conflict.leaves)} more revisions are not shown")


def show_decision(out: Console, shown: Shown, policy: str | None, decision: Outcome) -> None:
    """What a policy would do to one conflict: what differs from the winner."""
    state = state_of(decision)
    out.print(one_line(shown.conflict.id), style="bold", end="  ")
    out.print("" if policy is None else f"{policy} ", end="")
    out.print(state, style=_STYLES[state], end="")
    if not isinstance(decision, Resolution):
        out.print(f": {one_line(decision.reason)}")
        return
    winner, body = shown.conflict.leaves[0].body, body_after(shown, decision)
    changes = changed_fields(winner, body)
    out.print(": as the winner is" if not changes else "")
    for path in changes:
        old, new = value_at(winner, path), value_at(body, path)
        out.print(f"  {field_name(path)}: {_text(old)}", style="red", end=" ")
        out.print(f"→ {_text(new)}", style="green")


def body_after(shown: Shown, resolution: Resolution) -> dict[str, Any]:
    """What a document in conflict would become."""
    if resolution.body is None:
        return dict(shown.conflict.leaves[0].body)
    return msgspec.json.decode(resolution.body, type=dict[str, Any])


def state_of(decision: Outcome) -> str:
    """ "resolved", "undecided" or "failed"."""
    if isinstance(decision, Resolution):
        return "resolved"
    return "failed" if isinstance(decision, Failed) else "undecided"


def field_name(path: Path) -> str:
    """A field as `--field` takes it, on one line."""
    return one_line(dotted(path))


def _cell_style(value: Any, before: Any, *, clash: bool, based: bool) -> str:
    if based and same(value, before):
        return "dim"
    return "red" if clash else "green" if based else ""


def _text(value: Any) -> str:
    return "" if value is Absent.NOT_FOUND else one_line(msgspec.json.encode(value).decode())


def _styled(text: str, style: str) -> Any:
    from rich.text import Text

    return Text(text, style=style)
