"""Checkpoints: how far a replication has come, kept on both sides.

Source: CouchDB documentation, "CouchDB Replication Protocol", sections "Generate Replication ID"
and "Retrieve Replication Logs from Source and Target". A log is the document
`_local/{replication id}`; only what both sides' logs vouch for is believed, so a side that was
recreated, or restored from a backup, makes the replication start further back.

What the target refused for good is in the log, too (`refused`), since the checkpoint passes it
over: after a restart it is still known.

The logs vouch for what was carried before they were written, and go back with a database that is
restored from a backup. What was carried since, the remote is asked about (`witnesses.py`).

A session whose lanes went ahead (`lanes.py`) has the ranges that they carried in its entry of the
history, beside the checkpoint: so they are believed exactly where and when that is.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from agent.errors import ConflictError
from agent.peers.peer import START, Ordered, Peer, Seq, WriteResult
from agent.replication.clones import PROCESS, Others
from agent.replication.lanes import Range, ranges_from_log
from agent.replication.selection import EVERYTHING, Selection
from agent.replication.witnesses import Witness, Witnesses, missing

MOST_SESSIONS = 50
"""In a log's history."""

_LOG_VERSION = 1

_MEMBERS = ("id", "rev", "error", "reason")
_LONGEST_REASON = 200


def replication_id(source: Peer, target: Peer, selection: Selection = EVERYTHING) -> str:
    """Names a replication; the same after a restart, and whatever the credentials are.

    Another selection is another replication: what the earlier one passed over was not carried.
    """
    parts = ["edge-sync-agent 1", source.identity, target.identity]
    key = selection.key()
    text = "\n".join([*parts, key] if key else parts)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


class Counts(msgspec.Struct, frozen=True):
    """What a session did so far, with CouchDB's names for it."""

    missing_checked: int
    missing_found: int
    docs_read: int
    docs_written: int
    doc_write_failures: int

    def since(self, before: Counts) -> Counts:
        return Counts(
            missing_checked=self.missing_checked - before.missing_checked,
            missing_found=self.missing_found - before.missing_found,
            docs_read=self.docs_read - before.docs_read,
            docs_written=self.docs_written - before.docs_written,
            doc_write_failures=self.doc_write_failures - before.doc_write_failures,
        )


