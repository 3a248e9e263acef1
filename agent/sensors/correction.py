"""What a document that was recorded with a provisional time becomes. Pure."""

from __future__ import annotations

import contextlib
from typing import Any

from agent.documents.times import microseconds, timestamp

_TIMES = {"": "time", "cleared_": "cleared"}
"""By the prefix of the members that mark it, the member that has the time."""


def corrected(
    body: dict[str, Any], boot_id: str, offset: int, tolerance: int
) -> dict[str, Any] | None:
    """A document's body with its times of that boot put right, if one of them is not.

    `offset` is what makes times of moments of that boot's monotonic clock. Times that are wrong by
    less than `tolerance` stay as they are; both in microseconds. None: there is nothing to change.
    """
    made = dict(body)
    for prefix, name in _TIMES.items():
        if not is_marked(body, boot_id, prefix):
            continue
        with contextlib.suppress(ValueError, OverflowError):  # others may have changed it
            right = offset + round(1000 * body[f"{prefix}monotonic"])
            if abs(right - microseconds(body[name])) >= tolerance:
                changed = {name: timestamp(right), f"{name}_recorded": body[name]}
                made |= {f"{prefix}clock": "corrected", **changed}
    return made if made != body else None


def is_marked(body: dict[str, Any], boot_id: str, prefix: str = "") -> bool:
    """Whether a time in a document was not known to be right when it was recorded in that boot,
    and has not been corrected."""
    return (
        body.get(f"{prefix}clock") == "unset"
        and body.get(f"{prefix}boot_id") == boot_id
        and isinstance(body.get(f"{prefix}monotonic"), int | float)
        and isinstance(body.get(_TIMES[prefix]), str)
    )
