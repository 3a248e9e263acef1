"""Errors over MQTT: the agent's own, as codes on their way to the other side, and the broker's.

Source of the reason codes: OASIS MQTT Version 5.0, section 2.4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from agent.errors import (
    AuthError,
    ConflictError,
    DocumentError,
    EdgeAgentError,
    MissingStubError,
    NotFoundError,
    RemoteBusyError,
    RemoteError,
    RemoteMissingError,
    TooLargeError,
    TransientError,
)
from agent.peers.http_errors import NO_DATABASE, one_line
from agent.peers.mqtt_wire import Fault, VersionError, WireError

BUSY: Final = "unavailable"
NO_SUCH_DATABASE: Final = "no_database"

NOBODY_LISTENS: Final = 0x10
"""The reason code for what was published and went to nobody."""

REFUSED: Final = 0x80
"""The lowest reason code of a refusal."""

TAKEN_OVER: Final = 0x8E
"""The reason code for the end of a connection whose client id another one has come with."""

_PROTOCOL: Final = frozenset({1, 0x84})
_CREDENTIALS: Final = frozenset({4, 5, 0x86, 0x87, 0x8A, 0x8C})
_OUT_OF_ORDER: Final = frozenset({3, 0x88, 0x89, 0x93, 0x96, 0x97, 0x9C, 0x9D, 0x9F})
_TOO_LARGE: Final = 0x95
_NOT_SHARED: Final = 0x9E

_LONGEST_WAIT: Final = 86_400.0

_TO_CODE: Final[tuple[tuple[type[EdgeAgentError], str], ...]] = (
    # The first that fits: what is derived from another one comes before it.
    (RemoteMissingError, NO_SUCH_DATABASE),
    (NotFoundError, "not_found"),
    (ConflictError, "conflict"),
    (MissingStubError, "missing_stub"),
    (TooLargeError, "too_large"),
    (DocumentError, "bad_request"),
    (AuthError, "unauthorized"),
    (VersionError, "unsupported_version"),
    (WireError, "bad_message"),
    (TransientError, BUSY),
)

_FROM_CODE: Final[dict[str, Callable[[str], EdgeAgentError]]] = {
    NO_SUCH_DATABASE: lambda text: RemoteMissingError(text, status=404),
    "conflict": ConflictError,
    "missing_stub": MissingStubError,
    "too_large": TooLargeError,
    "bad_request": DocumentError,
    "unauthorized": lambda text: AuthError(text, status=403),
}


def to_fault(error: EdgeAgentError) -> Fault:
    """The error as it travels; the messages of the agent's errors hold no secrets."""
    code = next((code for kind, code in _TO_CODE if isinstance(error, kind)), "refused")
    reason = error.reason if isinstance(error, NotFoundError) else None
    if reason in NO_DATABASE:
        code, reason = NO_SUCH_DATABASE, None
    wait = error.retry_after if isinstance(error, TransientError) else None
    return Fault(code, one_line(error), wait, reason)


def from_fault(where: str, fault: Fault) -> EdgeAgentError:
    """The error that the other side, `where` for people, has told."""
    said = f"{where}: {one_line(fault.message)}"
    if fault.code == BUSY:
        wait = fault.retry_after
        return RemoteBusyError(
            said, retry_after=None if wait is None else min(max(wait, 0.0), _LONGEST_WAIT)
        )
    if fault.code == "not_found":
        return NotFoundError(said, reason=one_line(fault.reason or "missing"))
    return _FROM_CODE.get(fault.code, RemoteError)(said)


def refusal(broker: str, user: str | None, code: int, what: str) -> EdgeAgentError:
    """The error for a broker's reason code; `what` is what it refused, such as "to connect"."""
    who = "this client" if user is None else f"user {user!r}"
    said = f"reason code {code}"
    if code in _CREDENTIALS:
        return AuthError(
            f"{broker} does not allow {who} {what} ({said}); check the user, the password and the "
            "broker's access rules"
        )
    if code in _OUT_OF_ORDER:
        return RemoteBusyError(f"{broker} is busy or out of order ({said}); try again later")
    if code in _PROTOCOL:
        return RemoteError(f"{broker} does not speak MQTT 5 ({said}); use one that does")
    if code == _TOO_LARGE:
        return TooLargeError(f"{broker} refused {who} {what} as too large ({said})")
    if code == _NOT_SHARED:
        return RemoteError(
            f"{broker} has no shared subscriptions ({said}), by which hubs and bridges divide the "
            "requests among them; use a broker that has them"
        )
    return RemoteError(f"{broker} refused {who} {what} ({said})")