class Log:
    """The replication log of one session, on both sides."""

    def __init__(
        self,
        source: Peer,
        target: Peer,
        *,
        source_log: Mapping[str, Any] | None,
        target_log: Mapping[str, Any] | None,
        selection: Selection = EVERYTHING,
        most_sessions: int = MOST_SESSIONS,
        others: Others | None = None,
        witnesses: Witnesses | None = None,
    ) -> None:
        """Use `open`."""
        self.id = replication_id(source, target, selection)
        common = common_entry(source_log, target_log)
        self.start_seq: Seq = START if common is None else common["recorded_seq"]
        self.ranges = ranges_from_log((common or {}).get("ranges"), self.start_seq)
        self.last_confirmed: str | None = (common or {}).get("end_time")
        self.refused = () if common is None else _refused(source_log)
        self._peers = (source, target)
        # A store of this process is not replaced while it is open. The other side is written first
        # and asked then: so nothing that it loses comes between.
        self._remote = [side for side in (1, 0) if not isinstance(self._peers[side], Ordered)]
        self._sides = [*self._remote, *(side for side in (1, 0) if side not in self._remote)]
        self._others = others or Others()
        self._witnesses = witnesses or Witnesses()
        self._vouched = _newest_witnesses(target_log) or _newest_witnesses(source_log)
        """The newest witnesses that the logs vouch for."""
        self._revs = [(log or {}).get("_rev") for log in (source_log, target_log)]
        self._known = [next(iter(sessions_of(log)), None) for log in (source_log, target_log)]
        """The newest entry on each side, when it was last read or written."""
        self._opened = [
            {entry["session_id"]: _checkpoint_number(entry) for entry in sessions_of(each)}
            for each in (source_log, target_log)
        ]
        """The sessions that each side had then."""
        self._older = [] if common is None else _sessions_from(common, target_log)
        self._most_sessions = most_sessions
        self._session = secrets.token_hex(16)
        self._others.own.append(self._session)
        self._written = 0
        self._start_time = _now()
        self.last: dict[str, Any] | None = None
        """The log as this session has written it: `session_id`, `source_last_seq`, `history`."""

    @classmethod
    async def open(
        cls,
        source: Peer,
        target: Peer,
        selection: Selection = EVERYTHING,
        *,
        most_sessions: int = MOST_SESSIONS,
        others: Others | None = None,
        witnesses: Witnesses | None = None,
    ) -> Log:
        """Read the logs and find out where to go on from: `start_seq`, and `ranges` after it that
        the target has as well.

        `last_confirmed` is the time (RFC 3339) at which the target confirmed up to there. The log
        will have `most_sessions` at most. `others` gets to know who else writes these logs,
        `witnesses` are asked for before a checkpoint is believed.
        """
        id = replication_id(source, target, selection)
        log = cls(
            source,
            target,
            source_log=await source.get_local(id),
            target_log=await target.get_local(id),
            selection=selection,
            most_sessions=most_sessions,
            others=others,
            witnesses=witnesses,
        )
        if source.identity == target.identity:
            # A store and its copy: both directions have one log, which says nothing about either.
            log.start_seq, log.ranges, log.last_confirmed, log._older = START, (), None, []
        return log

    async def write(
        self,
        seq: Seq,
        counts: Counts,
        ranges: Sequence[Range] = (),
        refused: Sequence[WriteResult] = (),
    ) -> None:
        """Record that everything up to `seq`, and in `ranges`, is durable in the target.

        A crash between the two sides leaves the older common session. Raises
        DatabaseRecreatedError.
        """
        async with self._witnesses.recording:
            self._witnesses.check()
            noted, vouched = self._witnesses.noted(), self._vouched
            log = self.note(seq, counts, ranges, refused)
            for side in (0, 1):
                self._look(self._peers[side], await self._read(side))
            first, last = self._sides
            await self._put(first, log)
            for side in self._remote:
                await self._ask(side, noted, vouched)
            await self._put(last, log)
            self._witnesses.vouched_for(noted)

    async def check(self) -> None:
        """Notice a database that was restored from a backup, though nothing is to be recorded.

        Raises DatabaseRecreatedError.
        """
        noted = self._witnesses.noted()
        for side in self._remote:
            if noted:
                await self._ask(side, noted)
            if await missing(self._peers[side], self._vouched):
                await self._read(side)
                self._vouched = ()  # the log is in order, so they were purged
        if self._witnesses.full:
            newest = self._witnesses.newest()
            self._witnesses.drop([each for each in noted if each not in newest])

    def note(
        self,
        seq: Seq,
        counts: Counts,
        ranges: Sequence[Range] = (),
        refused: Sequence[WriteResult] = (),
    ) -> dict[str, Any]:
        """What `write` writes, kept in `last` only."""
        self._written += 1
        self._vouched = self._witnesses.newest() or self._vouched
        entry = {
            "session_id": self._session,
            "checkpoint": self._written,
            "start_time": self._start_time,
            "end_time": _now(),
            "start_last_seq": self.start_seq,
            "end_last_seq": seq,
            "recorded_seq": seq,
            "missing_checked": counts.missing_checked,
            "missing_found": counts.missing_found,
            "docs_read": counts.docs_read,
            "docs_written": counts.docs_written,
            "doc_write_failures": counts.doc_write_failures,
            **({"ranges": list(map(list, ranges))} if ranges else {}),
        }
        self.last = {
            "version": _LOG_VERSION,
            "session_id": self._session,
            "process": PROCESS,
            "source_last_seq": seq,
            "history": [entry, *self._older][: self._most_sessions],
            **({"refused": [_shortened(each) for each in refused]} if refused else {}),
            **({"witnesses": list(map(list, self._vouched))} if self._vouched else {}),
        }
        return self.last

    async def _read(self, side: int) -> dict[str, Any] | None:
        peer = self._peers[side]
        present = await peer.get_local(self.id)
        older = self._is_older(side, present)
        if older is None:
            # Somebody else's, unless the backup is of a history that did not go on.
            older = side in self._remote and bool(await missing(peer, self._vouched))
        if older:
            raise self._witnesses.lapse(
                f"{peer.label}: the checkpoint {'is an older one' if present else 'has gone'}, so "
                "the database was probably restored from a backup; starting from there"
            )
        return present

    async def _ask(
        self, side: int, witnesses: Sequence[Witness], vouched: Sequence[Witness] = ()
    ) -> None:
        """Raises DatabaseRecreatedError. `vouched` are those of a log that was overwritten."""
        peer = self._peers[side]
        if not (lost := await self._witnesses.lost(peer, witnesses)):
            return
        if await missing(peer, vouched):
            # It went back beyond that log, after it was looked at: nothing there is to be believed.
            await self._put(side, {**(self.last or {}), "history": []})
        raise self._witnesses.gone(lost, peer)

    async def _put(self, side: int, log: Mapping[str, Any]) -> None:
        peer, rev = self._peers[side], self._revs[side]
        try:
            self._revs[side] = await peer.put_local(self.id, _with_rev(log, rev))
        except ConflictError:
            # An earlier attempt arrived though its answer did not; or another process runs the
            # same replication, and then either log is true.
            present = await self._read(side)
            self._look(peer, present)
            again = _with_rev(log, (present or {}).get("_rev"))
            self._revs[side] = await peer.put_local(self.id, again)
        self._known[side] = next(iter(log["history"]), None)

    def _is_older(self, side: int, present: Mapping[str, Any] | None) -> bool | None:
        """Whether a log is from before the entry that it had; None if it tells nothing of that."""
        known = self._known[side]
        if known is None:
            return False
        history = sessions_of(present)
        for entry in history:
            if entry["session_id"] == known["session_id"]:
                return _checkpoint_number(entry) < _checkpoint_number(known)
        if not history:
            return True
        session, number = history[0]["session_id"], _checkpoint_number(history[0])
        earlier = session in self._others.own and session != self._session
        return True if earlier or number <= self._opened[side].get(session, -1) else None

    def _look(self, peer: Peer, present: Mapping[str, Any] | None) -> None:
        """Look at who wrote the log that is there. Servers, CouchDB too, take any revision."""
        if self._written > 1:
            self._others.met((present or {}).get("process"), peer.label)


