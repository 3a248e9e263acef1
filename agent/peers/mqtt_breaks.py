"""Why the connection to a broker broke, as far as that can be told.

Source: OASIS MQTT Version 5.0, section 3.14 (DISCONNECT).
"""

from __future__ import annotations

from typing import Final

from agent.errors import ConnectError
from agent.peers.mqtt_errors import TAKEN_OVER

_SHORT: Final = 10.0
_SHORT_IN_A_ROW: Final = 3


class Breaks:
    """What is known of the latest connections of one client to one broker; `broker` for people."""

    def __init__(self, broker: str, client_id: str) -> None:
        self._broker = broker
        self._client_id = client_id
        self._code: int | None = None
        self._short = 0
        """Connections in a row that broke soon."""

    def begin(self) -> None:
        """A connection is being made."""
        self._code = None

    def hung_up(self, code: int) -> None:
        """The broker has ended the connection, and told this reason code."""
        self._code = code

    def end(self, seconds: float) -> None:
        """A connection that had come about is lost, so many seconds after it was begun."""
        self._short = self._short + 1 if seconds < _SHORT else 0

    def error(self) -> ConnectError:
        """Why there is no connection any more."""
        if self._code == TAKEN_OVER:
            return ConnectError(
                f"{self._broker}: another client has connected as {self._client_id!r} and taken "
                "this one's place; give each gateway a name of its own"
            )
        if self._short >= _SHORT_IN_A_ROW:
            # Not every broker tells that another client has come with the same id.
            return ConnectError(
                f"the connection to {self._broker} breaks as soon as it is made; check the "
                f"network, and whether another client connects as {self._client_id!r}: two agents "
                "of one name, a copied card"
            )
        said = "" if self._code is None else f" (the broker's reason code {self._code})"
        return ConnectError(f"the connection to {self._broker} broke{said}; try again")
