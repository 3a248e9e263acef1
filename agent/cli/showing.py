"""How figures look on a terminal, for the commands that show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import msgspec

from agent.peers.http_errors import one_line

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_LEVELS = "▁▂▃▄▅▆▇█"
_SIZES = ("B", "KiB", "MiB", "GiB", "TiB")


def plain_console() -> Console:
    """For what comes from elsewhere, names, values, errors: nothing in it is a style."""
    from rich.console import Console  # slow to import

    return Console(markup=False, emoji=False, highlight=False)


def folding_table(*heads: str) -> Table:
    """A table in which nothing is cut off: long words go on in the next line."""
    from rich.table import Column, Table

    return Table(*(Column(head, overflow="fold") for head in heads))


def show_errors(console: Console, errors: Iterable[tuple[str, str | None]]) -> None:
    """What last went wrong, by the name of what it happened to: below a table, since a column would
    be too narrow for it. What several have in common is said once."""
    names: dict[str, list[str]] = {}
    for name, error in errors:
        if error:
            names.setdefault(one_line(error), []).append(one_line(name))
    for error, who in names.items():
        console.print(f"{', '.join(who)}: {error}", style="red")


def sparkline(numbers: Sequence[float], *, lowest: float | None = None) -> str:
    """A character for each number, from the lowest to the highest of them; `lowest` is then one
    that the scale begins with."""
    low, high = min(numbers, default=0.0), max(numbers, default=0.0)
    if lowest is not None:
        low = min(low, lowest)
    span = high / 2 - low / 2  # halves, since a difference may be too large for a float
    if not span:
        return _LEVELS[0] * len(numbers)
    top = len(_LEVELS) - 1
    return "".join(_LEVELS[round((n / 2 - low / 2) / span * top)] for n in numbers)


def measured(value: Any, unit: str | None) -> str:
    """A reading's value with its unit, on one line; texts as they are, "-" where there is none."""
    if value is None:
        return "-"
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode()
    return one_line(f"{text} {unit or ''}")


def duration(seconds: float) -> str:
    """About how long: "90 s", "15 min", "3 h", "4 days"."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.0f} h" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"


def ago(timestamp: str) -> str:
    """About how long ago an RFC 3339 time was."""
    passed = datetime.now(UTC) - datetime.fromisoformat(timestamp)
    return f"{duration(max(0.0, passed.total_seconds()))} ago"


def size(count: float) -> str:
    """Bytes: "512 B", "1.5 MiB"."""
    for unit in _SIZES:
        if count < 1024 or unit == _SIZES[-1]:
            break
        count /= 1024
    return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
