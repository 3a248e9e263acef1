"""`[clock]`: whom to believe what time it is."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

Source = Literal["ntp", "https", "http"]


class ClockConfig(Struct, forbid_unknown_fields=True):
    """`[clock]`: how the agent finds out what time it is; devices can tell it, too."""

    trust: Annotated[
        Literal["sources", "system"],
        Meta(
            description=(
                "'sources', or 'system' for a machine whose clock is known to be right at any time"
            ),
            examples=["system"],
        ),
    ] = "sources"
    sources: (
        Annotated[
            list[Source],
            Meta(
                description=(
                    "any of 'ntp', 'https' and 'http' (remotes without TLS, which anybody on the "
                    "way can forge)"
                ),
                examples=[["ntp", "https"]],
            ),
        ]
        | None
    ) = None
    tolerance: Annotated[
        float,
        Meta(
            ge=0.1,
            le=3600,
            description="seconds from 0.1 to 3600: a time that is less wrong is not corrected",
            examples=[2],
        ),
    ] = 2.0

    def __post_init__(self) -> None:
        if self.trust == "system" and self.sources is not None:
            raise ValueError(
                "trust = 'system' and sources exclude each other, as nobody else is asked; keep one"
            )

    def believes(self, source: Source) -> bool:
        """Whether what a source says counts; of those with TLS and of NTP it does by default."""
        default: list[Source] = ["ntp", "https"]
        return self.trust == "sources" and source in (
            default if self.sources is None else self.sources
        )
