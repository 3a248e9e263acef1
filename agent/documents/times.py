"""Times as documents have them, RFC 3339 in UTC, and as numbers. Pure."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def microseconds(text: str) -> int:
    """RFC 3339 as microseconds since the epoch; finer fractions are cut off.

    Raises ValueError, also without a time zone.
    """
    at = datetime.fromisoformat(text)
    if at.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone; end it with Z for UTC")
    return (at - _EPOCH) // _MICROSECOND


def timestamp(microseconds: int) -> str:
    """Microseconds since the epoch, always with six decimals, so that text order is time order.

    Raises OverflowError.
    """
    seconds, rest = divmod(microseconds, 1_000_000)
    return f"{_second(seconds)}.{rest:06d}Z"


@lru_cache(maxsize=16)
def _second(seconds: int) -> str:
    """Readings that come together are of the same second, or of the one before."""
    return (_EPOCH + timedelta(seconds=seconds)).isoformat()[:19]  # %Y has no leading zeros


def millisecond_timestamp(seconds: float) -> str:
    """Seconds since the epoch, with three decimals: for what people look at."""
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")
