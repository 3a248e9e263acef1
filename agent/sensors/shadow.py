"""What a device is to be set to, and what it says it is set to: which command is sent, and when.

Pure: it is given the time, and does no I/O. A command sets values, so repeating it does no harm; it
has a number that its answer repeats, so an answer that comes late or twice is no confirmation of
something else. A setting is confirmed when the device itself says that it has the value.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from firmware_adapters.adapter import PollingAdapter, Report, SettableAdapter, Value

State = Literal["confirmed", "pending", "refused"]

ALL = "*"
"""Stands for all settings, where what is desired is not even a list of settings."""

MOST_SETTINGS = 64
_LONGEST_NAME = 64
_LONGEST_SHOWN = 256
_MAX_INT64 = 2**63 - 1

SHORTEST_PATIENCE = 2.0
LONGEST_PATIENCE = 300.0
"""Seconds until a command is sent again: twice as long each time, between these two."""

_UNWANTED_QUESTIONS = 3
"""How often a device of which nothing is desired is asked how it is set, after each opening."""

_ONE_BY_ONE = 2
"""After so many commands without an answer each holds one setting: the device may have less room
for a command than its format allows."""


class Refusal(Struct, frozen=True, omit_defaults=True):
    """Why a setting is not what was desired; `value` is that, where it is short enough to repeat.

    `time` is when it was refused first, RFC 3339 in UTC.
    """

    reason: str
    time: str
    value: Value | None = None


class Shadow:
    """One device's settings. `adapter` is None where the device cannot, or must not, be told any;
    `why_not` says why. `number` is that of the first command: a random one, so that an answer to
    a command of an earlier run is not taken for one to this.
    """

    def __init__(
        self, adapter: SettableAdapter | None, *, number: int = 0, why_not: str = ""
    ) -> None:
        self.desired: dict[str, Value] = {}
        """What can be sent of what is desired."""
        self.reported: dict[str, Value] = {}
        self.refused: dict[str, Refusal] = {}
        self.takes_bytes = False
        """Whether the device itself expects bytes, as one does that wants acknowledgements; then
        it is asked how it is set though nothing is desired."""
        self._adapter = adapter
        self._why_not = why_not
        self._asks = adapter is not None and not isinstance(adapter, PollingAdapter)
        self._number = number % 2**32
        self._told: object = None
        self._sent: dict[str, Value] | None = None
        """What is asked for by the command that has no answer yet; nothing: it is a question."""
        self._heard: set[str] = set()
        """The settings that the device has reported since it began."""
        self._heard_all = False
        self._given_up: set[str] = set()
        """What the device has refused since it began; it is not told again."""
        self._questions = 0
        self._unanswered = 0
        self._patience = SHORTEST_PATIENCE
        self._not_before = self._last = float("-inf")

    def restore(self, reported: Mapping[str, Value], refused: Mapping[str, Refusal]) -> None:
        """Go on from what was known before, except for what the device has said meanwhile."""
        if not self._heard_all:
            self.reported = {**reported, **self.reported}
        self.refused = dict(refused)

    def want(self, desired: object, at: str) -> None:
        """Take what is desired, whatever that is; what cannot be is refused. `at` is now."""
        if desired == self._told and _alike(desired, self._told):
            return
        self._told = desired
        before = self.desired
        self.desired, mistakes = self._checked(desired)
        self._given_up = {
            name
            for name in self._given_up & self.desired.keys()
            if same(self.desired[name], before.get(name))
        }
        kept = {
            name: refusal
            for name, refusal in self.refused.items()
            if name in self._given_up
            or (name in self.desired and same(self.desired[name], refusal.value))
        }
        old, self.refused = self.refused, kept
        for name, (value, reason) in mistakes.items():
            self._refuse(name, value, reason, at, old.get(name))
        self._begin_anew()

    def began(self) -> None:
        """The port was opened, or the device has started: it may be another one, or have lost its
        settings, and what it refused once it may take now."""
        self._heard.clear()
        self._heard_all = False
        self._given_up.clear()
        self._questions = 0
        self._begin_anew()
        # Two devices on one line look like one that starts all the time.
        self._not_before = self._last + SHORTEST_PATIENCE

    def turn(self, now: float) -> tuple[bytes, float]:
        """What to send now (or nothing), and when to ask again, in seconds on the clock of `now`.

        Call it whenever anything has been told to this object, and at that time.
        """
        due = self._due()
        if due is None or self._adapter is None:
            return b"", float("inf")
        if now < self._not_before:
            return b"", self._not_before
        if due != self._sent:
            self._number = (self._number + 1) % 2**32
        self._sent = due
        self._last = now
        self._questions += not due
        self._unanswered += 1
        self._not_before = now + self._patience
        self._patience = min(2 * self._patience, LONGEST_PATIENCE)
        return self._adapter.command(self._number, due), self._not_before

    def hear(self, report: Report, now: float, at: str) -> None:
        """Take what the device says; `at` is now, for people."""
        self.reported = {**({} if report.complete else self.reported), **report.settings}
        first = report.complete and not self._heard_all
        self._heard |= report.settings.keys()
        self._heard_all |= report.complete
        if first or self._sent == {}:
            self._begin_anew()
        elif self._sent is not None and report.answers == self._number:
            self._answered(self._sent, report, now, at)
        for name in [*self.refused]:
            if self._state(name) == "confirmed":
                del self.refused[name]

    def states(self) -> dict[str, State]:
        """Where each desired setting stands."""
        names = [*self.desired, *(name for name in self.refused if name not in self.desired)]
        return {name: self._state(name) for name in names}

    def _state(self, name: str) -> State:
        if name in self.desired and same(self.desired[name], self.reported.get(name)):
            return "confirmed"
        return "refused" if name in self.refused else "pending"

    # --- what is desired ---------------------------------------------------------------

    def _checked(self, desired: object) -> tuple[dict[str, Value], dict[str, tuple[object, str]]]:
        """What can be sent, and what not: value and reason."""
        if desired is None:
            return {}, {}
        if not isinstance(desired, Mapping):
            return {}, {ALL: (desired, 'desired is no object, such as {"interval_ms": 500}')}
        if len(desired) > MOST_SETTINGS:
            return {}, {ALL: (None, f"{len(desired)} settings; at most {MOST_SETTINGS} can be")}
        good: dict[str, Value] = {}
        bad: dict[str, tuple[object, str]] = {}
        for name, value in desired.items():
            reason = self._mistake(name, value)
            if reason is None:
                good[name] = value
            else:
                bad[name[:_LONGEST_NAME]] = value, reason
        return good, bad

    def _mistake(self, name: str, value: object) -> str | None:
        if not (0 < len(name) <= _LONGEST_NAME and name.isprintable()):
            return f"a setting's name has 1 to {_LONGEST_NAME} printable characters"
        if not isinstance(value, bool | int | float | str):
            return "a setting's value is a number, text, true or false"
        if self._adapter is None:
            return self._why_not
        try:
            self._adapter.check({name: value})
        except ValueError as error:
            return str(error)
        return None

    def _refuse(
        self, name: str, value: object, reason: str, at: str, before: Refusal | None
    ) -> None:
        shown = value if isinstance(value, bool | int | float | str) else None
        if isinstance(shown, int) and not -_MAX_INT64 - 1 <= shown <= _MAX_INT64:
            shown = None
        if isinstance(shown, str) and len(shown) > _LONGEST_SHOWN:
            shown = None
        if before is not None and before.reason == reason and same(shown, before.value):
            at = before.time
        self.refused[name] = Refusal(reason, at, shown)

    # --- what is sent ------------------------------------------------------------------

    def _begin_anew(self) -> None:
        self._sent = None
        self._unanswered = 0
        self._patience = SHORTEST_PATIENCE
        self._not_before = float("-inf")

    def _due(self) -> dict[str, Value] | None:
        """The settings of the command that is to be sent next; none: a question; None: nothing."""
        lacking = {
            name: value
            for name, value in self.desired.items()
            if (self._heard_all or name in self._heard)
            and name not in self._given_up
            and not same(value, self.reported.get(name))
        }
        if lacking:
            return self._fitting(lacking)
        if self._heard_all or not self._asks:
            return None
        unknown = self.desired.keys() - self._heard
        wondering = self.takes_bytes and self._questions < _UNWANTED_QUESTIONS
        return {} if unknown or wondering else None

    def _fitting(self, lacking: dict[str, Value]) -> dict[str, Value]:
        """As much as one command carries."""
        assert self._adapter is not None  # noqa: S101  (else nothing desired can be sent)
        if self._unanswered >= _ONE_BY_ONE:
            name = [*lacking][self._unanswered % len(lacking)]
            return {name: lacking[name]}
        chosen: dict[str, Value] = {}
        for name, value in lacking.items():
            try:
                self._adapter.check({**chosen, name: value})
            except ValueError:
                continue
            chosen[name] = value
        return chosen

    def _answered(self, sent: dict[str, Value], report: Report, now: float, at: str) -> None:
        self._unanswered = 0
        for name, value in [*sent.items()]:
            if name in report.refused:
                self._give_up(name, report.refused[name], at)
            elif name in report.settings:
                if not same(value, report.settings[name]):
                    instead = _text(report.settings[name])
                    self._give_up(name, f"the device has set {instead} instead", at)
            elif report.complete:
                self._give_up(name, "the device does not have this setting", at)
            else:
                continue
            del sent[name]
        if not sent:
            self._sent = None
            if self._due():  # others; one that the device takes and then loses has to wait
                self._not_before = now

    def _give_up(self, name: str, reason: str, at: str) -> None:
        self._given_up.add(name)
        self._refuse(name, self.desired[name], reason, at, self.refused.get(name))


def same(one: object, other: object) -> bool:
    """Whether a device that says `other` is set to `one`: many can hold 32-bit floats only."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, int | float) and isinstance(other, int | float):
        if isinstance(one, int) and isinstance(other, int):
            return one == other
        single = _single(one)
        return one == other or (single is not None and single == _single(other))
    return type(one) is type(other) and one == other


def _single(number: float) -> bytes | None:
    try:
        return struct.pack("<f", number)
    except OverflowError:
        return None


def _text(value: Value) -> str:
    shown = str(value).lower() if isinstance(value, bool) else str(value)
    return shown[:_LONGEST_NAME]


def _alike(one: Any, other: Any) -> bool:
    """Whether values that are equal to Python are so to others: true is not 1."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return all(_alike(one[name], other[name]) for name in one)
    return type(one) is type(other)
