"""The command behind `scripts/bench`."""

from __future__ import annotations

import asyncio
import importlib
import os
import tempfile
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console
from rich.table import Table

from scripts.benchmarks.harness import BenchError, Options, Row, shown
from scripts.benchmarks.machine import describe

# In the order in which they run.
BENCHES = {
    "ingest": "scripts.benchmarks.ingest",
    "writes": "scripts.benchmarks.writes",
    "replication": "scripts.benchmarks.replication",
    "gateway": "scripts.benchmarks.gateway",
    "cbor": "scripts.benchmarks.cbor",
    "field": "scripts.benchmarks.field",
    "mqtt": "scripts.benchmarks.mqtt",
    "live": "scripts.benchmarks.live",
    "fleet": "scripts.benchmarks.fleet",
    "bulk": "scripts.benchmarks.bulk",
    "single": "scripts.benchmarks.single",
    "followers": "scripts.benchmarks.followers",
    "attachments": "scripts.benchmarks.attachments",
    "find": "scripts.benchmarks.find",
    "series": "scripts.benchmarks.series",
    "large": "scripts.benchmarks.large",
    "dashboard": "scripts.benchmarks.dashboard",
    "conflicts": "scripts.benchmarks.conflicts",
    "verify": "scripts.benchmarks.verify",
    "retention": "scripts.benchmarks.retention",
    "install": "scripts.benchmarks.install",
}
ROUNDS = 5
QUICK_ROUNDS = 2
_WIDTH = 150  # of a table that goes into a file


class NotMeasuredError(click.ClickException):
    exit_code = 2


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("names", nargs=-1, type=click.Choice(list(BENCHES)), metavar="[NAME]...")
@click.option(
    "--rounds",
    type=click.IntRange(min=1),
    help=f"How often each figure is taken.  [default: {ROUNDS}, with --quick {QUICK_ROUNDS}]",
)
@click.option("--quick", is_flag=True, help="With little data: to see that it works, not to judge.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object and nothing else.")
@click.option(
    "--couchdb",
    envvar="BENCH_COUCHDB",
    metavar="URL",
    help="Measure beside this CouchDB, too: http://USER:PASSWORD@HOST:PORT. The variable "
    "BENCH_COUCHDB keeps the password out of the process list.",
)
@click.option(
    "--folder",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="A folder on the disk to measure.  [default: the system's folder for temporary files]",
)
def main(
    names: tuple[str, ...],
    rounds: int | None,
    quick: bool,
    as_json: bool,
    couchdb: str | None,
    folder: Path | None,
) -> None:
    """Measure the agent, beside its peers where there are any; without a NAME, all of it.

    The names: ingest, writes, replication, gateway, cbor, field, mqtt, live, fleet, bulk, single,
    followers, attachments, find, series, large, dashboard, conflicts, verify, retention, install.

    Peers take turns within each round. A figure is the median over the rounds, with the least and
    the greatest; a ratio is the median of the rounds' ratios. The exit status is 1 when a target
    is missed (never with --quick) and 2 when something could not be measured.
    """
    console = Console()
    if not console.is_terminal:
        console.width = _WIDTH
    notes = Console(stderr=True)
    results: dict[str, list[Row]] = {}
    with tempfile.TemporaryDirectory(prefix="edge-agent-bench-", dir=folder) as place:
        machine = describe(Path(place))
        for name in BENCHES:
            if names and name not in names:
                continue
            options = Options(
                folder=Path(place) / name,
                rounds=rounds or (QUICK_ROUNDS if quick else ROUNDS),
                quick=quick,
                couchdb=couchdb,
                note=lambda text, name=name: notes.print(  # type: ignore[misc]
                    f"{name}: {text}", style="dim", highlight=False, markup=False
                ),
            )
            options.folder.mkdir()
            try:
                results[name] = asyncio.run(importlib.import_module(BENCHES[name]).run(options))
            except BenchError as error:
                raise NotMeasuredError(f"{name}: {error}") from error
    machine["load_at_end"] = round(os.getloadavg()[0], 2)
    missed = [row for rows in results.values() for row in rows if row.met is False]
    if as_json:
        click.echo(
            msgspec.json.encode(
                {
                    "machine": machine,
                    "quick": quick,
                    "met": not missed,
                    "benches": {
                        name: [row.as_json() for row in rows] for name, rows in results.items()
                    },
                }
            )
        )
    else:
        _show(console, machine, results)
    if missed and not quick:
        raise SystemExit(1)


def _show(console: Console, machine: dict[str, Any], results: dict[str, list[Row]]) -> None:
    table = Table("", "unit", "this agent", "peer", "", "ratio", "target", "met")
    for rows in results.values():
        for row in rows:
            table.add_row(
                row.what,
                row.unit,
                shown(row.ours),
                shown(row.peer),
                row.peer_name,
                "-" if row.ratio is None else f"{row.ratio:.2f}",
                "-" if row.target is None else str(row.target),
                {True: "yes", False: "NO", None: "-"}[row.met],
            )
        table.add_section()
    console.print(table)
    console.print(", ".join(f"{key} {value}" for key, value in machine.items()), highlight=False)


if __name__ == "__main__":
    main()
