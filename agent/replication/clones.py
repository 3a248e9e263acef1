"""Copies of a store that replicate with the same remote, told by who writes the checkpoints."""

from __future__ import annotations

import logging
import secrets
import time
from collections import Counter, deque

log = logging.getLogger(__name__)

PROCESS = secrets.token_hex(16)
"""Names this process in the checkpoints that it writes."""

_MEETINGS = 2
_REMEMBERED = 3600.0
_OWN_SESSIONS = 200


class Others:
    """Notices another process that writes the same checkpoints in turns with this one.

    Two agents do that if one runs on a copy of the other's data: a cloned card. One meeting is no
    sign of it: what a process had sent just before it was killed may arrive after its successor's
    first checkpoint.
    """

    def __init__(self) -> None:
        self.own = deque[str](maxlen=_OWN_SESSIONS)
        """The latest sessions of this process itself, one for each run."""
        self._meetings: Counter[str] = Counter()
        self._last: float | None = None

    @property
    def seen(self) -> float | None:
        """When a clone was last noticed, in seconds since the epoch, if it was in the last hour."""
        if self._last is None or time.time() - self._last > _REMEMBERED:
            return None
        return self._last

    def met(self, process: object, where: str) -> None:
        """Note whose checkpoint had come between two of our own, as its document names it."""
        if not isinstance(process, str) or process == PROCESS:
            return
        self._meetings[process] += 1
        if self._meetings[process] >= _MEETINGS:
            if self.seen is None:
                log.error(
                    "%s: another agent with this one's identity replicates with it, too; is this "
                    "a copied card? Nothing is lost, but one of the two needs a new data folder",
                    where,
                )
            self._last = time.time()
