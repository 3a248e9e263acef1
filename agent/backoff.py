"""Waiting longer after each failure, with jitter, so that a fleet does not return all at once."""

from __future__ import annotations

import random

RETRY_BASE, RETRY_CAP = 0.5, 60.0
"""Seconds, for what may work again any moment: a peer, a broker, whatever a hook calls."""

PERMANENT_BASE, PERMANENT_CAP = 60.0, 300.0
"""The same for what somebody has to mend first, where we do not see it."""


class Backoff:
    """Exponential back-off with full jitter, from the first retry on.

    `base` and `cap` are seconds; `rng` is for tests that need the same delays each time.
    Source: Marc Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    def __init__(self, base: float, cap: float, rng: random.Random | None = None) -> None:
        if not 0 < base <= cap:
            raise ValueError(f"base must be above 0 and at most cap, not {base} and {cap}")
        self._base = base
        self._cap = cap
        self._rng = rng or random.Random()  # noqa: S311 - spreads load, guards nothing
        self._ceiling = base

    def next_delay(self) -> float:
        """Return the seconds to wait now: uniform in 0 to min(cap, base * 2**failures)."""
        delay = self._rng.uniform(0, self._ceiling)
        self._ceiling = min(self._cap, self._ceiling * 2)
        return delay

    def reset(self) -> None:
        """Start over: what was tried has worked."""
        self._ceiling = self._base


def transient_backoff(cap: float = RETRY_CAP) -> Backoff:
    """After a TransientError."""
    return Backoff(min(RETRY_BASE, cap), cap)


def permanent_backoff(cap: float, *, base: float = PERMANENT_BASE) -> Backoff:
    """After a PermanentError; `cap` is that of the transient ones, `base` the first wait."""
    return Backoff(min(base, cap), max(cap, PERMANENT_CAP))
