"""Which of a device's frames are new, which are repeats, and which never came."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, field

from firmware_adapters.adapter import Value

_MODULUS = 2**32  # after 4294967295 comes 0
_HALF = _MODULUS // 2
_KEPT_RANGES = 64


class SequenceState(Struct):
    """What is known of one device's sequence numbers; stored with the readings it stands for.

    Numbers are compared by serial number arithmetic (RFC 1982). They count from anew with each
    `boot`. A device that does not name its boots is taken to have restarted when its numbers go
    back: losing a reading would be worse than keeping one twice.
    """

    boot: int | str | None = None
    last: int | None = None
    seen: dict[str, Value] = field(default_factory=dict)
    """The values that came with `last`."""
    missing: list[tuple[int, int]] = field(default_factory=list)
    """The latest ranges `(first, last)` of this boot that have not come (yet)."""
    early: list[tuple[int, int]] = field(default_factory=list)
    """What this boot may have sent before we listened: not missed, but welcome if it comes."""
    gaps: int = 0
    """How often numbers were left out."""
    lost: int = 0
    """Frames that have not come, less those that came late."""
    repeated: int = 0
    """Readings that came again, and were not stored again."""
    restarts: int = 0

    def accept(
        self, boot: int | str | None, sequence: int, values: Mapping[str, Value]
    ) -> set[str]:
        """Take note of a frame's values; returns the sensors whose value is new."""
        if self.last is None or boot != self.boot:
            return self._start(boot, sequence, values, restarted=self.last is not None)
        step = (sequence - self.last) % _MODULUS
        if step == 0:
            return self._again(boot, sequence, values)
        if step < _HALF:
            if step > 1:
                self._skipped(self.last + 1, sequence - 1, step - 1)
            self.last = sequence
            self.seen = dict(values)
            return set(values)
        if boot is None:
            return self._start(boot, sequence, values, restarted=True)
        if _taken(self.missing, sequence):
            self.lost -= 1
            return set(values)
        if _taken(self.early, sequence):
            self.early = self.early[-_KEPT_RANGES:]
            return set(values)
        self.repeated += len(values)
        return set()

    def _start(
        self, boot: int | str | None, sequence: int, values: Mapping[str, Value], *, restarted: bool
    ) -> set[str]:
        self.restarts += restarted
        self.boot = boot
        self.last = sequence
        self.seen = dict(values)
        self.missing = []
        # Without a boot id a lower number means another boot.
        self.early = [(0, sequence - 1)] if boot is not None and sequence else []
        return set(values)

    def _again(
        self, boot: int | str | None, sequence: int, values: Mapping[str, Value]
    ) -> set[str]:
        """The number of the last frame once more: a repeat, or the rest of what it holds."""
        known = self.seen.keys() & values.keys()
        if boot is None and any(self.seen[sensor] != values[sensor] for sensor in known):
            return self._start(boot, sequence, values, restarted=True)
        self.repeated += len(known)
        self.seen.update(values)
        return values.keys() - known

    def _skipped(self, first: int, last: int, count: int) -> None:
        self.gaps += 1
        self.lost += count
        self.missing = [*self.missing, (first % _MODULUS, last % _MODULUS)][-_KEPT_RANGES:]


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
