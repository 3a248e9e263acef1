"""`edge-agent verify`."""

from __future__ import annotations

import asyncio
import contextlib
import time
from pathlib import Path
from typing import Any

import click

from agent.cli.options import json_option, print_json
from agent.cli.places import opened, place_options
from agent.errors import EdgeAgentError
from agent.peers.http_errors import one_line
from agent.peers.peer import Peer
from agent.replication.verification import Difference, Verification
from agent.words import counted, differing

_SHOWN = 20
_AT_ONCE = 100


@click.command()
@click.argument("source")
@click.argument("target")
@click.option("--repair", is_flag=True, help="Bring both sides what they lack.")
@place_options
@click.option(
    "--settle",
    type=click.FloatRange(min=0, max=3600),
    default=1.0,
    show_default=True,
    metavar="SECONDS",
    help="How long a replication that is under way has to deliver what differs.",
)
@json_option
def verify_command(
    source: str,
    target: str,
    repair: bool,
    source_password_file: Path | None,
    target_password_file: Path | None,
    ca_file: Path | None,
    settle: float,
    as_json: bool,
) -> None:
    """Compare two databases: whether both have the same documents and revisions.

    Each is the path of a store, or a URL, as for `replicate`. Two agents exchange digests, which
    takes a second for a million documents; of any other CouchDB the whole changes feed is read. The
    exit status is 1 if anything differs; with --repair, if anything is left.
    """
    asyncio.run(
        _verify(
            opened(source, source_password_file, ca_file),
            opened(target, target_password_file, ca_file),
            repair=repair,
            settle=settle,
            as_json=as_json,
        )
    )


async def _verify(
    source: contextlib.AbstractAsyncContextManager[Peer],
    target: contextlib.AbstractAsyncContextManager[Peer],
    *,
    repair: bool,
    settle: float,
    as_json: bool,
) -> None:
    started = time.monotonic()
    async with source as source_peer, target as target_peer:
        verification = Verification(source_peer, target_peer)
        found: list[Difference] = []
        count = repaired = 0
        batch: list[Difference] = []
        async for difference in verification.differences(settle=settle):
            count += 1
            if as_json or count <= _SHOWN:
                found.append(difference)
            batch.append(difference)
            if repair and len(batch) == _AT_ONCE:
                repaired += await verification.repair(batch)
            if len(batch) == _AT_ONCE:
                batch.clear()
        if repair:
            repaired += await verification.repair(batch)
        refused = verification.refused
        result = {
            "ok": not refused if repair else not count,
            "source": source_peer.label,
            "target": target_peer.label,
            "by": verification.by,
            "documents": verification.documents,
            "different": count,
            "repaired_revisions": repaired,
            "refused": refused,
            "seconds": round(time.monotonic() - started, 3),
            "differences": [_shown(item) for item in found],
        }
        if as_json:
            print_json(result)
        else:
            _print(result, count - len(found), (source_peer, target_peer))
        if not result["ok"]:
            if as_json:
                click.get_current_context().exit(1)
            if repair:
                refusals = counted(len(refused), "revision")
                raise EdgeAgentError(
                    f"{refusals} not taken, for the reasons above; mend them and repair again"
                )
            raise EdgeAgentError(
                f"the databases differ in {counted(count, 'document')}; "
                "--repair brings both sides together"
            )


def _shown(difference: Difference) -> dict[str, Any]:
    return {
        "id": difference.id,
        "missing_in_source": difference.missing_in_source,
        "missing_in_target": difference.missing_in_target,
    }


def _print(result: dict[str, Any], more: int, peers: tuple[Peer, Peer]) -> None:
    for item in result["differences"]:
        for side, peer in zip(("source", "target"), peers, strict=True):
            if revs := item[f"missing_in_{side}"]:
                click.echo(one_line(f"{item['id']}: {peer.label} lacks {', '.join(revs)}"))
    if more:
        click.echo(f"and {more} more; --json lists all of them")
    for item in result["refused"][:_SHOWN]:
        click.echo(one_line(f"{item.id} {item.rev}: {item.by} says {item.reason}"))
    if len(result["refused"]) > _SHOWN:
        click.echo(f"and {len(result['refused']) - _SHOWN} more that were not taken")
    outcome, repaired = differing(result["different"]), result["repaired_revisions"]
    if repaired:
        outcome += f", {counted(repaired, 'revision')} copied"
    click.echo(
        f"{counted(result['documents'], 'document')} compared by {result['by']}, {outcome}, "
        f"in {result['seconds']:.1f} s"
    )
