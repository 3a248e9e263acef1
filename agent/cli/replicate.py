"""`edge-agent replicate`."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import time
from pathlib import Path
from typing import Any

import click
import msgspec

from agent.cli.options import json_option, print_json
from agent.cli.places import opened, place_options
from agent.documents.selector import SelectorError, parse_selector
from agent.errors import EdgeAgentError
from agent.peers.peer import Peer
from agent.replication.job import Job
from agent.replication.replicator import Replicator
from agent.replication.selection import Selection

_REFRESH = 0.2


def _read_selector(
    _: click.Context, __: click.Parameter, text: str | None
) -> dict[str, Any] | None:
    if text is None:
        return None
    try:
        selector = msgspec.json.decode(text, type=dict[str, Any])
        parse_selector(selector)
    except (msgspec.DecodeError, SelectorError) as error:
        raise click.BadParameter(
            f"""{error}; give a Mango selector, for example '{{"type": "reading"}}'"""
        ) from None
    return selector


@click.command()
@click.argument("source")
@click.argument("target")
@click.option("--continuous", is_flag=True, help="Go on as changes are made, until Ctrl-C.")
@click.option("--create-target", is_flag=True, help="Make the target database if it is missing.")
@place_options
@click.option(
    "--selector",
    metavar="JSON",
    callback=_read_selector,
    help="Only what this Mango selector matches; a tombstone that it does not match stays behind.",
)
@click.option(
    "--doc-id", "doc_ids", multiple=True, metavar="ID", help="Only this document; repeatable."
)
@json_option
def replicate_command(
    source: str,
    target: str,
    continuous: bool,
    create_target: bool,
    source_password_file: Path | None,
    target_password_file: Path | None,
    ca_file: Path | None,
    selector: dict[str, Any] | None,
    doc_ids: tuple[str, ...],
    as_json: bool,
) -> None:
    """Copy what SOURCE has and TARGET lacks.

    Each is the path of a store, or the URL of a database, http(s)://[USER[:PASSWORD]@]HOST/NAME;
    with mqtt(s):// or ws(s):// it is reached over a broker, through a hub or a bridge.
    """
    if selector is not None and doc_ids:
        raise click.UsageError("--selector and --doc-id exclude each other; give one of them")
    asyncio.run(
        _replicate(
            opened(source, source_password_file, ca_file),
            opened(
                target,
                target_password_file,
                ca_file,
                create=create_target,
                or_else=", or have it made with --create-target",
            ),
            continuous=continuous,
            create_target=create_target,
            selection=Selection(selector, doc_ids or None),
            as_json=as_json,
        )
    )


async def _replicate(
    source: contextlib.AbstractAsyncContextManager[Peer],
    target: contextlib.AbstractAsyncContextManager[Peer],
    *,
    continuous: bool,
    create_target: bool,
    selection: Selection,
    as_json: bool,
) -> None:
    async with source as source_peer, target as target_peer:
        replicator = Replicator(
            source_peer,
            target_peer,
            continuous=continuous,
            create_target=create_target,
            selection=selection,
        )
        job = Job("replicate", replicator, patient=False)
        started = time.monotonic()
        task = asyncio.create_task(job.run())
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, task.cancel)
        error: EdgeAgentError | None = None
        try:
            if sys.stderr.isatty() and not as_json:
                await _show_progress(job, task)
            await task
        except EdgeAgentError as failure:
            error = failure
        except asyncio.CancelledError:
            if not continuous:
                error = EdgeAgentError("interrupted; run it again, it goes on from where it was")
        result = _result(job, time.monotonic() - started, error)
        if as_json:
            print_json(result)
        elif error is None:
            click.echo(
                f"{result['docs_written']} revisions written, "
                f"{result['missing_checked'] - result['missing_found']} were there already, "
                f"{result['doc_write_failures']} refused, in {result['seconds']:.1f} s"
            )
        if error is not None:
            raise error
        if job.progress.doc_write_failures:
            first = job.progress.failures[0]
            raise EdgeAgentError(
                f"{target_peer.label}: {job.progress.doc_write_failures} revisions were refused, "
                f"{first.id} {first.rev} among them ({first.error}: {first.reason})"
            )


def _result(job: Job, seconds: float, error: EdgeAgentError | None) -> dict[str, Any]:
    progress = job.progress
    return {
        "ok": error is None and not progress.doc_write_failures,
        "source": job.replicator.source.label,
        "target": job.replicator.target.label,
        "missing_checked": progress.missing_checked,
        "missing_found": progress.missing_found,
        "docs_read": progress.docs_read,
        "docs_written": progress.docs_written,
        "doc_write_failures": progress.doc_write_failures,
        "source_last_seq": progress.confirmed_seq,
        "seconds": round(seconds, 3),
        "error": None if error is None else str(error),
    }


async def _show_progress(job: Job, task: asyncio.Task[None]) -> None:
    """A bar on standard error: changes confirmed, how many a second, what remains."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

    columns = (
        TextColumn("{task.fields[state]}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.completed:.0f} done, {task.fields[left]} left, {task.fields[rate]}/s"),
        TextColumn("{task.fields[error]}", markup=False),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        line = bar.add_task("", total=None, state="", left="?", rate="0", error="")
        before, rate = 0, 0.0
        while not task.done():
            await asyncio.wait({task}, timeout=_REFRESH)
            done = job.progress.changes_confirmed
            # Smoothed over about two seconds, so that it can be read.
            rate += ((done - before) / _REFRESH - rate) * 0.1
            before = done
            left = job.progress.pending
            bar.update(
                line,
                completed=done,
                total=None if left is None else done + left,
                state=str(job.state),
                left="?" if left is None else left,
                rate=f"{rate:.0f}",
                error=job.last_error or "",
            )
