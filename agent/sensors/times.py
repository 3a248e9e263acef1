"""Times as readings have them, RFC 3339 in UTC, and as numbers."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import lru_cache


def timestamp(microseconds: int) -> str:
    """Microseconds since the epoch, always with six decimals, so that text order is time order."""
    seconds, rest = divmod(microseconds, 1_000_000)
    return f"{_second(seconds)}.{rest:06d}Z"


@lru_cache(maxsize=16)
def _second(seconds: int) -> str:
    """Readings that come together are of the same second, or of the one before."""
    return datetime.fromtimestamp(seconds, UTC).isoformat()[:19]  # %Y has no leading zeros


def microseconds(timestamp: str) -> int:
    """RFC 3339 in UTC as microseconds since the epoch; finer fractions are cut off."""
    seconds = datetime.fromisoformat(timestamp[:19]).replace(tzinfo=UTC).timestamp()
    return 1_000_000 * int(seconds) + int(timestamp[20:26].rstrip("Z").ljust(6, "0"))
