"""Types of values that several tables of a configuration have."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

Name = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$",
        description="letters, digits, '_', '.' and '-', at most 64",
        examples=["greenhouse-1"],
    ),
]
DatabaseName = Annotated[
    str,
    Meta(
        pattern=r"^[a-z][a-z0-9_$()+/-]*$",
        max_length=60,
        description="a database name: lower-case letters, digits and _$()+/-, at most 60",
        examples=["edge"],
    ),
]
Seconds = Annotated[
    float,
    Meta(
        gt=0,
        le=86_400,
        description="a number of seconds above 0 and at most 86400, a day",
        examples=[30],
    ),
]