def common_entry(
    source_log: Mapping[str, Any] | None, target_log: Mapping[str, Any] | None
) -> dict[str, Any] | None:
    """The entry of the newest session that both logs vouch for, None if there is none.

    Logs that are not of the expected shape count as none.
    """
    theirs = {entry["session_id"]: entry for entry in sessions_of(target_log)}
    for entry in sessions_of(source_log):
        match = theirs.get(entry["session_id"])
        if match is not None:
            # The same session with two sequences: a crash between the two writes, or one side
            # was restored from a backup. Both have reached the older one.
            return min(entry, match, key=_checkpoint_number)
    return None


def _sessions_from(
    common: dict[str, Any], target_log: Mapping[str, Any] | None
) -> list[dict[str, Any]]:
    """The common entry, and the target's sessions before it.

    Later ones are left out. They may be those of another source, which is a copy of this one or
    what it was before it was restored; in both logs, their sequences would be believed here, too.
    """
    theirs = sessions_of(target_log)
    place = [entry["session_id"] for entry in theirs].index(common["session_id"])
    return [common, *theirs[place + 1 :]]


def sessions_of(log: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """A log's history, the newest session first; none of what is not of the expected shape."""
    history = (log or {}).get("history")
    if not isinstance(history, list):
        return []
    return [
        entry
        for entry in history
        if isinstance(entry, dict)
        and isinstance(entry.get("session_id"), str)
        and entry.get("recorded_seq") is not None
    ]


def _shortened(refused: WriteResult) -> list[str | None]:
    reason = (refused.reason or "")[:_LONGEST_REASON]
    return [refused.id, refused.rev, refused.error, reason]


def _refused(log: Mapping[str, Any] | None) -> tuple[WriteResult, ...]:
    """The reverse; none where they are not of the expected shape."""
    try:
        return msgspec.convert(
            [dict(zip(_MEMBERS, each, strict=True)) for each in (log or {}).get("refused", ())],
            tuple[WriteResult, ...],
        )
    except (TypeError, ValueError):
        return ()


def _newest_witnesses(log: Mapping[str, Any] | None) -> Sequence[Witness]:
    """Those of a log, none where they are not of the expected shape."""
    try:
        return msgspec.convert((log or {}).get("witnesses", ()), tuple[Witness, ...])
    except msgspec.ValidationError:
        return ()


def _checkpoint_number(entry: Mapping[str, Any]) -> int:
    """Which of its session's checkpoints this is; sequences themselves are opaque."""
    number = entry.get("checkpoint")
    return number if isinstance(number, int) else 0


def _with_rev(log: Mapping[str, Any], rev: str | None) -> dict[str, Any]:
    return {**log, "_rev": rev} if rev is not None else dict(log)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
