"""The command behind `scripts/faults`."""

from __future__ import annotations

import asyncio
import random
import shutil
import tempfile
import traceback
from pathlib import Path

import click
import msgspec
from rich.console import Console

from scripts.fault_suite.power import cut_power
from scripts.fault_suite.run import BrokenPromiseError, Run

_CHECKOUT = Path(__file__).resolve().parents[2]


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--seed", type=int, help="Which faults come when.  [default: a random one]")
@click.option(
    "--minutes", type=click.FloatRange(min=0.05), default=1.0, show_default=True, metavar="M"
)
@click.option(
    "--power-cuts",
    type=click.IntRange(min=1),
    metavar="N",
    help="Only cut the power, at N moments of what stores and agents do.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as one JSON object.")
def main(seed: int | None, minutes: float, power_cuts: int | None, as_json: bool) -> None:
    """Bring faults upon gateways, a hub, a broker and devices, and check what is promised.

    Faults come for M minutes. Then all is quiet, and what was acknowledged has to be everywhere,
    once. The same seed brings the same faults at the same times.

    With --power-cuts what programs do to their files is recorded, and the disk is built as N power
    cuts would have left it: everything has to open by itself, with all that was acknowledged.
    """
    seed = random.randrange(2**31) if seed is None else seed
    console = Console(stderr=True, highlight=False, markup=False)
    console.print(f"seed {seed}")
    folder = Path(tempfile.mkdtemp(prefix="edge-agent-faults-"))
    try:
        if power_cuts is not None:
            result = cut_power(folder, seed, power_cuts, console.print)
        else:
            result = asyncio.run(Run(folder, seed, 60 * minutes, console.print).run())
    except (BrokenPromiseError, AssertionError, ExceptionGroup) as error:
        raise click.ClickException(
            f"{shown(error)}; the logs are in {folder}; replay it: scripts/faults --seed {seed} "
            + (f"--minutes {minutes:g}" if power_cuts is None else f"--power-cuts {power_cuts}")
        ) from error
    shutil.rmtree(folder)
    if as_json:
        click.echo(msgspec.json.encode(result))
    else:
        for key, value in result.items():
            click.echo(f"{key}: {value}")


def shown(error: BaseException) -> str:
    """The error itself, without the groups that it comes in; of what is no broken promise, such as
    an answer that did not come in time, also what it is and where it was raised."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, BrokenPromiseError):
        return str(error)
    places = traceback.extract_tb(error.__traceback__)
    ours = [place for place in places if Path(place.filename).is_relative_to(_CHECKOUT)]
    where = f"{Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else "somewhere"
    return f"{type(error).__name__} in {where}: {error}"


if __name__ == "__main__":
    main()
