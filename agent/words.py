"""Numbers in sentences."""

from __future__ import annotations


def counted(number: int, what: str) -> str:
    """How many there are: "1 document", "12,000 documents"; `what` is one of them."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def differing(number: int) -> str:
    """How many of some documents differ: "all are the same", "1 differs", "12 differ"."""
    return f"{number:,} differ{'s' if number == 1 else ''}" if number else "all are the same"
