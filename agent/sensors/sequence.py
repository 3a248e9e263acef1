"""Which of a device's frames are new, which are repeats, which never came, and what to confirm."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from firmware_adapters.adapter import Held, Value

_MODULUS = 2**32  # after 4294967295 comes 0
_HALF = _MODULUS // 2
_KEPT_RANGES = 64
_KEPT_BOOTS = 3


class Boot(Struct):
    """What is known of the sequence numbers of one boot of a device."""

    boot: int | str | None = None
    last: int | None = None
    seen: dict[str, Value] = field(default_factory=dict)
    """The values that came with `last`."""
    missing: list[tuple[int, int]] = field(default_factory=list)
    """The latest ranges `(first, last)` of this boot that have not come (yet)."""
    early: list[tuple[int, int]] = field(default_factory=list)
    """What this boot may have sent before we listened: not missed, but welcome if it comes."""
    oldest: int | None = None
    """The lowest number that the device still holds, if it wants acknowledgements."""
    given_up: int = 0
    """Frames of this boot that the device says it has dropped unacknowledged."""


class SequenceState(Boot):
    """What is known of one device's sequence numbers; stored with the readings it stands for.

    Numbers are compared by serial number arithmetic (RFC 1982). They count from anew with each
    `boot`. A device that does not name its boots is taken to have restarted when its numbers go
    back: losing a reading would be worse than keeping one twice.

    A device that holds its frames until they are acknowledged sends again what has not come, so
    a number that was forgotten here would be lost or kept twice. For such a device none is: a
    frame that would make one range too many counts as not having come, and the last boots are
    remembered when another one comes, be it by noise that looks like a frame or by a swap.
    """

    former: list[Boot] = field(default_factory=list)
    gaps: int = 0
    """How often numbers were left out."""
    lost: int = 0
    """Frames that have not come, less those that came late."""
    dropped: int = 0
    """Frames that the device says it has dropped; those that have not come are in `lost` too."""
    repeated: int = 0
    """Readings that came again, and were not stored again."""
    restarts: int = 0

    def accept(
        self,
        boot: int | str | None,
        sequence: int,
        values: Mapping[str, Value],
        held: Held | None = None,
    ) -> set[str]:
        """Take note of a frame's values; returns the sensors whose value is new.

        `held`: what the frame says of the frames that the device holds; then `boot` is not None.
        """
        if boot != self.boot and boot is not None:
            self._resume(boot)
        if self.last is None or boot != self.boot:
            self._start(boot, sequence, values, restarted=self.last is not None)
            self._note(held, sequence)
            return set(values)
        self._note(held, sequence)
        step = (sequence - self.last) % _MODULUS
        if step == 0:
            return self._again(boot, sequence, values)
        if step < _HALF:
            if step > 1:
                if not self._has_room():
                    return set()
                self._skipped(self.last + 1, sequence - 1, step - 1)
            self.last = sequence
            self.seen = dict(values)
            return set(values)
        if boot is None:
            self._start(boot, sequence, values, restarted=True)
            return set(values)
        if _splits(self.missing + self.early, sequence) and not self._has_room():
            return set()
        if _taken(self.missing, sequence):
            self.lost -= 1
            return set(values)
        if _taken(self.early, sequence):
            self.early = self.early[-_KEPT_RANGES:]
            return set(values)
        self.repeated += len(values)
        return set()

    def confirmed(self) -> tuple[int, tuple[int, int] | None] | None:
        """The number up to which all has come that the device holds, and the range after it that
        has not, or None if all has. None for a device that does not ask for acknowledgements."""
        if self.last is None or self.oldest is None:
            return None
        holes = [hole for hole in self.missing + self.early if not _before(hole[1], self.oldest)]
        if not holes:
            return self.last, None
        newest = self.last
        first, last = min(holes, key=lambda hole: (hole[0] - newest) % _MODULUS)
        if _before(first, self.oldest):
            first = self.oldest
        return (first - 1) % _MODULUS, (first, last)

    def _note(self, held: Held | None, sequence: int) -> None:
        if held is None or _before(sequence, held.oldest):
            return
        self.oldest = held.oldest
        if held.dropped > self.given_up:
            self.dropped += held.dropped - self.given_up
            self.given_up = held.dropped

    def _resume(self, boot: int | str) -> None:
        """Go on with a former boot, if it is one."""
        for index, former in enumerate(self.former):
            if former.boot == boot:
                del self.former[index]
                self._put_aside()
                for name in Boot.__struct_fields__:
                    setattr(self, name, getattr(former, name))
                return

    def _put_aside(self) -> None:
        if self.oldest is not None:
            boot = Boot(**{name: getattr(self, name) for name in Boot.__struct_fields__})
            self.former = [*self.former, boot][-_KEPT_BOOTS:]

    def _start(
        self, boot: int | str | None, sequence: int, values: Mapping[str, Value], *, restarted: bool
    ) -> None:
        self._put_aside()
        self.restarts += restarted
        self.boot = boot
        self.last = sequence
        self.seen = dict(values)
        self.missing = []
        # Without a boot id a lower number means another boot.
        self.early = [(0, sequence - 1)] if boot is not None and sequence else []
        self.oldest = None
        self.given_up = 0

    def _again(
        self, boot: int | str | None, sequence: int, values: Mapping[str, Value]
    ) -> set[str]:
        """The number of the last frame once more: a repeat, or the rest of what it holds."""
        known = self.seen.keys() & values.keys()
        if boot is None and any(self.seen[sensor] != values[sensor] for sensor in known):
            self._start(boot, sequence, values, restarted=True)
            return set(values)
        self.repeated += len(known)
        self.seen.update(values)
        return values.keys() - known

    def _has_room(self) -> bool:
        """Whether one more range can be remembered. Without acknowledgements always: the oldest
        is forgotten, since nobody will send it again."""
        if self.oldest is None:
            return True
        oldest = self.oldest
        self.missing = [gap for gap in self.missing if not _before(gap[1], oldest)]
        self.early = [gap for gap in self.early if not _before(gap[1], oldest)]
        return max(len(self.missing), len(self.early)) < _KEPT_RANGES

    def _skipped(self, first: int, last: int, count: int) -> None:
        self.gaps += 1
        self.lost += count
        self.missing = [*self.missing, (first % _MODULUS, last % _MODULUS)][-_KEPT_RANGES:]


def _before(first: int, second: int) -> bool:
    """Whether one number is lower than another, as RFC 1982 compares them."""
    return 0 < (second - first) % _MODULUS < _HALF


def _splits(ranges: list[tuple[int, int]], sequence: int) -> bool:
    """Whether one of the ranges has a number in the midst of it."""
    return any(
        0 < (sequence - first) % _MODULUS < (last - first) % _MODULUS for first, last in ranges
    )


def _taken(ranges: list[tuple[int, int]], sequence: int) -> bool:
    """Whether the ranges hold a number; they do not any more."""
    for index, (first, last) in enumerate(ranges):
        offset = (sequence - first) % _MODULUS
        length = (last - first) % _MODULUS
        if offset <= length:
            parts = []
            if offset > 0:
                parts.append((first, (sequence - 1) % _MODULUS))
            if offset < length:
                parts.append(((sequence + 1) % _MODULUS, last))
            ranges[index : index + 1] = parts
            return True
    return False
